"""Exercises are proven twice, on real chapters; what is kept and what goes; and no kernel is left behind."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from small_tree import small_tree, write_notebook

from scratchlm.workshop.learn import EMPTY, LearnError, cheats, check, contract, learn, prepare, prove, strip
from scratchlm.workshop.rules import code_cells
from scratchlm.workshop.tree import read_notebook, read_tree

ROOT = Path(__file__).parents[2]
DERIVATIVE = ROOT / "nbs/foundations/derivative.ipynb"
CHAPTERS = sorted((ROOT / "nbs").glob("[a-z]*/*.ipynb"))


def test_derivative_is_proven_twice():
    assert prove(DERIVATIVE) == []


def test_a_reader_on_the_way(tmp_path):
    """An exercise with one function solved, one solved wrongly, and the rest untouched."""
    tree = read_tree(ROOT)
    path = prepare(tree, "derivative", tmp_path)
    assert "image/svg+xml" in path.read_text("utf-8"), "figures stay"
    notebook = read_notebook(path)
    solved = iter(["return (f(x + h) - f(x)) / h", "return (f(x + h) - f(x)) / (2 * h)"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "_difference(f" in cell["source"] and EMPTY in cell["source"]:
            cell["source"] = cell["source"].replace(EMPTY, next(solved))
    path.write_text(json.dumps(notebook), "utf-8")
    report = check(path, tree)
    status = {line.name: line.status for line in report.lines}
    assert status["forward_difference"] == status["central_difference"] == "written"
    assert status["numeric_gradient"] == status["gradcheck"] == "not yet"
    assert status["test_central_is_exact_for_parabolas"] == "failed"
    assert status["test_edge_cases"] == "not reached"
    assert not report.ok and report.progress == (2, 9)
    assert json.loads(report.as_json())["ok"] is False


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_can_be_emptied(path):
    notebook = read_notebook(path)
    stripped = strip(notebook)
    agreed = stripped["metadata"]["scratchlm"]
    assert agreed == contract(notebook) and agreed["functions"]
    assert cheats(notebook, agreed["module"]) == []
    for before, after in zip(notebook["cells"], stripped["cells"], strict=True):
        assert before["id"] == after["id"]
        if before["cell_type"] != "code" or not any(c.exported for c in code_cells({"cells": [before]})):
            assert before == after
            continue
        assert docstrings(before["source"]) == docstrings(after["source"])
        kept = re.sub(rf"{re.escape(EMPTY)}$", "", after["source"], flags=re.M).split()
        everything = iter(before["source"].split())
        assert all(word in everything for word in kept), "what stays was there, in the same order"
    assert strip(stripped)["cells"] == stripped["cells"]


def docstrings(source):
    """The docstrings of functions, classes and methods."""
    found, level = [], ast.parse(source).body
    for node in level:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(ast.get_docstring(node))
            level += node.body if isinstance(node, ast.ClassDef) else []
    return found


def test_readers_keep_the_import_rule(tmp_path):
    root = small_tree(tmp_path, {"fire": {}, "wheel": {"requires": ["fire"]}, "axe": {}})
    tree = read_tree(root)
    path = prepare(tree, "wheel")
    good = read_notebook(path)
    for line, refusal in [("from scratchlm.old.fire import fire_one", None), ("import math", None),
                          ("from scratchlm.old import wheel", "the very module"),
                          ("import scratchlm.old.axe", "'axe' is not among its ancestors"),
                          ("import torch", "uses torch, which no ancestor grants")]:
        notebook = json.loads(json.dumps(good))
        notebook["cells"][-1]["source"] = line + "\n" + notebook["cells"][-1]["source"]
        found = cheats(notebook, "scratchlm.old.wheel", tree)
        assert (found == []) if refusal is None else refusal in found[0]
    own = json.loads(json.dumps(good))
    own["cells"][-1]["source"] = "from hypothesis import given"
    source = "#| exports\ndef f(given):\n    return given"
    own["cells"].append(own["cells"][-1] | {"id": "own", "source": source})
    assert cheats(own, "scratchlm.old.wheel", tree) == []
    path.write_text(json.dumps(notebook))
    report = check(path, tree)
    assert not report.ok and [line.kind for line in report.lines] == ["rule"], "nothing is run"


def test_the_command(tmp_path, monkeypatch, capsys):
    root = small_tree(tmp_path / "clone", {"steam-engine": {}}, planned=[{"id": "rocket"}])
    monkeypatch.chdir(root / "nbs")
    with pytest.raises(LearnError, match="'scratchlm learn steam-engine' makes it"):
        learn("steam-engine", check_it=True)
    assert learn("steam-engine") == 0
    assert "learn/steam-engine.ipynb is yours" in capsys.readouterr().out
    with pytest.raises(LearnError, match="may hold your work"):
        learn("steam-engine")
    assert learn("steam-engine", check_it=True) == 1
    assert "0 of 2 done" in capsys.readouterr().out
    path = root / "learn/steam-engine.ipynb"
    path.write_text(path.read_text("utf-8").replace(json.dumps(EMPTY)[1:-1], "return 1"), "utf-8")
    assert learn("steam-engine", check_it=True) == 0
    assert "all done" in capsys.readouterr().out
    with pytest.raises(LearnError, match="no chapter 'steam-engin'; did you mean 'steam-engine'"):
        learn("steam-engin", check_it=True)
    with pytest.raises(LearnError, match="planned, but not written"):
        learn("rocket")


def test_what_is_no_chapter_is_refused(tmp_path):
    with pytest.raises(LearnError, match="no '#| default_exp".replace("|", r"\|")):
        check(write_notebook(tmp_path / "notes.ipynb", ("code", "1 + 1")))


def test_ctrl_c_leaves_no_kernel(tmp_path):
    note = tmp_path / "pid"
    path = write_notebook(tmp_path / "endless.ipynb", ("code", "#| default_exp old.endless"), (
        "code", f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"))
    program = textwrap.dedent(f"""
        import signal

        from scratchlm.workshop.learn import check

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
        try:
            check({str(path)!r})
        except KeyboardInterrupt:
            print("stopped")
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: note.exists() and note.read_text())
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "stopped\n"
    finally:
        process.kill()
    wait_until(lambda: not alive(int(note.read_text())))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc").is_dir()


def wait_until(condition, seconds: float = 60):
    """Wait for something to become true; fails if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
