"""Losses equal to PyTorch's: values and gradients, for every option that both have."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.loss import cross_entropy, log_softmax, logsumexp, mse_loss, softmax

# PyTorch always computes in float64: on large numbers its float32 has errors of its own (it
# rounds logsumexp before it subtracts it), and ours has to be right, not the same. float64 leaves
# room for another order of additions, float32 for its own last digits.
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-12}


def pair(array):
    """The same leaf for both libraries, for PyTorch in float64."""
    theirs = torch.tensor(array.astype(np.float64), requires_grad=True)
    return Tensor(array, requires_grad=True), theirs


def assert_same(ours, theirs, leaf, torch_leaf, rng, dtype):
    """Equal value and dtype, and equal gradients for a random gradient from above."""
    tolerance = TOLERANCE[dtype]
    theirs_now = theirs.detach().numpy()
    assert ours.dtype == dtype and ours.shape == theirs_now.shape
    assert np.allclose(ours.data, theirs_now, rtol=tolerance, atol=tolerance)
    seed = np.asarray(rng.normal(size=ours.shape)).astype(dtype)
    ours.backward(seed)
    theirs.backward(torch.tensor(seed, dtype=torch.float64))
    assert np.allclose(leaf.grad, torch_leaf.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_softmaxes(dtype, scale):
    rng = np.random.default_rng(0)
    for axis in (-1, 0, 1):
        for ours, theirs in ((softmax, torch.softmax), (log_softmax, torch.log_softmax),
                             (logsumexp, torch.logsumexp)):
            a, b = pair((scale * rng.normal(size=(3, 4, 5))).astype(dtype))
            assert_same(ours(a, axis), theirs(b, axis), a, b, rng, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mse(dtype):
    rng = np.random.default_rng(1)
    a, b = pair(rng.normal(size=(7, 3)).astype(dtype))
    target = rng.normal(size=(7, 3)).astype(dtype)
    theirs = F.mse_loss(b, torch.tensor(target, dtype=torch.float64))
    assert_same(mse_loss(a, target), theirs, a, b, rng, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1, 100])
def test_cross_entropy(dtype, reduction, smoothing, scale):
    rng = np.random.default_rng(2)
    for shape, v in (((6,), 3), ((2, 5), 70), ((300,), 1000), ((), 4)):
        a, b = pair((scale * rng.normal(size=(*shape, v))).astype(dtype))
        targets = np.asarray(rng.integers(0, v, shape))
        if targets.ndim:
            targets[rng.random(shape) < 0.2] = -100
        ours = cross_entropy(a, targets, label_smoothing=smoothing, reduction=reduction)
        theirs = F.cross_entropy(b.reshape(-1, v), torch.tensor(targets).reshape(-1),
                                 label_smoothing=smoothing, reduction=reduction)
        if reduction == "none":
            theirs = theirs.reshape(shape)
        assert_same(ours, theirs, a, b, rng, dtype)


def test_same_dtype_as_torch():
    """At moderate size PyTorch's own float32 agrees to the same tolerance."""
    rng = np.random.default_rng(4)
    x, targets = rng.normal(size=(64, 512)).astype(np.float32), rng.integers(0, 512, 64)
    a, b = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ours, theirs = cross_entropy(a, targets), F.cross_entropy(b, torch.tensor(targets))
    ours.backward()
    theirs.backward()
    assert ours.dtype == np.float32 and abs(ours.item() - theirs.item()) < 1e-6
    assert np.allclose(a.grad, b.grad.numpy(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_z_loss(dtype):
    rng = np.random.default_rng(3)
    a, b = pair(rng.normal(size=(40, 9)).astype(dtype))
    targets = rng.integers(0, 9, 40)
    targets[::7] = 8
    ours = cross_entropy(a, targets, ignore_index=8, z_loss=1e-2)
    counted = torch.tensor(targets != 8)
    level = torch.logsumexp(b, -1)[counted]
    theirs = F.cross_entropy(b, torch.tensor(targets), ignore_index=8)
    assert_same(ours, theirs + 1e-2 * (level**2).mean(), a, b, rng, dtype)


def test_edges():
    inf = float("inf")
    for logits, targets in (
        ([[-inf, 0.0, 2.0]], [2]),  # a forbidden class
        ([[-inf, 0.0, 2.0]], [0]),  # an infinite surprise
        ([[0.0, 1.0, 2.0]], [-100]),  # nothing counts: NaN, and no gradient
    ):
        a, b = pair(np.array(logits, dtype=np.float32))
        ours, theirs = cross_entropy(a, np.array(targets)), F.cross_entropy(b, torch.tensor(targets))
        assert np.allclose(ours.data, theirs.detach().numpy(), equal_nan=True)
        ours.backward()
        theirs.backward()
        assert np.allclose(a.grad, b.grad.numpy(), atol=1e-6)
