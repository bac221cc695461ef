"""make's set-up: what it finds, what it refuses, how it resumes. Python, pip and uv are stand-ins."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ["bash", "sh", "cat", "rm", "mkdir", "touch", "sed", "expand", "cp", "find", "git"]
FAKE_PYTHON = """#!/bin/sh
# A Python that has a version, makes environments of nothing, and whose pip writes down what it was asked for.
case "$*" in
*version_info*) echo ${FAKE_VERSION:-3 11} ;;
*ensurepip*) exit ${FAKE_ENSUREPIP:-0} ;;
"-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >> log; exit ${FAKE_VENV:-0} ;;
*"pip install"*) echo "$*" | sed 's/.*-e /pip /' >> log; exit ${FAKE_PIP:-0} ;;
-V) echo Python 3.11.0 ;;
esac
"""
FAKE_UV = """#!/bin/sh
case "$1" in venv) mkdir -p .venv/bin; cp ../bin/python3 .venv/bin/python ;; esac
echo "uv $1" >> log
"""


class Clone:
    """A folder with the Makefile, and a PATH on which nothing else is found than what is put there."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.bin = folder / "clone", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        for name in ("Makefile", "settings.ini", "setup.py"):
            shutil.copy(ROOT / name, self.folder)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.environment = environment | {"PATH": str(self.bin), "HOME": str(folder)}
        self.make_program = shutil.which("make")
        self.put("python3", FAKE_PYTHON)

    def put(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def make(self, *arguments, **variables):
        command, environment = [self.make_program, *arguments], self.environment | variables
        return subprocess.run(command, cwd=self.folder, env=environment, text=True, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=60)

    def fails(self, *arguments, **variables) -> str:
        """The one line, besides make's own closing line, with which this fails."""
        done = self.make(*arguments, **variables)
        ours = [line for line in done.stderr.splitlines() if "***" not in line]
        assert done.returncode == 2 and len(ours) == 1, done.stdout + done.stderr
        return ours[0]

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def clone(tmp_path, environment):
    return Clone(tmp_path, environment)


def test_make_alone_lists_the_commands(clone):
    done = clone.make()
    assert done.returncode == 0 and not done.stderr and not clone.log()
    for command in ("run", "test", "check", "book", "edit", "outputs", "clean"):
        assert f"  {command} " in done.stdout


def test_a_python_too_old(clone):
    line = clone.fails("run", FAKE_VERSION="3 10")
    assert line.startswith("make: no Python 3.11 or newer found (python3 is Python 3.10)")
    assert "PYTHON=" in line
    assert not (clone.folder / ".venv").exists()


def test_no_python_at_all(clone):
    (clone.bin / "python3").unlink()
    assert "no Python 3.11 or newer found: install" in clone.fails("run")
    assert "no Python 3.11 or newer found: install" in clone.fails("run", "PYTHON=/nowhere/python3")


def test_a_newer_python_is_preferred_to_one_too_old(clone):
    clone.put("python3.12", FAKE_PYTHON.replace("${FAKE_VERSION:-3 11}", "3 12"))
    clone.put("python3", FAKE_PYTHON.replace("${FAKE_VERSION:-3 11}", "3 9"))
    assert clone.make(".venv/.made").returncode == 0
    assert "echo 3 12" in (clone.folder / ".venv/bin/python").read_text()


def test_a_python_that_is_known_to_work_is_preferred_to_a_newer_one(clone):
    clone.put("python3", FAKE_PYTHON.replace("${FAKE_VERSION:-3 11}", "3 15"))
    assert clone.make(".venv/.made").returncode == 0
    clone.put("python3.13", FAKE_PYTHON.replace("${FAKE_VERSION:-3 11}", "3 13"))
    assert clone.make("distclean", ".venv/.made").returncode == 0
    assert "echo 3 13" in (clone.folder / ".venv/bin/python").read_text()


def test_a_python_without_venv_says_what_to_install(clone):
    assert "apt install python3-venv" in clone.fails("run", FAKE_ENSUREPIP="1")


def test_a_taken_port_is_noticed_before_anything_else(clone):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = clone.fails("run", f"PORT={port}")
    assert line.startswith(f"make: port {port} is taken") and f"PORT={port + 1}" in line
    assert clone.log() == []


@pytest.mark.parametrize("port", ["", "abc", "0", "65536", "80a"])
def test_a_port_that_is_none(clone, port):
    assert f"must be a number from 1 to 65535, not '{port}'" in clone.fails("run", f"PORT={port}")


def test_stages_are_installed_once_each(clone):
    assert clone.make(".venv/.book").returncode == 0
    assert clone.log() == ["venv", "pip .[book]"]
    assert clone.make(".venv/.dev").returncode == 0
    assert clone.log() == ["venv", "pip .[book]", "pip .[dev]"]
    assert clone.make(".venv/.dev", ".venv/.check", ".venv/.book").returncode == 0 and len(clone.log()) == 3


def test_a_stage_implies_those_before_it(clone):
    assert clone.make(".venv/.dev", ".venv/.check", ".venv/.book").returncode == 0
    assert clone.log() == ["venv", "pip .[dev]"]


def test_new_requirements_are_installed(clone):
    clone.make(".venv/.book")
    later = (clone.folder / ".venv/.book").stat().st_mtime + 10
    os.utime(clone.folder / "settings.ini", (later, later))
    assert clone.make(".venv/.book").returncode == 0 and clone.log() == ["venv", "pip .[book]", "pip .[book]"]


def test_an_interrupted_installation_is_resumed(clone):
    failed = clone.make(".venv/.book", FAKE_PIP="1")
    assert failed.returncode == 2 and "the same command resumes it" in failed.stderr
    assert not (clone.folder / ".venv/.book").exists()
    again = clone.make(".venv/.book")
    assert again.returncode == 0 and "resuming" in again.stdout
    assert clone.log() == ["venv", "pip .[book]", "pip .[book]"]  # the environment itself was whole


def test_a_half_made_environment_is_made_anew(clone):
    assert clone.make(".venv/.book", FAKE_VENV="1").returncode == 2
    assert (clone.folder / ".venv/bin/python").exists()
    assert clone.make(".venv/.book").returncode == 0 and clone.log() == ["venv", "venv", "pip .[book]"]


def test_a_moved_clone_gets_a_new_environment(clone):
    clone.make(".venv/.book")
    clone.folder = clone.folder.rename(clone.folder.with_name("a new place"))
    assert clone.make(".venv/.book").returncode == 0 and clone.log() == ["venv", "pip .[book]"] * 2


def test_another_python_gets_a_new_environment(clone):
    clone.make(".venv/.book")
    clone.put("python9", FAKE_PYTHON.replace("${FAKE_VERSION:-3 11}", "3 12"))
    assert clone.make(".venv/.book", "PYTHON=python3").returncode == 0 and len(clone.log()) == 2
    assert clone.make(".venv/.book", "PYTHON=python9").returncode == 0 and len(clone.log()) == 4


def test_uv_is_used_where_it_is(clone):
    clone.put("uv", FAKE_UV)
    assert clone.make(".venv/.book").returncode == 0 and clone.log() == ["uv venv", "uv pip"]
    assert clone.make("distclean").returncode == 0
    assert clone.make(".venv/.book", "UV=").returncode == 0 and clone.log()[2:] == ["venv", "pip .[book]"]
