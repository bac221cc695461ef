"""Flash attention against PyTorch's scaled_dot_product_attention, forward and backward."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.inference.flash_attention import exponential, flash_attention

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("T, S, causal", [(1, 1, True), (130, 130, True), (257, 600, False),
                                          (300, 300, True), (64, 513, False)])
def test_results_and_gradients(T, S, causal, compiled, dtype):
    rng = np.random.default_rng(T + S)
    shapes = [(2, 3, T, 16), (2, 3, S, 16), (2, 3, S, 8)]
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    grad = rng.normal(size=(2, 3, T, 8)).astype(dtype)
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    out = flash_attention(*ours, causal=causal, exponential=None if compiled else exponential)
    out.backward(grad)
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    right = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=causal)
    right.backward(torch.tensor(grad))
    near = 1e-10 if dtype == np.float64 else 2e-5  # sums of hundreds of terms near one
    assert np.allclose(out.data, right.detach().numpy(), rtol=near, atol=near)
    for one, other in zip(ours, theirs):
        assert np.allclose(one.grad, other.grad.numpy(), rtol=near, atol=near)


def test_a_mask_of_booleans():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 150, 16)).astype(np.float32)
    mask = rng.random(size=(150, 150)) < 0.3
    mask[:, 0] = True  # torch gives NaN where nothing may be seen
    right = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.tensor, (q, k, v)), attn_mask=torch.tensor(mask))
    assert np.allclose(flash_attention(q, k, v, mask=mask).data, right.numpy(), atol=2e-6)
