"""PyTorch and the MLP of transformers' Llama as the judges of SwiGLU."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.transformer.glu import SwiGLU, swiglu

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4), (3, 20000)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_function_and_gradients_equal_torch(shape, dtype, tolerance):
    rng = np.random.default_rng(0)
    gate, up, seed = (np.asarray(3 * rng.normal(size=shape), dtype=dtype) for _ in range(3))
    ours = [Tensor(array.copy(), requires_grad=True) for array in (gate, up)]
    theirs = [torch.tensor(array, requires_grad=True) for array in (gate, up)]
    got, want = swiglu(*ours), torch.nn.functional.silu(theirs[0]) * theirs[1]
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=tolerance, atol=tolerance)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_module_equals_llama(act, bias):
    """The same names, weights, results and gradients; float32, sums over up to 88 terms."""
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    configuration = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=32, intermediate_size=88, hidden_act=act, mlp_bias=bias)
    theirs = modeling.LlamaMLP(configuration)
    ours = SwiGLU(32, 88, bias=bias, act=act)
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})
    x = np.random.default_rng(1).normal(size=(2, 5, 32)).astype(np.float32)
    got, want = ours(x), theirs(torch.tensor(x))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-5, atol=1e-5)
    got.sum().backward()
    want.sum().backward()
    for (name, mine), (other_name, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other_name
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-4, atol=1e-4)
