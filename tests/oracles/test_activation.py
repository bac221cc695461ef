"""PyTorch and transformers as the judges of activations: values and gradients."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.activation import ACT2FN, BLOCK, erf, gelu, relu, sigmoid, silu, tanh

torch = pytest.importorskip("torch")
F = torch.nn.functional

PAIRS = {
    "relu": (relu, torch.relu),
    "sigmoid": (sigmoid, torch.sigmoid),
    "tanh": (tanh, torch.tanh),
    "silu": (silu, F.silu),
    "gelu": (gelu, F.gelu),
    "gelu_tanh": (ACT2FN["gelu_new"], lambda x: F.gelu(x, approximate="tanh")),
}


def both(name, array):
    """Values and gradients by us and by torch."""
    ours, theirs = PAIRS[name]
    x, y = Tensor(array.copy(), requires_grad=True), torch.tensor(array, requires_grad=True)
    seed = np.cos(np.arange(array.size)).reshape(array.shape).astype(array.dtype)
    value, other = ours(x), theirs(y)
    value.backward(seed)
    other.backward(torch.tensor(seed))
    assert value.dtype == array.dtype and value.shape == array.shape
    return value.data, other.detach().numpy(), x.grad, y.grad.numpy()


@pytest.mark.parametrize("name", PAIRS)
def test_float64_equals_torch(name):
    value, want, grad, wanted = both(name, np.linspace(-40, 40, 4001))
    np.testing.assert_allclose(value, want, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(grad, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", PAIRS)
def test_float32_equals_torch(name):
    """A few units in the last place of values up to 10: 4e-6, also for slopes, which cancel."""
    array = np.linspace(-10, 10, BLOCK + 1000, dtype=np.float32)
    value, want, grad, wanted = both(name, array)
    np.testing.assert_allclose(value, want, rtol=4e-7, atol=2e-6)
    np.testing.assert_allclose(grad, wanted, rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_float32_is_as_near_to_the_truth_as_torch(name):
    """Against float64: our largest error is at most twice that of torch, or 3e-7."""
    array = np.linspace(-6, 6, 20001, dtype=np.float32)
    value, want, grad, wanted = both(name, array)
    true_value, _, true_grad, _ = both(name, array.astype(np.float64))
    for mine, other, true in [(value, want, true_value), (grad, wanted, true_grad)]:
        limit = max(2 * np.abs(other - true).max(), 3e-7)
        assert np.abs(mine - true).max() <= limit


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4), (BLOCK + 1,)], ids=str)
def test_shapes(shape):
    array = np.random.default_rng(0).normal(size=shape)
    for name in PAIRS:
        value, want, grad, wanted = both(name, np.asarray(array))
        np.testing.assert_allclose(value, want, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(grad, wanted, rtol=1e-12, atol=1e-12)


def test_erf_equals_torch():
    for dtype, tolerance in [(np.float32, 4e-7), (np.float64, 4e-16)]:
        array = np.linspace(-7, 7, 20001).astype(dtype)
        want = torch.erf(torch.tensor(array)).numpy()
        np.testing.assert_allclose(erf(array), want, rtol=tolerance, atol=0)


def test_names_mean_the_same_in_transformers():
    activations = pytest.importorskip("transformers.activations")
    array = np.linspace(-6, 6, 1001, dtype=np.float32)
    for name, function in ACT2FN.items():
        want = activations.ACT2FN[name](torch.tensor(array)).numpy()
        np.testing.assert_allclose(function(Tensor(array)).data, want, rtol=1e-6, atol=2e-6)
