"""PyTorch's clip_grad_norm_ and clip_grad_value_ as the judges of ours."""

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_ as torch_clip_norm
from torch.nn.utils import clip_grad_value_ as torch_clip_value

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.gradient_clipping import clip_grad_norm_, clip_grad_value_, grad_norm

SHAPES = [(30, 20), (20,), (), (3, 4, 5)]


def twins(scale, dtype):
    """The same parameters with the same gradients, ours and PyTorch's; the last has none."""
    rng, ours, theirs = np.random.default_rng(0), [], []
    for shape in SHAPES:
        gradient = np.asarray(scale * rng.normal(size=shape), dtype=dtype)
        ours.append(Tensor(np.zeros(shape, dtype=dtype), requires_grad=True))
        theirs.append(torch.zeros(shape, dtype=getattr(torch, dtype), requires_grad=True))
        ours[-1].grad, theirs[-1].grad = gradient.copy(), torch.tensor(gradient)
    ours.append(Tensor(np.zeros(2, dtype=dtype), requires_grad=True))
    theirs.append(torch.zeros(2, dtype=getattr(torch, dtype), requires_grad=True))
    return ours, theirs


def assert_equal_gradients(ours, theirs, rtol):
    assert ours[-1].grad is None and theirs[-1].grad is None
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert mine.grad.dtype == mine.dtype
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("limit", [0.5, 1.0, 100.0])
@pytest.mark.parametrize("scale", [0.1, 10.0, 1e6])
def test_by_norm(scale, limit, dtype):
    ours, theirs = twins(scale, dtype)
    before = clip_grad_norm_(ours, limit)
    want = torch_clip_norm(theirs, limit)
    # PyTorch adds 1e-6 to the norm, which is at least 2 here: a difference of 5e-7 at most,
    # and float32 sums of hundreds of squares differ in the last of seven digits
    rtol = 2e-6 if dtype == "float32" else 1e-6
    np.testing.assert_allclose(before, want.item(), rtol=rtol)
    assert_equal_gradients(ours, theirs, rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_value(dtype):
    ours, theirs = twins(3.0, dtype)
    clip_grad_value_(ours, 0.7)
    torch_clip_value(theirs, 0.7)
    assert_equal_gradients(ours, theirs, rtol=0)


def test_an_overflow_that_pytorch_has_too():
    """In float32 PyTorch's norm of a long, finite gradient is infinite, and all becomes zero."""
    ours, theirs = twins(1e25, "float32")
    assert torch_clip_norm(theirs, 1.0).item() == np.inf
    assert all((p.grad == 0).all() for p in theirs[:-1])
    clip_grad_norm_(ours, 1.0)
    np.testing.assert_allclose(grad_norm(ours), 1.0, rtol=1e-5)
