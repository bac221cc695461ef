"""The proof behind `grants: torch.nn.functional.scaled_dot_product_attention`, and a layer beside ours."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as theirs

from scratchlm.foundations.tensor import Tensor
from scratchlm.transformer.attention import scaled_dot_product_attention
from scratchlm.transformer.multi_head_attention import MultiHeadAttention, packed_attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 7, 4), (2, 2, 150, 16)])
def test_heads_equal_torch(shape, causal):
    """Sums of at most 150 products in float64: eleven digits leave a margin of a thousand."""
    rng = np.random.default_rng(0)
    arrays, seed = rng.normal(size=(3, *shape)), rng.normal(size=shape)
    mine = [Tensor(array, requires_grad=True) for array in arrays]
    other = [torch.tensor(array, requires_grad=True) for array in arrays]
    got, want = scaled_dot_product_attention(*mine, causal=causal), theirs(*other, is_causal=causal)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-11, atol=1e-11)
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(one.grad, two.grad.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_packed_equals_torch(causal):
    rng = np.random.default_rng(1)
    x, seed = rng.normal(size=(2, 70, 3 * 4 * 8)), rng.normal(size=(2, 70, 4 * 8))
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    got = packed_attention(mine, 4, causal=causal)
    q, k, v = (part.reshape(2, 70, 4, 8).transpose(1, 2) for part in other.split(32, dim=-1))
    want = theirs(q, k, v, is_causal=causal).transpose(1, 2).reshape(2, 70, 32)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_equals_torch(bias):
    """PyTorch packs its matrices in the same order, so they can be copied as they are. float32 rounds."""
    rng = np.random.default_rng(2)
    mine = MultiHeadAttention(24, 3, bias=bias, rng=rng)
    other = torch.nn.MultiheadAttention(24, 3, bias=bias, batch_first=True)
    state = {"in_proj_": mine.c_attn, "out_proj.": mine.c_proj}
    other.load_state_dict({
        f"{name}{kind}": torch.tensor(array)
        for name, part in state.items() for kind, array in part.state_dict().items()
    })
    x, seed = rng.normal(size=(2, 2, 9, 24)).astype(np.float32)
    ours, theirs_x = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    got = mine(ours)
    hidden = torch.triu(torch.ones(9, 9, dtype=torch.bool), 1)
    want, _ = other(theirs_x, theirs_x, theirs_x, attn_mask=hidden, need_weights=False)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.grad, theirs_x.grad.numpy(), rtol=1e-4, atol=1e-5)
    for one, two in [(mine.c_attn, other.in_proj_weight), (mine.c_proj, other.out_proj.weight)]:
        np.testing.assert_allclose(one.weight.grad, two.grad.numpy(), rtol=1e-4, atol=1e-5)
