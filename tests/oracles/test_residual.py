"""PyTorch as the judge of residual connections: the three placements, forward and backward."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.layer_norm import LayerNorm
from scratchlm.learning.linear import Linear
from scratchlm.learning.residual import Residual

torch = pytest.importorskip("torch")

FORMULAS = {
    "pre": lambda x, f, norm: x + f(norm(x)),
    "post": lambda x, f, norm: norm(x + f(x)),
    "none": lambda x, f, norm: x + f(x),
}


@pytest.mark.parametrize("placement", FORMULAS)
def test_placement_equals_torch(placement):
    rng = np.random.default_rng(0)
    f, norm = Linear(8, 8, rng=rng), LayerNorm(8)
    their_f, their_norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
    f.load_state_dict({name: p.detach().numpy() for name, p in their_f.state_dict().items()})
    x, seed = rng.normal(size=(2, 5, 8)).astype(np.float32)
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    got = Residual(f, None if placement == "none" else norm, placement)(mine)
    want = FORMULAS[placement](other, their_f, their_norm)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    close = {"rtol": 1e-5, "atol": 1e-5}  # float32, numbers near one, sums of eight products
    np.testing.assert_allclose(got.data, want.detach().numpy(), **close)
    np.testing.assert_allclose(mine.grad, other.grad.numpy(), **close)
    np.testing.assert_allclose(f.weight.grad, their_f.weight.grad.numpy(), **close)
