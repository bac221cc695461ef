"""The unlock run, with real kernels on copies of real chapters."""

import json
import shutil
from pathlib import Path

import pytest

from scratchlm.workshop import unlock
from scratchlm.workshop.tree import TreeError, read_tree
from scratchlm.workshop.unlock import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tmp_path):
    """A tree of two real chapters: derivative, made the root, and a planned successor."""
    shutil.copytree(ROOT / "scratchlm", tmp_path / "scratchlm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "nbs/foundations").mkdir(parents=True)
    for name in (
        "settings.ini",
        "nbs/references.bib",
        "nbs/foundations/python_numpy.ipynb",
        "nbs/foundations/derivative.ipynb",
    ):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "nbs/techtree.yml").write_text("eras: {foundations: Foundations}\nplanned: []\n")
    return tmp_path


def edit(path, old, new):
    notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace(old, new)
    path.write_text(json.dumps(notebook), "utf-8")


def pass_root(folder):
    """Record the slow root chapter as passed, so that only derivative is run."""
    from scratchlm.workshop.unlock import digests

    digest = digests(read_tree(folder))["python-numpy"]
    (folder / "nbs/unlocked.json").write_text(json.dumps({"python-numpy": {"hash": digest, "tests": 1}}))


def test_a_chapter_runs_and_is_recorded(small):
    pass_root(small)
    report = run(read_tree(small), progress=False)
    assert report.ok, report.as_json()
    assert (report.results["python-numpy"].status, report.results["derivative"].status) == (
        "cached",
        "passed",
    )
    again = run(read_tree(small), progress=False)
    assert {result.status for result in again.results.values()} == {"cached"}
    assert json.loads(again.as_json())["ok"] is True


def test_a_broken_test_is_one_clear_line(small):
    pass_root(small)
    edit(
        small / "nbs/foundations/derivative.ipynb",
        "assert abs(slope - (2 * a * x + b)) < 1e-8",
        "assert slope == 17.5",
    )
    report = run(read_tree(small), progress=False)
    failed = report.results["derivative"]
    assert (
        not report.ok
        and failed.status == "failed"
        and "AssertionError" in failed.message
        and "\n" not in failed.message
    )
    assert "derivative" not in json.loads((small / "nbs/unlocked.json").read_text())


def test_a_stale_output_is_noticed_and_saved(small):
    pass_root(small)
    path = small / "nbs/foundations/derivative.ipynb"
    edit(path, "by forward difference", "by the forward difference")
    report = run(read_tree(small), progress=False)
    assert "stored outputs of cells" in report.results["derivative"].message
    assert run(read_tree(small), save=True, progress=False).ok
    assert "by the forward difference\\n" in path.read_text("utf-8")
    assert run(read_tree(small), ["derivative"], verify=False, force=False, progress=False).ok


def test_verify_compares_with_the_record(small):
    edit(small / "nbs/foundations/python_numpy.ipynb", "", "")
    pass_root(small)
    record = small / "nbs/unlocked.json"
    assert run(read_tree(small), ["derivative"], progress=False).ok
    entries = json.loads(record.read_text())
    entries["derivative"]["tests"] += 1
    record.write_text(json.dumps(entries))
    before = record.read_text()
    report = run(read_tree(small), ["derivative"], verify=True, progress=False)
    assert any("nbs/unlocked.json: derivative: says" in line for line in report.untrue) and not report.ok
    assert record.read_text() == before


def test_unknown_ids_are_named(small):
    with pytest.raises(TreeError, match="'derivativ' is no chapter; did you mean 'derivative'?"):
        run(read_tree(small), ["derivativ"], progress=False)


def small_chapters(folder, **cells):
    """A tree of chapters that each have one cell more; what they print is stored empty."""
    for id, source in cells.items():
        notebook = json.loads((ROOT / "nbs/foundations/derivative.ipynb").read_text("utf-8"))
        first, title, *_ = notebook["cells"]
        code = first | {"cell_type": "code", "outputs": [], "execution_count": None}
        texts = [
            first | {"source": f"---\ntech: {{id: {id}, requires: [], grants: GRANTS}}\n---"},
            title | {"source": f"# {id} {{#sec-{id}}}\n\n> It does.\n\n## How\n\n" + "word " * 320},
            code | {"source": f"#| default_exp foundations.{id}"},
            code | {"source": "#| exports\ndef one():\n    return 1"},
            code | {"source": source, "metadata": {"tags": ["raises-exception", "skip-execution"]}},
            code | {"source": "def test_one():\n    assert one() == 1\n\ntest_one()"},
        ]
        for number, cell in enumerate(texts):
            cell["id"] = f"cell-{number}"
            grants = "{jax: tests/a.py, flax: tests/b.py}" if id == "granting" else "{}"
            cell["source"] = cell["source"].replace("GRANTS", grants)
        path = folder / f"nbs/foundations/{id}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook | {"cells": texts}), "utf-8")
    (folder / "settings.ini").write_text("")
    (folder / "nbs/techtree.yml").write_text("eras: {foundations: Foundations}\n")
    return folder


def test_what_kernels_do(tmp_path, monkeypatch):
    monkeypatch.setattr(unlock, "TIMEOUT", 3)
    small_chapters(
        tmp_path,
        dies="import os\nos._exit(3)",
        hangs="import time\ntime.sleep(60)",
        tagged="1 / 0",
        moves="import os\nos.chdir('/')",
    )
    results = run(read_tree(tmp_path), progress=False).results
    said = {id: (result.status, result.message[:36]) for id, result in results.items()}
    assert said == {
        "dies": ("failed", "cell cell-4: DeadKernelError: Kernel"),
        "hangs": ("failed", "cell cell-4: CellTimeoutError: A cel"),
        "tagged": ("failed", "cell cell-4, line 1 '1 / 0': ZeroDiv"),
        "moves": ("passed", ""),
    }
    assert list(json.loads((tmp_path / "nbs/unlocked.json").read_text())) == ["moves"]


def test_a_grant_is_not_earned_by_skipped_tests(tmp_path):
    small_chapters(tmp_path, granting="")
    (tmp_path / "tests").mkdir()
    test = "# scratchlm.foundations.granting\ndef test_it():\n    pass\n"
    (tmp_path / "tests/b.py").write_text(test)
    (tmp_path / "tests/a.py").write_text("import pytest\npytest.importorskip('nowhere')\n" + test)
    (result,) = run(read_tree(tmp_path), progress=False).results.values()
    assert result.message.startswith("tests/a.py: none of its tests ran")
    (tmp_path / "tests/a.py").write_text(test)
    (result,) = run(read_tree(tmp_path), progress=False).results.values()
    assert (result.status, result.tests) == ("passed", 3)
    (tmp_path / "tests/a.py").write_text(test + "    assert False\n")
    run(read_tree(tmp_path), force=True, progress=False)
    record = {"granting": {"hash": unlock.digests(read_tree(tmp_path))["granting"], "tests": 3}}
    (tmp_path / "nbs/unlocked.json").write_text(json.dumps(record))
    report = run(read_tree(tmp_path), verify=True, progress=False)
    assert report.results["granting"].status == "failed"
    report = run(read_tree(tmp_path), verify=True, but_grants=True, progress=False)
    assert report.ok and report.results["granting"].tests == 3  # as the record says


def test_long_cells_run_unless_only_the_record_is_verified(tmp_path):
    small_chapters(tmp_path, patient="#| long\nprint('a result')")
    assert run(read_tree(tmp_path), save=True, progress=False).ok
    path = tmp_path / "nbs/foundations/patient.ipynb"
    edit(path, "a result", "another")
    stored = path.read_text()
    digest = unlock.digests(read_tree(tmp_path))["patient"]
    (tmp_path / "nbs/unlocked.json").write_text(json.dumps({"patient": {"hash": digest, "tests": 1}}))
    assert run(read_tree(tmp_path), verify=True, progress=False).ok  # it did not run
    report = run(read_tree(tmp_path), force=True, progress=False)
    assert "are not current" in report.results["patient"].message
    assert path.read_text() == stored
    small_chapters(tmp_path, patient="#| long\nneeded = 1")
    edit(path, "assert one()", "assert needed == one()")
    assert run(read_tree(tmp_path), save=True, progress=False).ok
    report = run(read_tree(tmp_path), verify=True, progress=False)
    assert "NameError" in report.results["patient"].message and "line 2 " in report.results["patient"].message


def test_what_is_edited_during_the_run_has_not_passed(tmp_path):
    path = small_chapters(tmp_path, edits="") / "nbs/foundations/edits.ipynb"
    source = f"from pathlib import Path\np = Path({str(path)!r})\n"
    source += "_ = p.write_text(p.read_text().replace('=' * 2, '<='))"
    small_chapters(tmp_path, edits=source)
    report = run(read_tree(tmp_path), save=True, progress=False)
    assert "was edited while it ran" in report.results["edits"].message
    small_chapters(tmp_path, edits=source)
    assert run(read_tree(tmp_path), progress=False).ok
    assert unlock.states(read_tree(tmp_path)) == {"edits": "locked"}
