"""PyTorch throws the mask, and ours must do the same with it, forward and backward."""

import numpy as np
import pytest
import torch

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.dropout import Dropout, apply_mask, dropout, dropout_mask

X = np.random.default_rng(0).normal(size=(7, 5, 30))
SEED = np.random.default_rng(1).normal(size=(7, 5, 30))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_given_a_mask_equal_to_torch(p, dtype):
    array, seed = X.astype(dtype), SEED.astype(dtype)
    torch.manual_seed(0)
    mask = torch.nn.functional.dropout(torch.ones(array.shape, dtype=getattr(torch, dtype)), p)
    torch.manual_seed(0)
    theirs = torch.tensor(array, requires_grad=True)
    want = torch.nn.functional.dropout(theirs, p)
    want.backward(torch.tensor(seed))

    ours = Tensor(array, requires_grad=True)
    got = apply_mask(ours, mask.numpy())
    got.backward(seed)
    assert got.dtype == array.dtype
    # one product and one product: equal but for the rounding of the factor 1/(1-p)
    tolerance = {"float32": 2e-7, "float64": 1e-15}[dtype]
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=tolerance)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=tolerance)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_have_the_values_of_torch(p):
    """The same two values, in the same proportion (five standard deviations of either)."""
    theirs = torch.nn.functional.dropout(torch.ones(100_000), p).numpy()
    ours = dropout_mask((100_000,), p, np.random.default_rng(0))
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=2e-4)
    assert abs(np.mean(ours == 0) - np.mean(theirs == 0)) < 5 * np.sqrt(2 * p * (1 - p) / 100_000)


def test_evaluation_and_zero_are_the_identity_in_both():
    theirs, ours = torch.tensor(X), Tensor(X)
    assert np.array_equal(torch.nn.Dropout(0.5).eval()(theirs).numpy(), theirs.numpy())
    assert Dropout(0.5).eval()(ours) is ours
    assert np.array_equal(torch.nn.functional.dropout(theirs, 0.0).numpy(), theirs.numpy())
    assert dropout(ours, 0.0) is ours
