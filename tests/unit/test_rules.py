"""The four rules, on notebooks on disk: each way to break one is refused for that reason, its twin is not."""

import re

import pytest
from small_tree import small_tree

from scratchlm.workshop.rules import check_rules
from scratchlm.workshop.tree import read_tree

EXPORT = "#| exports\n{}\n\ndef wheel_one():\n    return 1"
TEST = "def test_wheel():\n    assert wheel_one() == 1\n\ntest_wheel()"
FIRE = {"grants": {"numpy": "test_fire", "torch.nn.functional.softmax": "test_fire"}}


def verdict(tmp_path, wheel: dict, fire: dict | None = None) -> list[str]:
    """The broken rules of a tree fire <- wheel <- saw, with `log` beside wheel, which grants numpy.einsum."""
    root = small_tree(tmp_path, {
        "fire": FIRE | (fire or {}),
        "log": {"requires": ["fire"], "grants": {"numpy.einsum": "test_log"}},
        "wheel": {"requires": ["fire"]} | wheel,
        "saw": {"requires": ["wheel"]},
    })
    found = check_rules(read_tree(root))
    assert found["saw"] == found["log"] == []
    return found["wheel"] + found["fire"]


def exporting(code: str) -> dict:
    return {"export": EXPORT.format(code)}


def showing(code: str) -> dict:
    return {"cells": [("code", code)]}


# name: (the bad chapter, what the one complaint must contain, the good twin)
PAIRS = {
    "an ungranted package": (exporting("import scipy"), "uses scipy, which no ancestor grants",
                             exporting("import json")),
    "more than the feature": (exporting("import torch\nx = torch.tensor(1)"), "uses torch.tensor",
                              exporting("import torch\nx = torch.nn.functional.softmax")),
    "a neighbour of the feature": (exporting("from torch.nn.functional import gelu"),
                                   "uses torch.nn.functional.gelu",
                                   exporting("from torch.nn.functional import softmax")),
    "the package of the feature itself": (exporting("import torch\nx = torch"),
                                          "uses torch, which no ancestor grants",
                                          exporting("import torch")),
    "a feature reserved for another chapter": (
        exporting("import numpy as np\nx = np.einsum"), "uses numpy.einsum, which only log grants",
        exporting("import numpy as np\nx = np.zeros")),
    "a chapter that is earlier but no ancestor": (
        exporting("from scratchlm.old.log import log_one"), "but 'log' is not among its ancestors",
        exporting("from scratchlm.old.fire import fire_one")),
    "a later chapter": (
        showing("from scratchlm.old.saw import saw_one"), "but 'saw' is not among its ancestors",
        showing("from scratchlm.old.wheel import wheel_one")),
    "a relative import of a stranger": (exporting("from .log import log_one"), "'log' is not among",
                                        exporting("from .fire import fire_one")),
    "its own module": (exporting("from .wheel import wheel_one as w"), "'wheel' is not among its ancestors",
                       showing("from scratchlm.old.wheel import wheel_one as w")),
    "a module that is none": (exporting("from scratchlm.old.lever import x"), "which is no chapter",
                              exporting("from scratchlm.old.fire import x")),
    "an import inside a function": (exporting("def f():\n    import jax"), "uses jax",
                                    exporting("def f():\n    import math")),
    "an import for type checkers only": (
        exporting("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import jax"), "uses jax",
        exporting("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy")),
    "importlib": (exporting("import importlib\nx = importlib.import_module('jax')"), "uses jax",
                  exporting("import importlib\nx = importlib.import_module('numpy')")),
    "__import__": (exporting("x = __import__('jax')"), "uses jax", exporting("x = __import__('math')")),
    "an import that nobody can read": (exporting("x = __import__('ja' + 'x')"), "not a constant",
                                       exporting("x = __import__('math')")),
    "getattr": (exporting("import numpy as np\nx = getattr(np, 'einsum')"), "which only log grants",
                exporting("import numpy as np\nx = getattr(np, 'zeros')")),
    "a second name for a module": (exporting("import numpy as np\nxp = np\nx = xp.einsum"), "which only log",
                                   exporting("import numpy as np\nxp = np\nx = xp.zeros")),
    "a name that is bound twice": (exporting("import math as np\nimport numpy as np\nx = np.einsum"),
                                   "which only log", exporting("import numpy as np\nx = np.pi")),
    "a try for something better": (exporting("try:\n    import jax\nexcept ImportError:\n    jax = None"),
                                   "uses jax", exporting("try:\n    import numpy\nexcept ImportError: pass")),
    "an import under an f-string": (exporting("import importlib\nimportlib.import_module(f'jax')"),
                                    "not a constant", exporting("import importlib")),
    "importorskip": (showing("import pytest\njax = pytest.importorskip('jax')"), "uses jax",
                     showing("import pytest\npytest.importorskip('numpy')")),
    "an annotation": (exporting("import torch\ndef f(x: torch.Tensor): pass"), "uses torch.Tensor",
                      exporting("def f(x: 'torch.Tensor'): pass")),
    "a default argument": (exporting("import numpy as np\ndef f(g=np.einsum): pass"), "which only log",
                           exporting("def f(np): return np.einsum")),
    "a star": (exporting("from numpy import *"), "name what you need", exporting("from numpy import pi")),
    "a magic": (showing("%run other.ipynb"), "notebook magic", showing("x = ('%s'\n     % 1)")),
    "a shell": (showing("if True:\n    !pip install jax"), "notebook magic", showing("x = '!pip'")),
    "an export with a space": ({"export": "# | export\nimport pytest\ndef wheel_one():\n    return 1"},
                               "uses pytest", showing("import pytest\n#| export")),
    "an export without one": ({"export": "#|exports:\nimport pytest\ndef wheel_one():\n    return 1"},
                              "uses pytest", {"export": "#|exports:\ndef wheel_one():\n    return 1"}),
    "an export to another module": (
        {"export": "#| export old.fire\ndef wheel_one():\n    return 1"}, "exports to old.fire",
        {"export": "#| export\ndef wheel_one():\n    return 1"}),
    "a second default": (showing("#| default_exp old.fire"), "'#| default_exp old.wheel', once",
                         showing("# default_exp old.fire")),
    "a tool in exported code": (exporting("import pytest"), "uses pytest", showing("import pytest")),
    "an ungranted package in a test": (showing("import scipy"), "test cell", showing("import numpy")),
    "code that does not parse": (showing("1 +"), "not valid Python", showing("1 + 1")),
    "too little prose": ({"words": 20}, "description: ", {"words": 400}),
    "a test that may be left out": ({"test": "#| long\n" + TEST}, "is marked long", {"test": TEST}),
    "no implementation": ({"export": "#| exports\nwheel_one = int"}, "exports no function and no class", {}),
    "no test": ({"test": "assert wheel_one() == 1"}, "tests: has none", {"test": TEST}),
    "a test that cannot fail": ({"test": TEST.replace("assert ", "")}, "asserts nothing", {"test": TEST}),
    "a test that asserts a constant": ({"test": TEST.replace("wheel_one() == 1", "True")}, "asserts nothing",
                                       {"test": TEST}),
    "an inner test that is never called": (
        {"test": TEST.replace("assert", "def inner():\n        assert")}, "asserts nothing",
        {"test": TEST.replace("assert wheel_one() == 1",
                              "def inner():\n        assert wheel_one() == 1\n    inner()")}),
    "a test that asserts a tuple": ({"test": TEST.replace("wheel_one() == 1", "(wheel_one() == 1, 'one')")},
                                    "asserts nothing", {"test": TEST.replace("== 1", "== 1, 'one'")}),
    "a test in a class": ({"test": "class Test:\n    def test_wheel(self):\n        assert wheel_one()"},
                          "tests: has none", {"test": TEST.replace("\n\ntest", "\n\nfor _ in 'ab': test")}),
    "a test that is never called": ({"test": TEST.rpartition("\n\n")[0]}, "never calls it", {"test": TEST}),
    "a grant without its test": ({"grants": {"jax": "test_whel"}}, "did you mean 'test_wheel'?",
                                 {"grants": {"jax": "test_wheel"}}),
    "a grant without its file": ({"grants": {"jax": "tests/no.py"}}, "tests/no.py, which does not exist",
                                 {"grants": {"jax": "test_wheel"}}),
    "a grant with an odd id": ({"grants": {"jax": "tests/no.py::test_a[1]"}}, "which does not exist", {}),
    "an unknown paper": ({"paper": "nobody1999"}, "paper: 'nobody1999' is not in nbs/references.bib", {}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_refused_for_the_right_reason_and_its_twin_accepted(tmp_path, name):
    bad, complaint, good = PAIRS[name]
    problems = verdict(tmp_path / "bad", bad)
    assert len(problems) == 1 and complaint in problems[0], problems
    assert problems[0].startswith("nbs/old/wheel.ipynb: ") and "\n" not in problems[0]
    assert verdict(tmp_path / "good", good) == []


def test_a_grant_taken_away_is_missed_below(tmp_path):
    wheel = exporting("import numpy as np\nx = np.zeros")
    assert verdict(tmp_path / "good", wheel) == []
    (line,) = verdict(tmp_path / "bad", wheel, {"grants": {}})
    assert "uses numpy" in line


def test_the_test_of_a_grant_imports_the_chapter(tmp_path):
    wheel = {"requires": ["fire"], "grants": {"jax": "tests/wheel.py::test_wheel"}}
    root = small_tree(tmp_path, {"fire": FIRE, "wheel": wheel})
    file = root / "tests/wheel.py"
    file.parent.mkdir()
    file.write_text("from scratchlm.old.fire import fire_one\n\ndef test_wheel(): pass\n")
    (line,) = check_rules(read_tree(root))["wheel"]
    assert line.endswith("which does not import scratchlm.old.wheel")
    file.write_text(file.read_text().replace("fire", "wheel"))
    assert check_rules(read_tree(root))["wheel"] == []


def test_what_is_generated_is_no_description(tmp_path):
    block = "<!-- generated by scratchlm tree: links -->\n## Needs\n" + "word " * 400
    root = small_tree(tmp_path, {"fire": {"cells": [("markdown", block)], "words": 9}})
    (line,) = check_rules(read_tree(root))["fire"]
    assert "words of prose" in line


def test_cells_without_ids_are_counted(tmp_path):
    root = small_tree(tmp_path, {"fire": exporting("import jax")})
    path = root / "nbs/old/fire.ipynb"
    path.write_text(re.sub(r'"id": "[^"]*", ', "", path.read_text()))
    (line,) = check_rules(read_tree(root))["fire"]
    assert "exported cell number 4, line 2: uses jax" in line
