"""Qwen2.5-Coder-0.5B from its GGUF file, in float32: tokens, logits and an answer that runs."""

import re

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM

import scratchlm
from scratchlm.inference.gguf import GGUF
from scratchlm.transformer.model_families import Decoder
from scratchlm.workshop.pull import MODELS, cache_folder, pull

NAME = "qwen2.5-coder-0.5b"
pytestmark = pytest.mark.skipif(not (cache_folder() / "models" / NAME / MODELS[NAME].file).exists(),
                                reason=f"{NAME} has not been fetched; make test-all does it")

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")  # of Qwen2's tokenizer.json
TEXT = """def reverse(s: str) -> str:
    \"\"\"Return s from back to front; it's easy: 1234 → 4321.\"\"\"
\treturn s[::-1]   # don't  forget


print(reverse("naïve 日本語 🎉"), 3.14159e-10, [x**2 for x in range(100)])
"""


@pytest.fixture(scope="module")
def lm():
    return scratchlm.load(NAME, tier="numpy")


def test_tokens(lm):
    """The library `tokenizers`, given vocabulary, merges and Qwen's pattern."""
    about = GGUF(pull(NAME)).metadata
    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in about["tokenizer.ggml.merges"]]
    other = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    other.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    other.decoder = decoders.ByteLevel()
    with open(scratchlm.__file__.replace("__init__.py", "workshop/pull.py"), encoding="utf-8") as file:
        for text in (TEXT, file.read()):
            ids = lm.tokenizer.encode(text)
            assert ids == other.encode(text).ids
            assert lm.tokenizer.decode(ids) == text
    ids = lm.tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n")
    assert [tokens[id] for id in ids] == ["<|im_start|>", "user", "Ċ", "Hi", "<|im_end|>", "Ċ"]


def test_logits(lm):
    """transformers with the same dequantised weights: logits of up to some 30, to 1e-3."""
    assert isinstance(lm.model, Decoder)
    theirs = Qwen2ForCausalLM(Qwen2Config(**{
        name: value for name, value in lm.model.config.to_dict().items() if name != "layer_types"})).eval()
    state = {name: torch.from_numpy(array) for name, array in lm.model.state_dict().items()}
    theirs.load_state_dict(state, strict=True, assign=True)
    ids = lm.tokenizer.encode(TEXT)
    with torch.no_grad():
        want = theirs(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(lm.logits(ids) - want).max() < 1e-3


def test_an_answer_that_runs(lm):
    question = "Write a Python function that reverses a string."
    answer = lm.chat([{"role": "user", "content": question}], max_new_tokens=200)
    code = re.search(r"```python\n(.*?)```", answer, re.DOTALL)[1]
    names = {}
    exec(code, names)
    functions = [value for value in names.values() if hasattr(value, "__code__")]
    assert any(function("abc") == "cba" for function in functions)
