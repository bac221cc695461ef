"""PyTorch and transformers as judges of RMSNorm, at the shapes of training and of writing."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.rms_norm import RMSNorm, rms_norm, rms_norm_naive

torch = pytest.importorskip("torch")

SHAPES = [(4096, 256), (768, 128), (1, 576), (2, 5, 64), (7,)]
# In float32 one ulp of a number near one is 6e-8; sums of N products are good to about √N of that.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda t: t.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", [rms_norm, rms_norm_naive], ids=lambda f: f.__name__)
def test_forward_and_backward_equal_torch(norm, shape, dtype):
    rng = np.random.default_rng(0)
    d, rows = shape[-1], max(1, int(np.prod(shape[:-1])))
    x, seed = rng.normal(1, 2, size=(2, *shape)).astype(dtype)
    weight = rng.normal(size=d).astype(dtype)
    ours = [Tensor(array, requires_grad=True) for array in (x, weight)]
    theirs = [torch.tensor(array, requires_grad=True) for array in (x, weight)]
    got = norm(*ours, 1e-6)
    want = torch.nn.functional.rms_norm(theirs[0], (d,), theirs[1], 1e-6)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(got.data, want.detach().numpy(), **close)
    np.testing.assert_allclose(ours[0].grad, theirs[0].grad.numpy(), **close)
    close["atol"] *= np.sqrt(rows)
    np.testing.assert_allclose(ours[1].grad, theirs[1].grad.numpy(), **close)


def test_equals_llamas():
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    ours, theirs = RMSNorm(64, eps=1e-5), modeling.LlamaRMSNorm(64, eps=1e-5)
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict({name: p.detach().numpy() for name, p in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(2, 3, 64)).astype(np.float32)
    want = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(x).data, want, rtol=1e-5, atol=1e-6)
