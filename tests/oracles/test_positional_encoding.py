"""Marian's sinusoidal positions and PyTorch's embedding beside ours."""

import numpy as np
import torch
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from scratchlm.transformer.positional_encoding import LearnedPositions, sinusoidal


def test_sinusoidal_equals_marian():
    """Marian has all sines first, then all cosines. Both compute in float64 and round to float32."""
    for dim in (2, 6, 64):
        theirs = MarianSinusoidalPositionalEmbedding(300, dim)
        theirs.weight = torch.nn.Parameter(torch.from_numpy(np.asarray(theirs.create_weight(), np.float32)))
        want = theirs.weight.detach().numpy()
        got = sinusoidal(300, dim)
        np.testing.assert_allclose(got[:, 0::2], want[:, : dim // 2], atol=1e-6)
        np.testing.assert_allclose(got[:, 1::2], want[:, dim // 2 :], atol=1e-6)


def test_learned_positions_equal_an_embedding():
    ours = LearnedPositions(10, 4, np.random.default_rng(0))
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(ours.weight.data), freeze=False)
    got, want = ours(3, start=5), theirs(torch.arange(5, 8))
    assert np.array_equal(got.data, want.detach().numpy())
    seed = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    assert np.array_equal(ours.weight.grad, theirs.weight.grad.numpy())
