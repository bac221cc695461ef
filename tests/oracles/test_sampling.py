"""Sampling and beam search against transformers' logits processors and beam search."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.linear import Module
from scratchlm.transformer.sampling import (
    beam_search,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    process_logits,
    sample,
)


def theirs(logits, previous, *processors):
    """What transformers makes of the logits, in float64."""
    scores = torch.tensor(logits)[None]
    return LogitsProcessorList(processors)(torch.tensor(np.array([previous])), scores)[0].numpy()


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@pytest.mark.parametrize("V", [1, 2, 7, 100, 5000])
def test_each_stage(V):
    """The same entries become -inf, the others are equal."""
    rng = np.random.default_rng(V)
    for _ in range(20):
        x = rng.normal(size=V) * rng.uniform(0.1, 6)
        previous = rng.integers(V, size=9)
        k, p = int(rng.integers(1, V + 3)), float(rng.uniform(0, 1))
        pairs = [
            (keep_top_k(x, k), theirs(x, previous, TopKLogitsWarper(k))),
            (keep_top_p(x, p), theirs(x, previous, TopPLogitsWarper(p))),
            (keep_min_p(x, p), theirs(x, previous, MinPLogitsWarper(p))),
            (penalise(x, previous, 1 + p),
             theirs(x, previous, RepetitionPenaltyLogitsProcessor(1 + p))),
        ]
        for ours, other in pairs:
            assert np.array_equal(np.isfinite(ours), np.isfinite(other))
            assert np.array_equal(ours, other)


@pytest.mark.parametrize("seed", range(60))
def test_the_pipeline(seed):
    """Random options in transformers' order; the probabilities agree to 1e-12."""
    rng = np.random.default_rng(seed)
    V = int(rng.integers(2, 400))
    x, previous = rng.normal(size=V) * rng.uniform(0.5, 5), rng.integers(V, size=20)
    options = {"repetition_penalty": float(rng.uniform(0.8, 2)),
               "temperature": float(rng.uniform(0.2, 3)), "top_k": int(rng.integers(1, V + 5)),
               "top_p": float(rng.uniform(0, 1)), "min_p": float(rng.uniform(0, 0.5))}
    chosen = {name: value for name, value in options.items() if rng.random() < 0.7}
    classes = {"repetition_penalty": RepetitionPenaltyLogitsProcessor,
               "temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper,
               "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
    processors = [classes[name](value) for name, value in options.items() if name in chosen]
    expected = softmax(theirs(x, previous, *processors))
    assert np.allclose(process_logits(x, previous=previous, **chosen), expected, 0, 1e-12)


def test_ties():
    """Equal scores: top-k keeps all that tie, top-p drops those with lower numbers first."""
    x = np.array([1.0, 2.0, 2.0, 0.0, 2.0, 1.0, 0.0, 0.0])
    for k in range(1, 9):
        assert np.array_equal(keep_top_k(x, k), theirs(x, [0], TopKLogitsWarper(k)))
    for scores in (x, np.zeros(8)):
        for p in (0.0, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0):
            assert np.array_equal(keep_top_p(scores, p), theirs(scores, [0], TopPLogitsWarper(p)))
            assert np.array_equal(keep_min_p(scores, p), theirs(scores, [0], MinPLogitsWarper(p)))


class Borrowed(Module):
    """A model of transformers behind our interface."""

    def __init__(self, model):
        self.model = model

    def forward(self, ids):
        with torch.no_grad():
            return Tensor(self.model(torch.tensor(ids)).logits.numpy())


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=2,
                        bos_token_id=None, eos_token_id=None, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


def continued(model, prompt, **options):
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    return out[0, len(prompt):].tolist()


@pytest.mark.parametrize("prompt", [[1], [5, 6, 7], [3] * 10])
def test_greedy(gpt2, prompt):
    for penalty in (1.0, 1.3):
        expected = continued(gpt2, prompt, max_new_tokens=20, do_sample=False,
                             repetition_penalty=penalty)
        ours = generate(Borrowed(gpt2), prompt, 20, temperature=0, repetition_penalty=penalty)
        assert list(ours) == expected


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beam_search(gpt2, beams, length_penalty):
    for prompt in ([1], [5, 6, 7], [10, 20, 30, 40]):
        expected = continued(gpt2, prompt, max_new_tokens=12, num_beams=beams, do_sample=False,
                             length_penalty=length_penalty)
        assert beam_search(Borrowed(gpt2), prompt, 12, beams,
                           length_penalty=length_penalty) == expected


@pytest.mark.parametrize("stop", [[7], [3, 11], [1, 2, 3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 1.5])
def test_beam_search_with_ends(gpt2, stop, beams, length_penalty):
    """Stop tokens: transformers gives the one that ended the text, we do not."""
    for prompt in ([1], [5, 6, 7], [10, 20, 30, 40], [49], [33, 12]):
        expected = continued(gpt2, prompt, max_new_tokens=10, num_beams=beams, do_sample=False,
                             length_penalty=length_penalty, eos_token_id=stop)
        end = next((i for i, id in enumerate(expected) if id in stop), len(expected))
        assert beam_search(Borrowed(gpt2), prompt, 10, beams, stop_ids=stop,
                           length_penalty=length_penalty) == expected[:end]


def test_draws_follow_torchs_probabilities(gpt2):
    """Frequencies of 20,000 draws against transformers' warped softmax."""
    with torch.no_grad():
        logits = gpt2(torch.tensor([[1, 2, 3]])).logits[0, -1].numpy().astype(np.float64)
    expected = softmax(theirs(logits, [1, 2, 3], TemperatureLogitsWarper(0.8),
                              TopKLogitsWarper(20), TopPLogitsWarper(0.9)))
    rng = np.random.default_rng(0)
    draws = [sample(logits, rng, temperature=0.8, top_k=20, top_p=0.9) for _ in range(20_000)]
    counts, kept = np.bincount(draws, minlength=50), expected > 0
    assert counts[~kept].sum() == 0
    statistic = ((counts - 20_000 * expected)[kept] ** 2 / (20_000 * expected[kept])).sum()
    freedom = kept.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
