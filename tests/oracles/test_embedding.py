"""Embeddings against PyTorch: lookup, gradient, tied tables."""

import numpy as np
import pytest
import torch

from scratchlm.foundations.tensor import Tensor
from scratchlm.language.embedding import Embedding, embedding, scatter_add
from scratchlm.learning.linear import Parameter, linear
from scratchlm.learning.loss import cross_entropy

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12}  # sums of up to 600 rows, in another order


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("size", "width", "shape"), [
    (256, 32, (4, 64)), (70_000, 8, (3, 50)), (5, 3, (0,)), (1, 1, (600,)), (7, 4, ()),
])
def test_lookup_and_gradient(dtype, size, width, shape):
    rng = np.random.default_rng(size)
    weight = rng.normal(size=(size, width)).astype(dtype)
    ids, seed = rng.integers(size, size=shape), rng.normal(size=(*shape, width)).astype(dtype)
    ours = Parameter(weight.copy())
    result = embedding(ids, ours)
    result.backward(seed)
    theirs = torch.tensor(weight, requires_grad=True)
    expected = torch.nn.functional.embedding(torch.tensor(ids), theirs)
    expected.backward(torch.tensor(seed))
    assert result.dtype == dtype and np.array_equal(result.data, expected.detach().numpy())
    assert np.allclose(ours.grad, theirs.grad.numpy(), atol=TOLERANCE[dtype])


def test_scatter_add_is_index_add():
    rng = np.random.default_rng(0)
    for size, count in ((16, 1000), (2**16, 1000), (2**16 + 1, 1000)):
        ids, rows = rng.integers(size, size=count), rng.normal(size=(count, 5))
        want = torch.zeros(size, 5, dtype=torch.float64)
        want.index_add_(0, torch.tensor(ids), torch.tensor(rows))
        assert np.allclose(scatter_add(ids, rows, size), want.numpy(), atol=1e-12)


def test_tied_model_has_the_gradient_of_torch():
    rng = np.random.default_rng(1)
    ids, targets = rng.integers(11, size=(2, 6)), rng.integers(11, size=(2, 6))
    ours = Embedding(11, 4, rng)
    loss = cross_entropy(ours.scores(ours(ids)), targets)
    loss.backward()
    module = torch.nn.Embedding(11, 4)
    head = torch.nn.Linear(4, 11, bias=False)
    head.weight = module.weight
    with torch.no_grad():
        module.weight.copy_(torch.tensor(ours.weight.data))
    logits = head(module(torch.tensor(ids)))
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 11),
                                                 torch.tensor(targets).reshape(-1))
    expected.backward()
    assert np.isclose(loss.item(), expected.item(), rtol=1e-5)
    assert np.allclose(ours.weight.grad, module.weight.grad.numpy(), atol=1e-5)


def test_gradient_passes_through_what_follows():
    rng = np.random.default_rng(2)
    ids, weight, matrix = rng.integers(6, size=9), rng.normal(size=(6, 3)), rng.normal(size=(2, 3))
    ours = Parameter(weight.copy())
    linear(embedding(ids, ours), Tensor(matrix)).tanh().sum().backward()
    theirs = torch.tensor(weight, requires_grad=True)
    hidden = torch.nn.functional.embedding(torch.tensor(ids), theirs) @ torch.tensor(matrix).T
    hidden.tanh().sum().backward()
    assert np.allclose(ours.grad, theirs.grad.numpy(), atol=1e-12)
