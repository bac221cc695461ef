"""The unlock run, with real kernels on copies of real chapters."""

import json
import shutil
from pathlib import Path

import pytest

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
