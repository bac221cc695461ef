"""Constrained decoding: re, jsonschema and ast.parse judge what a model without sense writes."""

import ast
import json
import re
import string
import warnings

import numpy as np
import pytest

from scratchlm.inference.constrained_decoding import (
    Vocabulary,
    json_constraint,
    python_constraint,
    regex_constraint,
)
from scratchlm.inference.gguf import GGUF, tokenizer
from scratchlm.language.bpe import train_bpe
from scratchlm.workshop.pull import corpus_bytes, pull


@pytest.fixture(scope="module", params=["smollm2", "small"])
def vocabulary(request):
    """A real vocabulary of 49,152 tokens, and a small one in which words are in pieces."""
    if request.param == "smollm2":
        return Vocabulary.of(tokenizer(GGUF(pull("smollm2-135m"))))
    return Vocabulary.of(train_bpe([corpus_bytes("valid")[:100_000].decode("utf-8", "ignore")],
                                   900))


def random_text(constraint, rng, length):
    """As in the chapter: half of the draws choose the first byte first."""
    constraint, ids = constraint.copy(), []
    tokens, stop = constraint.masks.vocabulary.tokens, constraint.masks.vocabulary.stop_ids
    while len(ids) < length:
        allowed = rng.permutation(np.flatnonzero(constraint.mask()))[:400]
        if len(allowed) and rng.random() < 0.5:
            firsts = sorted({(tokens[id] or b"?")[0] for id in allowed})
            byte = firsts[rng.integers(len(firsts))]
            allowed = [id for id in allowed if (tokens[id] or b"?")[0] == byte]
        if not len(allowed) or allowed[0] in stop:
            break
        ids.append(int(allowed[0]))
        constraint.advance(ids[-1])
    return b"".join(tokens[id] for id in ids + constraint.closing()).decode("utf-8")


def random_pattern(rng, depth=3):
    """A random regular expression."""
    kind = rng.integers(6) if depth else rng.integers(3)
    if kind == 0:
        return str(rng.choice(list(string.ascii_letters + "é€ 7")))
    if kind == 1:
        return str(rng.choice([r"\d", r"\W", ".", "[a-f]", "[^x-z0]", r"[\s,]", "[à-ü]"]))
    if kind == 2:
        return re.escape(str(rng.choice(list("().*[]{}|\\^$+?"))))
    parts = [random_pattern(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    if kind == 3:
        return f"({'|'.join(parts)})" + str(rng.choice(["", "*", "+", "?", "{1,3}", "{2}"]))
    return "".join(f"(?:{part})" for part in parts)


def test_random_patterns(vocabulary):
    rng = np.random.default_rng(0)
    for _ in range(60):
        pattern = random_pattern(rng)
        constraint = regex_constraint(pattern, vocabulary)
        for _ in range(3):
            text = random_text(constraint, rng, 8)
            assert re.fullmatch(pattern, text, re.ASCII), (pattern, text)


def random_schema(rng, depth=3):
    """A random schema of what is supported."""
    kind = rng.integers(8) if depth else rng.integers(5)
    if kind == 0:
        return {"type": str(rng.choice(["integer", "number", "boolean", "null"]))}
    if kind == 1:
        least = int(rng.integers(4))
        return {"type": "string", "minLength": least, "maxLength": least + int(rng.integers(9))}
    if kind == 2:
        return {"type": "string", "pattern": str(rng.choice(
            ["^[a-z]{2,5}$", "a\"|b\\\\", "^x", "y$", r"^[^0-9]{1,3}$", "^\\n\\t?$"]))}
    if kind == 3:
        return {"enum": ["a", 'q"\\', 1, 2.5, None, [1, {"b": 2}], True]}
    if kind == 4:
        return {"type": ["string", "null"]}
    if kind == 5:
        least = int(rng.integers(3))
        schema = {"type": "array", "items": random_schema(rng, depth - 1), "minItems": least}
        if rng.random() < 0.5:
            schema["prefixItems"] = [random_schema(rng, depth - 1) for _ in range(2)]
        return schema | ({"maxItems": least + 2} if rng.random() < 0.5 else {})
    if kind == 6:
        return {"anyOf": [random_schema(rng, depth - 1), {"$ref": "#/$defs/link"}]}
    names = ["x", 'a "b"', "c/d~e", "ü", "y"][: rng.integers(6)]
    return {"type": "object", "required": [name for name in names if rng.random() < 0.5],
            "properties": {name: random_schema(rng, depth - 1) for name in names}}


def test_random_schemas(vocabulary):
    jsonschema = pytest.importorskip("jsonschema")
    link = {"type": "object", "required": ["next"], "additionalProperties": False,
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}}}
    rng = np.random.default_rng(1)
    for _ in range(50):
        schema = random_schema(rng) | {"$defs": {"link": link}}
        constraint = json_constraint(schema, vocabulary)
        for _ in range(4):
            text = random_text(constraint, rng, int(rng.integers(1, 40)))
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize("indents", [("    ",), ("\t", "  ", "    ")])
def test_random_programs(vocabulary, indents):
    rng, constraint = np.random.default_rng(2), python_constraint(vocabulary, indents)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SyntaxWarning: strange, but no error
        for _ in range(150):
            ast.parse(random_text(constraint, rng, int(rng.integers(1, 80))))


def test_deep_nesting_is_closed(vocabulary):
    """A model that opens as many brackets as it may ends with a text that can be read."""
    for constraint, opening, read in ((python_constraint(vocabulary), b"(", ast.parse),
                                      (json_constraint(True, vocabulary), b"[", json.loads)):
        id, ids = vocabulary.ids[opening], []
        while constraint.mask()[id]:
            constraint.advance(id)
            ids.append(id)
        assert len(ids) > 20
        read(b"".join(vocabulary.tokens[id] for id in ids + constraint.closing()).decode())
