"""The committed tree keeps its own rules, and each way of breaking them gives one clear line."""

import json
import shutil
from pathlib import Path

import pytest

from scratchlm.workshop.generate import check_all
from scratchlm.workshop.rules import check_rules
from scratchlm.workshop.tree import TreeError, read_tree
from scratchlm.workshop.unlock import digests

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(request, tmp_path, monkeypatch):
    """A copy of what the check reads, to be spoiled. Only tests of drift export it again, which is slow."""
    if "drift" not in request.node.name:
        monkeypatch.setattr("scratchlm.workshop.generate.library_drift", lambda root: [])
    for name in ("nbs", "scratchlm", "tests/oracles"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for name in ("settings.ini", "_quarto.yml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def edit(path, change):
    """Let `change` alter the cells of a notebook, whose sources are strings."""
    notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    change(notebook["cells"])
    path.write_text(json.dumps(notebook), "utf-8")


def replace(old, new, type="code"):
    """A change that replaces text in the first cell of this type that has it."""

    def change(cells):
        cell = next(cell for cell in cells if cell["cell_type"] == type and old in cell["source"])
        cell["source"] = cell["source"].replace(old, new)

    return change


def test_the_committed_project_is_clean():
    assert check_all(ROOT) == []


def test_a_removed_prerequisite_is_an_error(copy):
    edit(copy / "nbs/foundations/autograd.ipynb", replace("requires: [derivative]", "requires: []", "raw"))
    problems = [line for lines in check_rules(read_tree(copy)).values() for line in lines]
    assert any(
        "autograd.ipynb" in line and "uses scratchlm.foundations.derivative" in line for line in problems
    )
    assert set(problems) <= set(check_all(copy))


def test_a_removed_chapter_is_an_error(copy):
    (copy / "nbs/foundations/derivative.ipynb").unlink()
    with pytest.raises(
        TreeError, match=r"nbs/foundations/autograd.ipynb: requires: unknown technology 'derivative'"
    ):
        read_tree(copy)
    assert len(check_all(copy)) >= 1


def test_torch_in_an_exported_cell_is_an_error(copy):
    edit(copy / "nbs/foundations/derivative.ipynb", replace("#| exports\n", "#| exports\nimport torch\n"))
    (line,) = [line for line in check_all(copy) if "torch" in line]
    assert (
        "nbs/foundations/derivative.ipynb: exported cell" in line
        and "uses torch, which no ancestor grants" in line
    )


def test_einsum_before_its_chapter_is_an_error(copy):
    edit(
        copy / "nbs/foundations/tensor.ipynb",
        lambda cells: cells.append(
            {
                "cell_type": "code",
                "id": "zz",
                "metadata": {},
                "outputs": [],
                "execution_count": None,
                "source": "import numpy as np\nnp.einsum('i->', np.ones(3))",
            }
        ),
    )
    assert any("uses numpy.einsum, which only einsum grants" in line for line in check_all(copy))


def test_an_edited_chapter_is_locked_with_all_that_rests_on_it(copy):
    edit(copy / "nbs/foundations/autograd.ipynb", replace("", "\n# a comment\n"))
    stale = [line for line in check_all(copy) if "has changed since its tests passed" in line]
    tree = read_tree(copy)
    below = {tree.techs[id].notebook for id in tree.descendants("autograd")} - {None}
    below |= {tree.techs["autograd"].notebook, copy / "nbs/index.ipynb"}
    assert {copy / line.split(":")[0] for line in stale} == below


def test_an_edited_module_is_drift(copy):
    module = copy / "scratchlm/foundations/derivative.py"
    module.write_text(module.read_text("utf-8") + "\n# by hand\n", "utf-8")
    (copy / "scratchlm/foundations/left_over.py").write_text("")
    assert [line for line in check_all(copy) if line.startswith("scratchlm/")] == [
        "scratchlm/foundations/derivative.py: differs from what its notebook exports: edit the notebook, "
        "run 'nbdev_export'",
        "scratchlm/foundations/left_over.py: no notebook exports this file: remove it",
    ]


def test_a_forged_record_is_noticed(copy):
    record = copy / "nbs/unlocked.json"
    entries = json.loads(record.read_text())
    entries["tensor"]["hash"] = "0" * 16
    entries["phlogiston"] = entries["einsum"]
    record.write_text(json.dumps(entries))
    problems = check_all(copy)
    assert "nbs/unlocked.json: phlogiston: no chapter has this id" in problems
    assert any(line.startswith("nbs/foundations/tensor.ipynb: has changed") for line in problems)


@pytest.mark.parametrize("text", ["[]", '{"tensor": 3}', '{"tensor": {"hash": "0"}}', "<<<<<<< HEAD"])
def test_a_record_that_is_none_is_one_clear_line(copy, text):
    (copy / "nbs/unlocked.json").write_text(text)
    (line,) = check_all(copy)
    assert line.startswith("nbs/unlocked.json: ") and line.endswith("run 'scratchlm tree --run'")


def test_a_module_is_part_of_what_the_record_vouches_for(copy):
    tree, module = read_tree(copy), copy / "scratchlm/foundations/derivative.py"
    before = digests(tree)
    module.write_text(module.read_text("utf-8") + "\n", "utf-8")
    changed = {id for id, digest in digests(tree).items() if digest != before[id]}
    written = {id for id, tech in tree.techs.items() if tech.notebook}
    assert changed == {"derivative"} | (tree.descendants("derivative") & written)


@pytest.mark.parametrize("name", ["nbs/notes.ipynb", "nbs/foundations/old/notes.ipynb"])
def test_a_stray_notebook_is_an_error(copy, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text('{"cells": []}')
    (line,) = check_all(copy)
    assert line.startswith(f"{name}: lies outside the eras: ")


@pytest.mark.parametrize("requires, why", [("tre", "unknown technology 'tre'"), ("rules", "a cycle: rules")])
def test_the_workshop_has_a_shape_too(copy, requires, why):
    change = replace("requires: [tree]", f"requires: [{requires}]", "raw")
    edit(copy / "nbs/workshop/rules.ipynb", change)
    (line,) = check_all(copy)
    assert line.startswith("nbs/workshop/rules.ipynb: requires: ") and why in line


def test_the_workshop_exports_to_its_own_modules(copy):
    change = replace("default_exp workshop.figure", "default_exp workshop.map")
    edit(copy / "nbs/workshop/figure.ipynb", change)
    assert any("figure.ipynb: implementation: must export" in line for line in check_all(copy))


@pytest.mark.parametrize("text", ["eras: [a]", "eras: {a: A}\nplanned: [x]",
                                  "eras: {a: A}\nplanned: [{id: b, era: , title: B, about: b}]"])
def test_a_plan_of_wrong_types_is_one_clear_line(copy, text):
    (copy / "nbs/techtree.yml").write_text(text)
    line, *_ = check_all(copy)
    assert line.startswith("nbs/techtree.yml: not a readable plan")


@pytest.mark.parametrize("name", ["nbs/foundations/tensor.ipynb", "nbs/unlocked.json", "nbs/techtree.yml"])
def test_a_truncated_file_is_one_clear_line(copy, name):
    path = copy / name
    path.write_text(path.read_text("utf-8")[:200], "utf-8")
    problems = check_all(copy)
    assert problems and name in problems[0] and "\n" not in problems[0]
