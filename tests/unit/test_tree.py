"""The shape of the tree: each way to break it is refused for that reason, and its good twin is accepted."""

import pytest
from small_tree import chapter, small_tree, write_notebook

from scratchlm.workshop.tree import TreeError, check_order, find_root, read_tree, reading_order

GOOD = {"fire": {}, "wheel": {"requires": ["fire"]}, "steam-engine": {"era": "new", "requires": ["wheel"]}}


def with_(id, **options):
    """The good tree with some options of one chapter changed, or with one chapter more."""
    return GOOD | {id: GOOD.get(id, {}) | options}


def refused(root) -> list[str]:
    """The problems for which the tree is refused; fails if it is accepted."""
    with pytest.raises(TreeError) as caught:
        read_tree(root)
    assert all("\n" not in line and str(root) not in line for line in caught.value.problems)
    return caught.value.problems


def test_the_good_tree_is_accepted(tmp_path):
    root = small_tree(tmp_path, GOOD | {"hammer": {"era": "workshop", "kind": "workshop"}},
                      planned=[{"id": "rocket", "requires": ["steam-engine"]}])
    tree = read_tree(root)
    assert list(tree.workshop) == ["hammer"]
    assert [tech.id for tech in reading_order(tree)] == ["fire", "wheel", "steam-engine", "rocket"]
    assert tree.ancestors("rocket") == {"fire", "wheel", "steam-engine"}
    engine = tree.techs["steam-engine"]
    assert (engine.title, engine.about) == ("The steam-engine", "It does what steam-engine does.")
    assert engine.module == "scratchlm.new.steam_engine"
    assert tree.techs["rocket"].notebook is None and engine.notebook == root / "nbs/new/steam_engine.ipynb"


WHEEL = "nbs/old/wheel.ipynb"
STEAM = "nbs/new/steam_engine.ipynb"
TITLE = (f"{WHEEL}: title: the first markdown cell must be '# Title {{#sec-wheel}}', an empty line, "
         "and '> one line that says what it does'")

# name: (the bad chapters, the planned ones, how the complaint begins, the same done right, its planned ones)
PAIRS = {
    "an unknown id": (
        with_("wheel", requires=["fyre"]), [],
        f"{WHEEL}: requires: unknown technology 'fyre'; did you mean 'fire'?",
        with_("wheel", requires=["fire"]), []),
    "an unknown id like no other": (
        with_("wheel", requires=["quantum"]), [],
        f"{WHEEL}: requires: unknown technology 'quantum'",
        with_("wheel", requires=[]), []),
    "a later era": (
        with_("wheel", requires=["steam-engine"]) | {"steam-engine": {"era": "new"}}, [],
        f"{WHEEL}: requires: 'steam-engine' belongs to a later era (new)",
        with_("wheel", era="new", requires=["steam-engine"]) | {"steam-engine": {"era": "new"}}, []),
    "an unknown era": (
        with_("steam-engine", era="never"), [],
        "nbs/never/steam_engine.ipynb: era: unknown era 'never'",
        with_("steam-engine", era="new"), []),
    "a misspelt era": (
        with_("steam-engine", era="knew"), [],
        "nbs/knew/steam_engine.ipynb: era: unknown era 'knew'; did you mean 'new'?",
        with_("steam-engine", era="new"), []),
    "written on top of what is planned": (
        with_("steam-engine", requires=["wheel", "boiler"]), [{"id": "boiler"}],
        f"{STEAM}: requires: 'boiler' is planned, but not written yet",
        with_("steam-engine", requires=["wheel", "boiler"]) | {"boiler": {"era": "new"}}, []),
    "planned and written": (
        GOOD, [{"id": "wheel", "era": "old"}],
        "nbs/techtree.yml: id: 'wheel' is written: take it off the plan",
        GOOD, [{"id": "wheel-barrow"}]),
    "planned twice": (
        GOOD, [{"id": "rocket"}, {"id": "rocket"}],
        "nbs/techtree.yml: id: 'rocket' is ",
        GOOD, [{"id": "rocket"}]),
    "an unknown field": (
        with_("wheel", require=["fire"]), [],
        f"{WHEEL}: require: unknown field; did you mean 'requires'?",
        with_("wheel", year=-3500, paper=None, grants={}, upgrades=[]), []),
    "a field of the wrong type": (
        with_("wheel", year="long ago"), [],
        f"{WHEEL}: year: must be of type int, not 'long ago'",
        with_("wheel", year=-3500), []),
    "a missing field": (
        with_("wheel", front="---\ntech:\n  id: wheel\n---"), [],
        f"{WHEEL}: requires: is missing from the front matter",
        with_("wheel", front="---\ntech:\n  id: wheel\n  requires: []\n---"), []),
    "front matter that is a word": (
        with_("wheel", front="---\ntech: wheel\n---"), [],
        f"{WHEEL}: front matter: the first cell must be a raw cell with",
        with_("wheel", front="---\ntech: {id: wheel, requires: []}\n---"), []),
    "another title": (
        with_("wheel", title="# The wheel {#sec-weel}\n\n> It rolls."), [],
        TITLE,
        with_("wheel", title="# Round things {#sec-wheel}\n\n> They roll."), []),
    "no description": (
        with_("wheel", title="# The wheel {#sec-wheel}\n\nIt rolls."), [],
        TITLE,
        with_("wheel", title="# The wheel {#sec-wheel}\n\n> It rolls."), []),
    "a file with another name": (
        with_("wheel", file="old/weel.ipynb"), [],
        "nbs/old/weel.ipynb: id: 'wheel' does not go with the file name 'weel.ipynb'",
        with_("wheel", file="old/wheel.ipynb"), []),
    "a file name with a hyphen": (
        with_("steam-engine", file="new/steam-engine.ipynb"), [],
        "nbs/new/steam-engine.ipynb: id: 'steam-engine' does not go with the file name 'steam-engine.ipynb'",
        with_("steam-engine", file="new/steam_engine.ipynb"), []),
    "a planned row that needs nothing known": (
        GOOD, [{"id": "rocket", "requires": ["whel"]}],
        "nbs/techtree.yml: rocket: requires: unknown technology 'whel'; did you mean 'wheel'?",
        GOOD, [{"id": "rocket", "requires": ["wheel"]}]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_refused_for_the_right_reason_and_its_twin_accepted(tmp_path, name):
    bad, bad_plan, complaint, good, good_plan = PAIRS[name]
    problems = refused(small_tree(tmp_path / "bad", bad, planned=bad_plan))
    assert problems[0].startswith(complaint)
    # a chapter that cannot be read is missed by the one that needs it; nothing else is wrong
    assert problems[1:] in ([], [f"{STEAM}: requires: unknown technology 'wheel'"])
    tree = read_tree(small_tree(tmp_path / "good", good, planned=good_plan))
    assert {"fire", "wheel", "steam-engine"} <= set(tree.techs)


@pytest.mark.parametrize("ring", [["fire"], ["fire", "wheel"], ["fire", "wheel", "axe", "rope", "boat"]])
def test_a_cycle_is_spelled_out(tmp_path, ring):
    needs = dict(zip(ring, ring[1:] + ring[:1], strict=True))
    chapters = {id: {"requires": [needed]} for id, needed in needs.items()} | {"alone": {}}
    (problem,) = refused(small_tree(tmp_path, chapters))
    where, field, _, path = problem.removesuffix(" (each requires the next)").split(": ", 3)
    assert field == "requires" and where in {f"nbs/old/{id}.ipynb" for id in ring}
    path = path.split(" -> ")
    assert len(path) == len(ring) + 1 and path[0] == path[-1] and set(path) == set(ring)
    assert all(needs[one] == other for one, other in zip(path, path[1:], strict=False))
    del needs[ring[-1]]
    chain = {id: {"requires": [needs[id]] if id in needs else []} for id in ring}
    assert set(read_tree(small_tree(tmp_path / "chain", chain)).techs) == set(ring)


def test_a_duplicate_id(tmp_path):
    root = small_tree(tmp_path, with_("steam-engine"))
    write_notebook(root / "nbs/new/wheel.ipynb", *chapter("wheel", era="new"))
    assert refused(root) == ["nbs/old/wheel.ipynb: id: 'wheel' is used twice"]
    (root / "nbs/new/wheel.ipynb").rename(root / "nbs/new/wheel.txt")
    read_tree(root)


@pytest.mark.parametrize("front", ["---\ntech:\n  id: wheel\n  requires: [fire\n---",
                                   "---\ntech: {id: wheel: 1}\n---", "---\ntech:\n\t- id\n---"])
def test_bad_yaml(tmp_path, front):
    problems = refused(small_tree(tmp_path, with_("wheel", front=front)))
    assert problems[0].startswith(f"{WHEEL}: front matter: not valid YAML: ")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}'])
def test_what_is_no_notebook(tmp_path, text):
    root = small_tree(tmp_path, GOOD)
    (root / WHEEL).write_text(text)
    assert refused(root)[0].startswith(f"{WHEEL}: not a readable notebook")


ROW = "id: x, era: old, requires: [], title: X, about: x"


@pytest.mark.parametrize("text", ["", "eras: [", "planned: []", "eras: {old: Old}\nplanned: [{id: x}]",
                                  f"eras: {{old: Old}}\nplanned: [{{{ROW}, colour: red}}]"])
def test_what_is_no_plan(tmp_path, text):
    root = small_tree(tmp_path, GOOD)
    (root / "nbs/techtree.yml").write_text(text)
    assert "nbs/techtree.yml: not a readable plan" in refused_anywhere(root)


def refused_anywhere(root) -> str:
    with pytest.raises(TreeError) as caught:
        read_tree(root)
    return str(caught.value)


def test_all_problems_are_told_at_once(tmp_path):
    bad = {"fire": {"requires": ["sun"]}, "wheel": {"year": "x"},
           "steam-engine": {"era": "new", "title": "# Steam"}}
    problems = refused(small_tree(tmp_path, bad))
    assert len(problems) == 3
    assert {line.split(":")[0] for line in problems} == {"nbs/old/fire.ipynb", WHEEL, STEAM}


def test_the_order_of_the_book(tmp_path):
    tree = read_tree(small_tree(tmp_path, GOOD))
    assert check_order(tree, ["fire", "wheel", "steam-engine"]) == []
    assert check_order(tree, ["wheel", "fire", "steam-engine"]) == [
        "_quarto.yml: chapters: 'wheel' comes before 'fire', which it requires"]
    assert len(check_order(tree, ["steam-engine", "wheel", "fire"])) == 2


def test_the_root_is_found_from_below(tmp_path):
    root = small_tree(tmp_path / "clone", GOOD)
    assert find_root(root / "nbs/old") == root
    with pytest.raises(TreeError, match="run this inside a clone"):
        find_root(tmp_path)


def test_folders_that_are_made_are_not_read(tmp_path):
    root = small_tree(tmp_path, GOOD)
    for folder in (".ipynb_checkpoints", "_proc"):
        write_notebook(root / "nbs" / folder / "wheel.ipynb", *chapter("wheel"))
    assert set(read_tree(root).techs) == set(GOOD)
