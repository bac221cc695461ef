"""The generator of instruction data: every fixed task, in all its styles, and what items promise."""

import ast
import random
import re

import pytest

from scratchlm.workshop.tasks import (
    FILES,
    check,
    check_task,
    draw_composition,
    fill_holes,
    fixed_item,
    fixed_tasks,
    frames,
    inputs,
    primitives,
    results_for,
    same_literal,
    sources,
    talk,
    tasks,
    ways_of_asking,
)


@pytest.mark.parametrize("family", FILES)
def test_styles_agree_whatever_fills_the_holes(family):
    of_family = [task for task in fixed_tasks().values() if task.family == family]
    assert len(of_family) > 30
    for task in of_family:
        for seed in range(3 if task.lets else 1):
            check_task(task, random.Random(f"{task.name} {seed}"))


def test_each_task_gives_items_that_pass_their_own_tests():
    for task in fixed_tasks().values():
        item = fixed_item(task, random.Random(task.name))
        assert check(item, item.code) == "", item
        assert len(item.request) + len(item.code) < 1500
        assert ways_of_asking(task) >= 8


def test_tests_tell_something():
    """Most tasks have more than one result, and empty inputs are tried where there can be some."""
    flat = [name for name, task in fixed_tasks().items() if not task.script and len(
        {result for _, result in fixed_item(task, random.Random(0)).tests}) < 2]
    assert len(flat) < 20, flat
    lists = [task for task in fixed_tasks().values() if task.family == "lists" and task.tries]
    assert sum(any("[]" in text or '""' in text for text in task.tries) for task in lists) > len(lists) / 2


def test_styles_of_compositions_agree():
    for seed in range(150):
        rng = random.Random(seed)
        c = draw_composition(rng)
        lets = dict(c.domain.lets)
        for each in (*c.filters, c.map, c.reduce):
            lets |= each.lets
        holes = fill_holes(lets, rng, frozenset())
        tries, found = inputs(c, holes, rng), []
        args = [arg for arg, _ in c.domain.args]
        for _, body in sources(c):
            for arg in args:
                body = body.replace("{" + arg + "}", arg)
            for hole, value in holes.items():
                body = body.replace(f"<{hole}>", value)
            code = f"def f({', '.join(args)}):\n{body}"
            found.append([result for _, result in results_for(code, "f", tries)])
        for other in found[1:]:
            assert all(map(same_literal, found[0], other)), (c.key, tries, found)
        assert not any(result.startswith("!") for result in found[0]), (c.key, tries, found)


def test_every_piece_is_used():
    seen = {kind: set() for kind in ("domain", "filter", "map", "reduce")}
    rng = random.Random(0)
    for _ in range(6000):
        c = draw_composition(rng)
        seen["domain"].add(c.domain.key)
        seen["filter"] |= {each.key for each in c.filters}
        seen["map"].add(c.map.key)
        seen["reduce"].add(c.reduce.key)
    for kind, pieces in primitives().items():
        assert {piece.key for piece in pieces} <= seen[kind]


def test_frames_and_talk_can_be_read():
    slots = {"do", "does", "doing", "Do", "Does", "thing", "q", "sig", "name", "args", "make", "say",
             "call", "out", "in"}
    for texts in frames().values():
        for text in set(texts):
            assert set(re.findall(r"\{(\w+)\}", text)) <= slots, text
    assert len(talk()) > 80 and len({answer for _, answer in talk()}) == 5


def test_all_code_is_python_of_moderate_width():
    for item in tasks(1, 600):
        if item.kind != "talk":
            ast.parse(item.code)
            assert max(map(len, item.code.split("\n"))) <= 140, item.code
