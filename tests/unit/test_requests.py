"""The frozen requests in recipes/eval: their references pass, and no two of them are alike."""

import ast
import json
import math
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "recipes/eval/requests.jsonl"
ENTRIES = [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]
BUILT_IN = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset)


def kind(value) -> type:
    """The built-in type that a value is of, or is derived from."""
    return next((built_in for built_in in BUILT_IN if isinstance(value, built_in)), type(value))


def same(found, expected) -> bool:
    """Whether two values agree, with their types, and floats to 1e-6."""
    if kind(found) is not kind(expected):
        return False
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return (same(set(found), set(expected))
                and all(key in found and same(found[key], expected[key]) for key in expected))
    if isinstance(expected, (set, frozenset)):
        return len(found) == len(expected) and all(any(same(a, b) for a in found) for b in expected)
    return found == expected


def defined(code: str, name: str | None):
    """What the code defines under this name, or last if there is none."""
    names = [node.name for node in ast.parse(code).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    namespace = {}
    exec(code, namespace)
    return namespace[name or names[-1]]


def passes(target, test: dict) -> bool:
    """Whether a function or class passes a test; a script that fails raises."""
    if "script" in test:
        exec(test["script"], {"Entry": target})
        return True
    return same(target(*map(ast.literal_eval, test["args"])), ast.literal_eval(test["expect"]))


@pytest.mark.parametrize("found, expected, agree", [
    (1, 1, True), (True, 1, False), (1, 1.0, False), (0.1 + 0.2, 0.3, True), (0.301, 0.3, False),
    ([1, 2], [1, 2], True), ((1, 2), [1, 2], False), ([1, True], [1, 1], False), ([1], [1, 1], False),
    ({1, 2}, {2, 1}, True), ({1}, {True}, False), (Counter("aab"), {"a": 2, "b": 1}, True),
    ({"a": 1}, {"a": 1.0}, False), ({"a": 1, "b": 2}, {"a": 1}, False),
    (None, None, True), (None, False, False),
])
def test_values_are_compared_with_their_types(found, expected, agree):
    assert same(found, expected) is agree


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["id"])
def test_an_entry_is_whole_and_its_reference_passes(entry):
    assert list(entry) == ["id", "request", "entry", "level", "tests", "reference"]
    assert entry["entry"] is None or re.search(rf"\b{entry['entry']}\b", entry["request"])
    assert len({json.dumps(test) for test in entry["tests"]}) == len(entry["tests"]) >= 4
    target = defined(entry["reference"], entry["entry"])
    for test in entry["tests"]:
        assert list(test) in (["args", "expect"], ["script"])
        assert passes(target, test), test
    expected = {test["expect"] for test in entry["tests"] if "expect" in test}
    assert len(expected) != 1, "an answer that never looks at its arguments would pass"
    imported = set(re.findall(r"^(?:import|from) (\w+)", entry["reference"], re.M))
    assert imported <= {"math", "re", "collections"}


def test_a_wrong_answer_fails():
    wrong = defined("def other(): ...\n\ndef count_vowels(text):\n    return 2", None)
    assert [passes(wrong, test) for test in ENTRIES[0]["tests"]].count(True) == 1


def test_ids_and_levels():
    assert [entry["id"] for entry in ENTRIES] == [f"free/{number:03}" for number in range(1, 131)]
    assert Counter(entry["level"] for entry in ENTRIES) == {"easy": 50, "medium": 50, "hard": 30}


def test_no_two_requests_are_alike():
    words = {entry["id"]: set(re.findall(r"\w+", entry["request"].lower())) for entry in ENTRIES}
    alike = [(a, b) for a, b in combinations(words, 2)
             if len(words[a] & words[b]) > 0.8 * len(words[a] | words[b])]
    assert alike == []
