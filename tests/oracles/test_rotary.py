"""Hugging Face's rotary embeddings beside ours: Llama's half-split pairs, and GPT-J's interleaved ones."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as apply_interleaved
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from scratchlm.foundations.tensor import Tensor
from scratchlm.transformer.rotary import apply_rope, rope_frequencies, rope_table


def random(dtype=np.float32):
    """Queries and keys (B, T, H, d)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 9, 4, 16)).astype(dtype), rng.normal(size=(2, 9, 2, 16)).astype(dtype)


def llama_table(positions, base):
    """Cosines and sines (1, T, d) as Llama computes them, in float32."""
    config = LlamaConfig(head_dim=16, hidden_size=64, num_attention_heads=4,
                         rope_parameters={"rope_type": "default", "rope_theta": base})
    return LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(positions)[None])


@pytest.mark.parametrize("base", [1e4, 5e5])
def test_table_equals_llama(base):
    """They multiply in float32, so far out their angles are rounded; within 100 places to some 1e-5."""
    theirs_cos, theirs_sin = llama_table(np.arange(100), base)
    cos, sin = rope_table(100, 16, base)
    np.testing.assert_allclose(cos, theirs_cos[0, :, :8].numpy(), atol=1e-5)
    np.testing.assert_allclose(sin, theirs_sin[0, :, 8:].numpy(), atol=1e-5)


@pytest.mark.parametrize("start", [0, 40])
def test_half_split_equals_llama(start):
    q, k = random()
    positions = np.arange(start, start + 9)
    cos, sin = rope_table(positions, 16)
    both = [torch.tensor(np.concatenate([half, half], axis=-1))[None] for half in (cos, sin)]  # (1, T, d)
    mine = [Tensor(x, requires_grad=True) for x in (q, k)]
    other = [torch.tensor(x.swapaxes(1, 2), requires_grad=True) for x in (q, k)]  # (B, H, T, d)
    got = [apply_rope(x, cos, sin) for x in mine]
    want = apply_rotary_pos_emb(*other, *both)
    for g, w, m, o in zip(got, want, mine, other, strict=True):
        np.testing.assert_allclose(g.data.swapaxes(1, 2), w.detach().numpy(), atol=1e-6)
        seed = np.random.default_rng(1).normal(size=g.shape).astype(np.float32)
        g.backward(seed)
        w.backward(torch.tensor(seed.swapaxes(1, 2)))
        np.testing.assert_allclose(m.grad.swapaxes(1, 2), o.grad.numpy(), atol=1e-6)


def test_interleaved_equals_gptj():
    """GPT-J's table repeats each entry twice; its tensors are (B, T, H, d)."""
    q, _ = random(np.float64)
    cos, sin = rope_table(9, 16, dtype=np.float64)
    got = apply_rope(q, cos, sin, interleaved=True)
    want = apply_interleaved(torch.tensor(q), torch.tensor(sin)[None], torch.tensor(cos)[None])
    np.testing.assert_allclose(got.data, want.numpy(), atol=1e-12)


def test_frequencies_equal_llama():
    config = LlamaConfig(head_dim=64, hidden_size=64, num_attention_heads=1,
                         rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    theirs = LlamaRotaryEmbedding(config).inv_freq.numpy()
    np.testing.assert_allclose(rope_frequencies(64, 5e5), theirs, rtol=1e-6)
