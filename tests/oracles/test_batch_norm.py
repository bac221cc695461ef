"""PyTorch as the judge of batch normalisation: outputs, gradients and running statistics."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.batch_norm import BatchNorm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("rows, features, momentum", [(2, 3, 0.1), (16, 5, 0.3), (64, 1, 0.1)])
def test_training_and_evaluation_equal_torch(rows, features, momentum):
    # float32 sums in another order: a few units in the seventh digit; with two rows the
    # gradients of x nearly cancel, and what remains is rounding of numbers near one
    close = {"rtol": 1e-5, "atol": 2e-6}
    rng = np.random.default_rng(rows)
    ours = BatchNorm(features, momentum=momentum)
    theirs = torch.nn.BatchNorm1d(features, momentum=momentum)
    weight, bias = rng.normal(size=(2, features)).astype(np.float32)
    ours.weight.data, ours.bias.data = weight.copy(), bias.copy()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(weight))
        theirs.bias.copy_(torch.tensor(bias))
    for _ in range(3):
        x, seed = rng.normal(1, 2, size=(2, rows, features)).astype(np.float32)
        mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        ours.zero_grad(), theirs.zero_grad()
        got, want = ours(mine), theirs(other)
        got.backward(seed)
        want.backward(torch.tensor(seed))
        np.testing.assert_allclose(got.data, want.detach().numpy(), **close)
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), **close)
        np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.bias.grad, theirs.bias.grad.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean.numpy(), **close)
    np.testing.assert_allclose(ours.running_var, theirs.running_var.numpy(), **close)
    ours.eval(), theirs.eval()
    np.testing.assert_allclose(ours(x[:1]).data, theirs(torch.tensor(x[:1])).detach().numpy(), **close)
