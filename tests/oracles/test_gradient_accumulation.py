"""Micro-batches and recomputation against PyTorch, in float64."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.linear import Linear, Module, ModuleList
from scratchlm.learning.loss import cross_entropy
from scratchlm.scale.gradient_accumulation import AccumulatedLoss, Segments, checkpoint, counted_targets

torch = pytest.importorskip("torch")
from torch.utils.checkpoint import checkpoint as torch_checkpoint  # noqa: E402

WIDTH, CLASSES = 7, 5


class Layer(Module):
    def __init__(self, rng):
        self.linear = Linear(WIDTH, WIDTH, rng=rng)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Deep(Module):
    def __init__(self, depth, seed=0, size=None):
        rng = np.random.default_rng(seed)
        layers = ModuleList(Layer(rng) for _ in range(depth))
        self.layers = Segments(layers, size) if size else layers
        self.head = Linear(WIDTH, CLASSES, rng=rng)
        for p in self.parameters():
            p.data = p.data.astype(np.float64)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def loss_fn(model, batch):
    return cross_entropy(model(Tensor(batch[0])), batch[1])


def torch_twins(model):
    return [torch.tensor(p.data.copy(), requires_grad=True) for p in model.parameters()]


def torch_logits(weights, x, forget=False):
    def layer(x, w, b):
        return x + torch.tanh(torch.nn.functional.linear(x, w, b))

    *layers, head, bias = weights
    for w, b in zip(layers[::2], layers[1::2]):
        x = torch_checkpoint(layer, x, w, b, use_reentrant=False) if forget else layer(x, w, b)
    return torch.nn.functional.linear(x, head, bias)


def batches(sizes, seed=0):
    rng = np.random.default_rng(seed)
    for size in sizes:
        x, y = rng.normal(size=(size, 3, WIDTH)), rng.integers(CLASSES, size=(size, 3))
        y[rng.random(y.shape) < 0.4] = -100
        y[0, 0] = 0
        yield x, y


@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_accumulated_gradients_are_those_torch_accumulates(pieces):
    """torch: backward for each piece of the summed loss over the count of the whole batch."""
    model = Deep(3)
    for x, y in batches([5, 8, 11]):
        model.zero_grad()
        loss = AccumulatedLoss(loss_fn, pieces, counted_targets)(model, (x, y))
        loss.backward()
        twins, total, count = torch_twins(model), 0.0, int((y != -100).sum())
        for part_x, part_y in zip(np.array_split(x, pieces), np.array_split(y, pieces)):
            logits = torch_logits(twins, torch.tensor(part_x)).reshape(-1, CLASSES)
            part = torch.nn.functional.cross_entropy(
                logits, torch.tensor(part_y).reshape(-1), reduction="sum") / count
            part.backward()
            total += part.item()
        np.testing.assert_allclose(loss.item(), total, rtol=1e-12)
        for ours, theirs in zip(model.parameters(), twins, strict=True):
            np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_recomputed_gradients_are_those_of_torch_checkpoint(size):
    model = Deep(4, size=size)
    x, y = next(batches([6]))
    inputs = Tensor(x, requires_grad=True)
    loss = cross_entropy(model(inputs), y)
    loss.backward()
    twins, leaf = torch_twins(model), torch.tensor(x, requires_grad=True)
    logits = torch_logits(twins, leaf, forget=True).reshape(-1, CLASSES)
    right = torch.nn.functional.cross_entropy(logits, torch.tensor(y).reshape(-1))
    right.backward()
    np.testing.assert_allclose(loss.item(), right.item(), rtol=1e-12)
    np.testing.assert_allclose(inputs.grad, leaf.grad.numpy(), rtol=1e-10, atol=1e-13)
    for ours, theirs in zip(model.parameters(), twins, strict=True):
        np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-10, atol=1e-13)


def test_nested_as_torch_nests():
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(2, 4, 4))

    def ours(x, w):
        return checkpoint(lambda h, w: (h @ w).tanh(), checkpoint(lambda x, w: (x @ w).tanh(), x, w), w)

    def theirs(x, w):
        def one(x, w):
            return torch.tanh(x @ w)
        return torch_checkpoint(one, torch_checkpoint(one, x, w, use_reentrant=False), w,
                                use_reentrant=False)

    x, w = (Tensor(a, requires_grad=True) for a in arrays)
    (checkpoint(ours, x, w) ** 2).sum().backward()
    a, b = (torch.tensor(array, requires_grad=True) for array in arrays)
    (torch_checkpoint(theirs, a, b, use_reentrant=False) ** 2).sum().backward()
    np.testing.assert_allclose(x.grad, a.grad.numpy(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(w.grad, b.grad.numpy(), rtol=1e-10, atol=1e-13)


def test_both_notice_what_was_overwritten():
    x = Tensor(np.ones(3), requires_grad=True)
    plain = Tensor(np.ones(3))
    y = checkpoint(lambda x, z: x * z, x, plain).sum()
    plain *= 2.0
    with pytest.raises(RuntimeError, match="in place"):
        y.backward()
    a, b = torch.ones(3, requires_grad=True), torch.ones(3)
    z = (a * b).sum()
    b *= 2.0
    with pytest.raises(RuntimeError, match="inplace"):
        z.backward()
