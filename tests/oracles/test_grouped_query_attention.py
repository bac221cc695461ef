"""PyTorch's enable_gqa and Hugging Face's Llama beside our grouped attention."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as theirs
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.llama.modeling_llama import repeat_kv as their_repeat_kv

from scratchlm.foundations.tensor import Tensor
from scratchlm.transformer.grouped_query_attention import GroupedQueryAttention, grouped_attention, repeat_kv


@pytest.mark.parametrize("T", [1, 6, 130])
@pytest.mark.parametrize("heads", [(6, 6), (6, 2), (6, 1)])
def test_grouped_equals_torch(heads, T):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, T, n, 8)) for n in (heads[0], heads[1], heads[1])]
    mine = [Tensor(array, requires_grad=True) for array in arrays]
    other = [torch.tensor(array, requires_grad=True) for array in arrays]
    got = grouped_attention(*mine)
    want = theirs(*(x.transpose(1, 2) for x in other), is_causal=True, enable_gqa=True).transpose(1, 2)
    seed = rng.normal(size=got.shape)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-10, atol=1e-11)
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(one.grad, two.grad.numpy(), rtol=1e-10, atol=1e-11)


def test_repeat_equals_transformers():
    x = np.random.default_rng(1).normal(size=(2, 5, 3, 4))
    want = their_repeat_kv(torch.tensor(x).transpose(1, 2), 4).transpose(1, 2).numpy()
    assert np.array_equal(repeat_kv(x, 4), want)
    assert np.array_equal(repeat_kv(Tensor(x), 4).data, want)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_equals_llama(bias):
    """Hugging Face's layer with the rotation switched off (angle 0), and our weights. float32 rounds."""
    config = LlamaConfig(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
                         attention_bias=bias, attn_implementation="eager")
    theirs_layer = LlamaAttention(config, layer_idx=0)
    ours = GroupedQueryAttention(48, 6, 2, head_dim=16, bias=bias, rng=np.random.default_rng(2))
    theirs_layer.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    x, seed = np.random.default_rng(3).normal(size=(2, 2, 7, 48)).astype(np.float32)
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    still = torch.ones(1, 7, 16), torch.zeros(1, 7, 16)
    hidden = torch.triu(torch.full((7, 7), -torch.inf), 1)[None, None]
    got, (want, _) = ours(mine), theirs_layer(other, still, hidden)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-4, atol=1e-5)
    for name, parameter in theirs_layer.named_parameters():
        mine_grad = dict(ours.named_parameters())[name].grad
        np.testing.assert_allclose(mine_grad, parameter.grad.numpy(), rtol=1e-4, atol=2e-5)
