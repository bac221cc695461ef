"""Gradient descent, momentum and coupled decay beside torch.optim.SGD, step by step."""

import numpy as np
import pytest
import torch

from scratchlm.learning.gradient_descent import SGD
from scratchlm.learning.linear import Parameter
from scratchlm.learning.momentum import Momentum
from scratchlm.learning.weight_decay import SGDW

# what rounding may leave after a hundred steps, relative and absolute
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-13}
SHAPES = [(5,), (3, 4), (2, 3, 2), ()]


def run_beside_torch(make, make_torch, dtype, steps=100, seed=0):
    """Both optimizers get the same gradients; the third parameter has none at times."""
    rng = np.random.default_rng(seed)
    starts = [np.asarray(rng.normal(size=shape), dtype=dtype) for shape in SHAPES]
    ours = [Parameter(start.copy()) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    optimizer, other = make(ours), make_torch(theirs)
    for step in range(steps):
        for number, (p, q) in enumerate(zip(ours, theirs)):
            grad = np.asarray(rng.normal(size=p.shape) + p.data, dtype=dtype)
            skipped = number == 2 and (step < 3 or step % 7 == 0)
            p.grad = None if skipped else grad
            q.grad = None if skipped else torch.tensor(grad)
        optimizer.step()
        other.step()
    for p, q in zip(ours, theirs):
        found = q.detach().numpy()
        assert p.dtype == dtype and p.shape == found.shape
        assert np.allclose(p.data, found, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    return optimizer, other


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd(dtype):
    run_beside_torch(lambda ps: SGD(ps, 0.05), lambda ps: torch.optim.SGD(ps, 0.05), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum(dtype, nesterov, momentum):
    options = {"lr": 0.02, "momentum": momentum, "nesterov": nesterov}
    ours, theirs = run_beside_torch(
        lambda ps: Momentum(ps, **options),
        lambda ps: torch.optim.SGD(ps, foreach=False, **options), dtype)
    for state, p in zip(ours.state, theirs.param_groups[0]["params"]):
        buffer = theirs.state[p]["momentum_buffer"].numpy()
        tolerance = 10 * TOLERANCE[dtype]  # a buffer is ten times as large as a gradient
        assert np.allclose(state["momentum_buffer"], buffer, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_coupled_decay(dtype, momentum):
    def groups(ps):
        return [{"params": ps[:2], "weight_decay": 0.3}, {"params": ps[2:], "lr": 0.01}]

    options = {"lr": 0.02, "momentum": momentum, "weight_decay": 0.1}
    run_beside_torch(lambda ps: SGDW(groups(ps), decoupled=False, **options),
                     lambda ps: torch.optim.SGD(groups(ps), **options), dtype)
