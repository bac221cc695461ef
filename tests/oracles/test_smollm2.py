"""SmolLM2 from its GGUF file: transformers as the judge, given the same dequantised weights."""

import warnings

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from scratchlm.foundations.tensor import no_grad
from scratchlm.inference.gguf import GGUF, to_hf, tokenizer
from scratchlm.inference.kv_cache import KVCache
from scratchlm.transformer.llama import from_state
from scratchlm.transformer.sampling import generate
from scratchlm.workshop.pull import pull

TEXT = '''def binary_search(items, target):
    """Return the index of target in the sorted list items, or -1 if it is not there."""
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1

The capital of France is Paris, and the capital of Germany is Berlin. A language model predicts
the next token from all the tokens before it.
'''
PROMPTS = [
    "1, 2, 3, 4, 5, 6,",
    "from math import sqrt\n\ndef is_prime(n):\n",
    "<|im_start|>user\nName the planets of the solar system.<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="module")
def models():
    file = GGUF(pull("smollm2-135m"))
    settings, state = to_hf(file)
    state = {name: state[name] for name in state}
    theirs = LlamaForCausalLM(LlamaConfig(**settings))
    report = theirs.load_state_dict(
        {name: torch.tensor(array) for name, array in state.items()}, strict=False)
    assert not report.unexpected_keys and set(report.missing_keys) <= {"lm_head.weight"}
    theirs.tie_weights()
    return from_state(settings, state), theirs.eval(), tokenizer(file)


def their_logits(model, ids, **options):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their name for the cache is about to change
        return model(torch.tensor(ids), **options).logits.numpy()


def test_all_logits(models):
    """At every position of a text, 49,152 logits of up to some 30, to 1e-3."""
    ours, theirs, words = models
    ids = np.array([words.encode(TEXT)])
    with no_grad():
        mine = ours(ids).data
    assert ids.shape[1] > 100
    assert np.abs(mine - their_logits(theirs, ids)).max() < 1e-3


def test_with_both_caches(models):
    """A prompt, then a chunk, then tokens one by one, which are computed by hand here."""
    ours, theirs, words = models
    ids = np.array([words.encode(TEXT)])[:, :80]
    cache, their_cache = KVCache(ours.config, 100), DynamicCache(config=theirs.config)
    with no_grad():
        whole = ours(ids).data
    for a, b in [(0, 40), (40, 55), *((i, i + 1) for i in range(55, 80))]:
        with no_grad():
            mine = ours(ids[:, a:b], cache=cache).data
        want = their_logits(theirs, ids[:, a:b], past_key_values=their_cache, use_cache=True)
        assert np.abs(mine - want).max() < 1e-3
        assert np.abs(mine - whole[:, a:b]).max() < 1e-3


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_texts(models, prompt):
    ours, theirs, words = models
    ids = words.encode(prompt)
    mine = list(generate(ours, ids, 24, temperature=0, cache=KVCache(ours.config, 100)))
    want = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
                           max_new_tokens=24, do_sample=False, eos_token_id=None)
    assert mine == want[0, len(ids):].tolist()
