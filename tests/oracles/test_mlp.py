"""PyTorch as the judge of a multi-layer perceptron: the same function and the same gradients."""

import numpy as np
import pytest

from scratchlm.learning.mlp import MLP

torch = pytest.importorskip("torch")

BENDS = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU, "silu": torch.nn.SiLU,
         "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}


@pytest.mark.parametrize("name", BENDS)
@pytest.mark.parametrize("sizes", [[5, 3], [5, 8, 3], [5, 8, 7, 6, 3]], ids=str)
def test_function_and_gradients_equal_torch(name, sizes):
    rng = np.random.default_rng(0)
    ours = MLP(sizes, name, rng)
    steps = []
    for layer in ours.layers:
        theirs = torch.nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        theirs.weight.data = torch.tensor(layer.weight.data.astype(np.float64))
        theirs.bias.data = torch.tensor(layer.bias.data.astype(np.float64))
        steps += [theirs, BENDS[name]()]
    judge = torch.nn.Sequential(*steps[:-1])
    for p in ours.parameters():
        p.data = p.data.astype(np.float64)
    x, seed = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 3))
    got, want = ours(x), judge(torch.tensor(x))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-12, atol=1e-12)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    for mine, other in zip(ours.parameters(), judge.parameters(), strict=True):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-12, atol=1e-12)
