"""PyTorch as the judge of layer norm, at the shapes of training and of writing."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.layer_norm import LayerNorm, layer_norm, layer_norm_naive

torch = pytest.importorskip("torch")

SHAPES = [(4096, 256), (768, 128), (1, 576), (2, 5, 64), (7,)]
# In float32 one ulp of a number near one is 6e-8; a sum of N products of such numbers is good to
# about √N of that, and the gradients of weight and bias are sums over all rows.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda t: t.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", [layer_norm, layer_norm_naive], ids=lambda f: f.__name__)
def test_forward_and_backward_equal_torch(norm, shape, dtype):
    rng = np.random.default_rng(0)
    d, rows = shape[-1], max(1, int(np.prod(shape[:-1])))
    x = rng.normal(1, 2, size=shape).astype(dtype)
    weight, bias = rng.normal(size=(2, d)).astype(dtype)
    seed = rng.normal(size=shape).astype(dtype)
    ours = [Tensor(array, requires_grad=True) for array in (x, weight, bias)]
    theirs = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
    got = norm(*ours, 1e-5)
    want = torch.nn.functional.layer_norm(theirs[0], (d,), *theirs[1:], 1e-5)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    unit = TOLERANCE[dtype]
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=5 * unit, atol=5 * unit)
    np.testing.assert_allclose(ours[0].grad, theirs[0].grad.numpy(), rtol=5 * unit, atol=5 * unit)
    for mine, other in zip(ours[1:], theirs[1:]):
        atol = 5 * unit * np.sqrt(rows)
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=5 * unit, atol=atol)


def test_state_dict_is_torchs():
    ours, theirs = LayerNorm(6), torch.nn.LayerNorm(6)
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict({name: p.detach().numpy() for name, p in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_allclose(ours(x).data, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
