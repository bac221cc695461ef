"""PyTorch as the judge of attention: results and gradients with every kind of mask, causal or not."""

import numpy as np
import pytest
from torch import tensor, tril
from torch.nn.functional import scaled_dot_product_attention as theirs

from scratchlm.foundations.tensor import Tensor
from scratchlm.transformer.attention import composed_attention, scaled_dot_product_attention

SHAPES = [  # of q, k, v
    ((5, 4), (5, 4), (5, 4)),
    ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 6)),
    ((2, 3, 130, 8), (2, 3, 130, 8), (2, 3, 130, 8)),  # three blocks of queries
    ((2, 3, 3, 4), (2, 3, 9, 4), (2, 3, 9, 4)),  # a prefix has been seen
    ((2, 3, 1, 4), (2, 3, 9, 4), (2, 3, 9, 4)),
    ((2, 3, 4, 5, 8), (2, 3, 1, 5, 8), (2, 3, 1, 5, 8)),  # shared keys
]
OURS = [scaled_dot_product_attention, composed_attention]


def both(shapes, dtype, size=1.0, seed=0):
    """The same random numbers as tensors of both kinds."""
    rng = np.random.default_rng(seed)
    arrays = [(size * rng.normal(size=shape)).astype(dtype) for shape in shapes]
    return ([Tensor(array, requires_grad=True) for array in arrays],
            [tensor(array, requires_grad=True) for array in arrays])


def assert_agree(mine, other, got, want, rtol, atol):
    """Result and all gradients."""
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=rtol, atol=atol)
    seed = np.random.default_rng(1).normal(size=got.shape).astype(got.dtype)
    got.backward(seed)
    want.backward(tensor(seed))
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(one.grad, two.grad.numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("ours", OURS)
def test_results_and_gradients(ours, shapes, causal):
    mine, other = both(shapes, np.float64)
    T, S = shapes[0][-2], shapes[1][-2]
    # PyTorch's own is_causal puts the first query at the first key; ours the last at the last
    mask = tril(tensor(np.ones((T, S), bool)), S - T) if causal else None
    assert_agree(mine, other, ours(*mine, causal=causal), theirs(*other, attn_mask=mask), 1e-9, 1e-11)


@pytest.mark.parametrize("size", [0.3, 1.0, 30.0])  # tame scores, middling ones, and saturated ones
def test_float32_is_as_exact_as_theirs(size):
    """Rounding differs. With size 30 scores reach thousands, where one float32 step is a ten-thousandth."""
    mine, other = both([(2, 4, 200, 64)] * 3, np.float32, size)
    got, want = scaled_dot_product_attention(*mine, causal=True), theirs(*other, is_causal=True)
    exact = theirs(*(x.double() for x in other), is_causal=True).detach().numpy()
    error, their_error = np.abs(got.data - exact).max(), np.abs(want.detach().numpy() - exact).max()
    assert error <= 3 * their_error + 1e-6
    if size < 2:
        assert_agree(mine, other, got, want, 1e-4, 2e-5)


@pytest.mark.parametrize("kind", ["bool", "per batch", "numbers", "per head"])
def test_masks(kind):
    rng = np.random.default_rng(2)
    mask = {
        "bool": rng.random(size=(5, 7)) < 0.6,
        "per batch": rng.random(size=(2, 1, 1, 7)) < 0.6,
        "numbers": rng.normal(size=(5, 7)),
        "per head": 3 * rng.normal(size=(3, 5, 7)),
    }[kind]
    if mask.dtype == bool:
        mask[..., 0] = True
    mine, other = both([(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)], np.float64)
    got = scaled_dot_product_attention(*mine, mask=mask, scale=0.7)
    assert_agree(mine, other, got, theirs(*other, attn_mask=tensor(mask), scale=0.7), 1e-9, 1e-11)


def test_a_blind_query_gets_zeros():
    mask = np.ones((5, 7), bool)
    mask[2] = False
    mine, other = both([(5, 4), (7, 4), (7, 4)], np.float64)
    got = scaled_dot_product_attention(*mine, mask=mask)
    want = theirs(*other, attn_mask=tensor(mask))
    assert not got.data[2].any() and not want.detach().numpy()[2].any()
    assert_agree(mine, other, got, want, 1e-9, 1e-11)
