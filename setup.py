"""How the library is packaged. Every fact stands in settings.ini; this file only reads it."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
facts = config["DEFAULT"]
lists = {name: needs.split() for name, needs in facts.items() if name.endswith("_requirements")}
extras = {name.removesuffix("_requirements"): needs for name, needs in lists.items()}
extras["book"] += extras["fast"]
extras["check"] += extras["book"]
extras["dev"] += extras["check"]
extras["edit"] += extras["book"]

setup(
    name=facts["lib_name"],
    version=facts["version"],
    description=facts["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=facts["author"],
    url=facts["git_url"],
    license="Apache-2.0",
    keywords=facts["keywords"],
    packages=find_packages(include=["scratchlm", "scratchlm.*"]),
    include_package_data=True,
    python_requires=f">={facts['min_python']}",
    install_requires=facts["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": facts["console_scripts"].split(),
        "nbdev": ["scratchlm=scratchlm._modidx:d"],
    },
    zip_safe=False,
)
