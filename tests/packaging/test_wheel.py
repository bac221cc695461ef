"""The wheel holds the library alone, and the library is light: NumPy, Typer, Rich and what they need."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = """
import json, re
from importlib.metadata import distributions
def name(text): return re.split(r"[^A-Za-z0-9._-]", text.strip())[0].replace("_", "-").lower()
print(json.dumps({name(d.metadata["Name"]): [name(r) for r in d.requires or [] if "extra ==" not in r]
                  for d in distributions()}))
"""
IMPORTED = """
import importlib, json, sys, time
before, start = set(sys.modules), time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
seconds, new = time.perf_counter() - start, {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([seconds, sorted(new - set(sys.stdlib_module_names))]))
"""


def run(*command, cwd, env, ok=True):
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, text=True, capture_output=True)
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory, environment):
    """The folder with a source distribution, and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("settings.ini", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "scratchlm", source / "scratchlm", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", cwd=source, env=environment)
    return source / "dist"


@pytest.fixture(scope="module")
def python(dist, tmp_path_factory, environment):
    """The Python of a new environment in which only the wheel was installed."""
    folder, wheel = tmp_path_factory.mktemp("clean"), next(dist.glob("*.whl"))
    if uv := shutil.which("uv"):
        run(uv, "venv", "--python", sys.executable, "env", cwd=folder, env=environment)
        run(uv, "pip", "install", "--python", "env/bin/python", wheel, cwd=folder, env=environment)
    else:
        run(sys.executable, "-m", "venv", "env", cwd=folder, env=environment)
        run("env/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=folder, env=environment)
    return folder / "env" / "bin" / "python"


def test_the_wheel_holds_the_library_alone(dist):
    names = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"scratchlm"}
    models = ROOT / "scratchlm" / "models"
    files = [*(ROOT / "scratchlm").rglob("*.py"), *(path for path in models.rglob("*") if path.is_file())]
    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == {
        str(path.relative_to(ROOT)) for path in files
    }
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_wheel_is_small_and_brings_a_model(dist, python, environment, tmp_path):
    assert next(dist.glob("*.whl")).stat().st_size < 8e6
    code = (
        "import scratchlm; lm = scratchlm.load('tiny'); "
        "print(lm.chat([{'role': 'user', 'content': 'def is_even(n)'}]))"
    )
    assert "def is_even" in run(python, "-I", "-c", code, cwd=tmp_path, env=environment).stdout


def test_the_source_distribution_can_be_built_from(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"settings.ini", "setup.py", "README.md", "LICENSE", "scratchlm/__init__.py"} <= names
    assert not {name for name in names if name.startswith(("nbs", "tests", "_"))}


def test_little_is_installed(python, environment, tmp_path):
    installed = json.loads(run(python, "-I", "-c", INSTALLED, cwd=tmp_path, env=environment).stdout)
    assert set(installed["scratchlm"]) == {"numpy", "typer", "rich", "httpx", "regex"}
    needed, ahead = set(), {"scratchlm"}
    while ahead:
        needed |= ahead
        ahead = {name for each in ahead for name in installed.get(each, ())} - needed
    assert set(installed) - needed <= {"pip", "setuptools", "wheel"}


def imported(python, environment, tmp_path, *modules):
    """How long importing the modules takes in a new process, and what third-party packages it brings."""
    return json.loads(run(python, "-I", "-c", IMPORTED, *modules, cwd=tmp_path, env=environment).stdout)


def test_import_is_quick_and_needs_numpy_only(python, environment, tmp_path):
    runs = [imported(python, environment, tmp_path, "scratchlm") for _ in range(6)]
    # the first run compiles; of the others the best counts, because a busy machine can only make it slower
    assert min(seconds for seconds, _ in runs[1:]) < 0.2
    assert set(runs[0][1]) <= {"scratchlm", "numpy"}


def needs_numba(module):
    """Whether a module of ours imports Numba, itself or through others."""
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        return False
    text, package = path.read_text(encoding="utf-8"), module.rpartition(".")[0]
    if re.search(r"^(from|import) (numba|llvmlite)", text, flags=re.M):
        return True
    names = re.findall(r"^from ([.\w]+) import", text, flags=re.M)
    found = [importlib.util.resolve_name(name, package) for name in names]
    return any(needs_numba(name) for name in found if name.startswith("scratchlm."))


def test_every_chapter_imports_with_little(python, environment, tmp_path):
    eras = [path.name for path in (ROOT / "nbs").iterdir() if path.is_dir() and path.name != "workshop"]
    modules = [f"scratchlm.{era}.{path.stem}" for era in eras
               for path in sorted((ROOT / "scratchlm" / era).glob("[!_]*.py"))]
    modules = [module for module in modules if not needs_numba(module)]  # which the extra [fast] brings
    assert "scratchlm.foundations.derivative" in modules and "scratchlm.inference.engine" not in modules
    assert "scratchlm.inference.kernels" in modules and "scratchlm.transformer.model_families" in modules
    brought = {name for name in imported(python, environment, tmp_path, *modules)[1] if "cython" not in name}
    assert brought <= {"scratchlm", "numpy", "regex"}  # NumPy's random numbers bring parts of Cython


def test_the_command_line_works(python, environment, tmp_path):
    program = python.with_name("scratchlm")
    assert "scratchlm tree --run" in run(program, "tree", "--help", cwd=tmp_path, env=environment).stdout
    assert run(program, "--version", cwd=tmp_path, env=environment).stdout.startswith("scratchlm ")
    for command in ("tree", "check"):
        outside = run(program, command, cwd=tmp_path, env=environment, ok=False)
        assert (outside.returncode, outside.stdout, outside.stderr.count("\n")) == (1, "", 1)
    assert "run this inside a clone" in run(program, "tree", cwd=tmp_path, env=environment, ok=False).stderr


@pytest.mark.parametrize("command", ["tree", "check", "book"])
def test_a_missing_package_names_the_extra(python, environment, command):
    inside = run(python.with_name("scratchlm"), command, cwd=ROOT, env=environment, ok=False)
    assert inside.returncode == 1 and inside.stderr.endswith('not installed: pip install "scratchlm[book]"\n')
    assert inside.stderr.count("\n") == 1


def test_what_an_interrupted_installation_left_is_thrown_away(python, environment, tmp_path):
    show = ("--eval", 'mend:;printf %s "$$MEND"', "mend")
    code = run("make", "-f", ROOT / "Makefile", *show, cwd=tmp_path, env=environment)
    copy = Path(shutil.copytree(python.parents[1], tmp_path / "env", symlinks=True))
    site = next(copy.glob("lib/python3*/site-packages"))
    os.remove(site / "mdurl" / "_parse.py")                # as if killed before it was written
    os.remove(next(site.glob("pygments-*")) / "RECORD")    # as if killed before the list of files was
    before = {path.name.partition("-")[0].lower() for path in site.glob("*.dist-info")}
    run(copy / "bin" / "python", "-I", "-c", code.stdout, cwd=tmp_path, env=environment)
    after = {path.name.partition("-")[0].lower() for path in site.glob("*.dist-info")}
    assert before - after == {"mdurl", "pygments"}
