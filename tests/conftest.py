"""What the tests share: the repository, a clean environment for programs, and a browser."""

import os
import re
import shutil
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: let none of them use several
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "NO CHROMIUM: the book was not seen in a browser. Install chromium, or set CHROMIUM to its path."


def pytest_addoption(parser):
    """--earn-grants, after 'scratchlm tree --run --verify --but-grants', which leaves that to us."""
    parser.addoption("--earn-grants", action="store_true", help="fail where no test earns a grant")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Fail if a file that earns a grant has passed no test, as when all of them were skipped."""
    config = session.config
    if not config.getoption("--earn-grants") or hasattr(config, "workerinput"):
        return
    from scratchlm.workshop.tree import read_tree

    reporter = config.pluginmanager.get_plugin("terminalreporter")
    home = config.rootpath.relative_to(ROOT)
    passed = [(home / each.nodeid).as_posix() for each in reporter.stats.get("passed", [])]
    grants = [test for tech in read_tree(ROOT).techs.values() for test in tech.grants.values()]
    config.idle = [
        test
        for test in sorted(set(grants))
        if ".py" in test and not any(re.match(rf"{re.escape(test)}\b", name) for name in passed)
    ]
    if config.idle and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
    for test in getattr(terminalreporter.config, "idle", []):
        terminalreporter.line(f"{test}: none of its tests passed, so it earns no grant", red=True)
