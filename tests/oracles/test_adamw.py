"""The proof behind `grants: torch.optim`: AdamW and Adam beside PyTorch's, step by step.

PyTorch runs its plain version (foreach=False, fused=False).
"""

import numpy as np
import pytest
import torch

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning import adamw
from scratchlm.learning.adamw import Adam, AdamW
from scratchlm.learning.linear import Linear, Parameter, Sequential
from scratchlm.learning.loss import cross_entropy
from scratchlm.learning.weight_decay import decay_groups

SHAPES = [(7,), (3, 5), (2, 3, 2), (), (1, 300)]
PLAIN = {"foreach": False, "fused": False}


def run_beside_torch(make, make_torch, dtype, scales, steps=100):
    """Take steps with the same gradients; returns both optimizers and sets of parameters."""
    rng = np.random.default_rng(0)
    starts = [np.asarray(rng.normal(size=shape), dtype=dtype) for shape in SHAPES]
    ours = [Parameter(start.copy()) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    optimizer, other = make(ours), make_torch(theirs)
    for step in range(steps):
        for number, (p, q, scale) in enumerate(zip(ours, theirs, scales)):
            grad = np.asarray(scale * (rng.normal(size=p.shape) + 0.3), dtype=dtype)
            skipped = number == 2 and (step < 3 or step % 7 == 0)  # joins late, pauses at times
            p.grad = None if skipped else grad
            q.grad = None if skipped else torch.tensor(grad)
        optimizer.step()
        other.step()
    return optimizer, other, ours, theirs


def assert_equal(ours, theirs, tolerance):
    for p, q in zip(ours, theirs):
        found = q.detach().numpy()
        assert p.dtype == found.dtype and p.shape == found.shape
        assert np.allclose(p.data, found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.5, 0.99), (0.0, 0.9)])
@pytest.mark.parametrize("eps, weight_decay", [(1e-8, 0.0), (1e-8, 0.1), (1e-2, 0.01)])
def test_adamw(dtype, tolerance, betas, eps, weight_decay, monkeypatch):
    monkeypatch.setattr(adamw, "BLOCK", 64)  # so that small arrays are cut into blocks, too
    options = {"lr": 1e-2, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    ours, theirs, params, torch_params = run_beside_torch(
        lambda ps: AdamW(ps, **options),
        lambda ps: torch.optim.AdamW(ps, **options, **PLAIN), dtype, [1, 1e-3, 1e3, 1, 1e-6])
    assert_equal(params, torch_params, tolerance)
    for state, q in zip(ours.state, torch_params):
        assert set(state) == set(theirs.state[q])
        assert state["step"] == int(theirs.state[q]["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            found = theirs.state[q][name].numpy()
            assert np.allclose(state[name], found, rtol=1e-5, atol=1e-6 * np.abs(found).max())


def test_adam_and_groups():
    def groups(ps):
        return [{"params": ps[:2], "lr": 0.05}, {"params": ps[2:], "betas": (0.8, 0.9)}]

    *_, params, torch_params = run_beside_torch(
        lambda ps: Adam(groups(ps), lr=1e-3),
        lambda ps: torch.optim.Adam(groups(ps), lr=1e-3, **PLAIN), np.float32, [1] * 5)
    assert_equal(params, torch_params, 1e-6)


def test_a_state_from_torch_goes_on_here():
    """PyTorch's memories, put into our optimizer, continue PyTorch's run."""
    _, theirs, params, torch_params = run_beside_torch(
        lambda ps: AdamW(ps), lambda ps: torch.optim.AdamW(ps, **PLAIN), np.float32, [1] * 5, 20)
    for p, q in zip(params, torch_params):
        p.data = q.detach().numpy().copy()
    optimizer = AdamW(params)
    optimizer.state = [
        {"step": int(theirs.state[q]["step"]),
         **{name: theirs.state[q][name].numpy().copy() for name in ("exp_avg", "exp_avg_sq")}}
        for q in torch_params
    ]
    rng = np.random.default_rng(1)
    for _ in range(20):
        for p, q in zip(params, torch_params):
            grad = np.asarray(rng.normal(size=p.shape), dtype=np.float32)
            p.grad, q.grad = grad, torch.tensor(grad)
        optimizer.step()
        theirs.step()
    assert_equal(params, torch_params, 1e-6)


def test_training_a_network():
    """A whole training run: model, loss, gradients and AdamW with decay groups.

    Here each library computes its own gradients, so roundings feed back; hence 1e-5.
    """
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(64, 10)).astype(np.float32), rng.integers(0, 5, 64)
    ours = Sequential(Linear(10, 16, rng=rng), Tensor.tanh, Linear(16, 5, rng=rng))
    theirs = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5))
    theirs.load_state_dict({n: torch.tensor(a.copy()) for n, a in ours.state_dict().items()})
    optimizer = AdamW(decay_groups(ours, 0.1), lr=3e-3, betas=(0.9, 0.95))
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    other = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=3e-3, betas=(0.9, 0.95), **PLAIN)
    for _ in range(100):
        optimizer.zero_grad()
        other.zero_grad()
        loss = cross_entropy(ours(x), y)
        torch_loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        torch_loss.backward()
        optimizer.step()
        other.step()
    assert loss.item() < 1.2 and abs(loss.item() - torch_loss.item()) < 1e-5
    for name, value in theirs.state_dict().items():
        assert np.allclose(ours.state_dict()[name], value.numpy(), atol=1e-5)
