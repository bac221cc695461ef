"""What the tests share: the repository, a clean environment for programs, and a browser."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "NO CHROMIUM: the book was not seen in a browser. Install chromium, or set CHROMIUM to its path."


def pytest_addoption(parser):
    """--but-grants, for who has just run 'scratchlm tree --run --verify'."""
    parser.addoption("--but-grants", action="store_true", help="leave out what earns grants")


def pytest_configure(config):
    """Find those files: the tree runs them with their chapters."""
    config.granted = set()
    if config.getoption("--but-grants"):
        from scratchlm.workshop.tree import read_tree

        tests = {test for tech in read_tree(ROOT).techs.values() for test in tech.grants.values()}
        config.granted = {ROOT / test for test in tests if test.endswith(".py")}


def pytest_ignore_collect(collection_path, config):
    """Leave them out."""
    return collection_path in config.granted or None


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment without what an outer make or Python leaves in it for the programs it starts."""
    left = ("MAKE", "MFLAGS", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SCRATCHLM_")
    ours = {"PORT", "PYTHON", "UV"}
    return {name: os.environ[name] for name in os.environ if name not in ours and not name.startswith(left)}


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; the test is skipped, loudly, where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(NO_BROWSER)


def pytest_terminal_summary(terminalreporter):
    """Say once, in a place that cannot be overlooked, that there was no browser."""
    skipped = [each for each in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(each.longrepr)]
    if skipped:
        terminalreporter.section("no browser", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests were skipped. {NO_BROWSER}")
