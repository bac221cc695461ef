"""Quantisation against PyTorch's own rounding, and GPTQ against the best that exhaustive search finds."""

from itertools import product

import numpy as np
import pytest
import torch

from scratchlm.inference.quantisation import (
    dequantise,
    find_grid,
    gptq,
    inverse_factor,
    quantise,
    quantise_model,
    second_moment,
)
from scratchlm.learning.linear import Linear, Sequential


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_rounding_is_that_of_torch(bits, symmetric):
    rng = np.random.default_rng(bits)
    array = (rng.standard_t(3, size=(40, 96)) * np.exp(rng.normal(size=(40, 1)))).astype(np.float32)
    q = quantise(array, bits, "channel", symmetric)
    top = 2 ** (bits - 1) - 1
    low, high = (-top, top) if symmetric else (0, 2**bits - 1)
    zero = np.zeros(40) if symmetric else q.zero[:, 0]
    theirs = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(array), torch.from_numpy(q.scale[:, 0].copy()),
        torch.from_numpy(zero.astype(np.int32)), 0, low, high,
    ).numpy()
    difference = np.abs(dequantise(q) - theirs)
    # They multiply by 1/s, we divide by s: at a tie, one rounds up and the other down, and rarely.
    assert np.all(difference <= 1.001 * q.scale) and np.mean(difference > 1e-6 * q.scale) < 1e-3


def test_the_factor_is_that_of_the_inverse():
    rng = np.random.default_rng(0)
    h = second_moment(rng.normal(size=(50, 12)))
    upper = inverse_factor(h, 0.01)
    damped = h + 0.01 * np.mean(np.diagonal(h)) * np.eye(12)
    theirs = torch.linalg.cholesky(torch.linalg.inv(torch.from_numpy(damped)), upper=True).numpy()
    assert np.allclose(upper, theirs, rtol=1e-9) and np.allclose(np.tril(upper, -1), 0)


def test_gptq_is_near_the_best_there_is():
    """On problems small enough to try every combination of codes: between nearest and the best."""
    gains = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(100, 6)) @ rng.normal(size=(6, 6))
        w, h = rng.normal(size=(1, 6)).astype(np.float32), second_moment(x)
        scale, zero = find_grid(w, 2, False)
        every = np.array(list(product(range(4), repeat=6)))
        deltas = scale * (every - zero) - w
        best = np.einsum("ni,ij,nj->n", deltas, h, deltas).min()

        def error(q, w=w, h=h):
            delta = (dequantise(q) - w)[0]
            return delta @ h @ delta

        nearest = error(quantise(w, 2, "channel", False))
        ours = error(gptq(w, h, 2, "channel", False, damp=1e-3))
        assert ours >= best * (1 - 1e-6)
        gains.append((nearest / best, ours / best))
    nearest, ours = np.median(gains, axis=0)
    assert ours < 0.7 * nearest


def test_a_model_in_a_sequential_is_replaced_in_place():
    rng = np.random.default_rng(0)
    model = Sequential(Linear(8, 8, rng=rng), Sequential(Linear(8, 4, bias=False, rng=rng)))
    x = rng.normal(size=(32, 8)).astype(np.float32)
    before = model(x).data
    names = set(model.state_dict())
    quantise_model(model, 8, inputs=[x])
    assert np.abs(model(x).data - before).max() < 0.05
    assert names == {"0.weight", "0.bias", "1.0.weight"}
    assert set(model.state_dict()) == {"0.codes", "0.scale", "0.zero", "0.bias",
                                       "1.0.codes", "1.0.scale", "1.0.zero"}
