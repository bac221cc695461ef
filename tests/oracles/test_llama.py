"""transformers as the judge of Llama: its checkpoints load, logits, gradients and a step agree."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM

from scratchlm.language.causal_lm import lm_loss
from scratchlm.learning.adamw import AdamW
from scratchlm.transformer.llama import (
    Llama,
    LlamaConfig,
    from_pretrained,
    llama_parameters,
)

SHAPE = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
         "initializer_range": 0.2}
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "grouped": {"num_key_value_heads": 2},
    "multi-query": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "head_dim": {"head_dim": 20, "num_key_value_heads": 2},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True},
    "rope_theta": {"rope_parameters": {"rope_theta": 123456.0, "rope_type": "default"}},
    "small base": {"rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}},
    "gelu": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3},
    "one layer": {"num_hidden_layers": 1, "num_attention_heads": 6, "num_key_value_heads": 3},
}


def theirs(**options):
    torch.manual_seed(0)
    model = LlamaForCausalLM(TheirConfig(**SHAPE | options)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:  # biases and norms start as constants; make them count
                p.add_(0.3 * torch.randn_like(p))
    return model


def to_old_style(folder):
    """Rewrite config.json as it was before transformers 5."""
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    rope = settings.pop("rope_parameters")
    settings |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize("style", ["new", "old"])
@pytest.mark.parametrize("name", VARIANTS)
def test_their_checkpoint_loads(name, style, tmp_path):
    """No table of names, and logits to 1e-4 of the largest, beyond max_position_embeddings too."""
    other = theirs(**VARIANTS[name])
    other.save_pretrained(tmp_path)
    if style == "old":
        to_old_style(tmp_path)
    ours = from_pretrained(tmp_path)
    assert isinstance(ours, Llama) and not ours.training
    assert ours.num_parameters() == sum(p.numel() for p in other.parameters())
    assert ours.num_parameters() == sum(llama_parameters(ours.config).values())
    ids = np.random.default_rng(1).integers(61, size=(3, 100))
    with torch.no_grad():
        want = other(torch.tensor(ids)).logits.numpy()
    assert np.abs(ours(ids).data - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_our_checkpoint_loads(name, tmp_path):
    """The other way: what we write, transformers reads."""
    settings = theirs(**VARIANTS[name]).config.to_dict()
    ours = Llama(LlamaConfig.from_dict(settings), np.random.default_rng(2))
    ours.save_pretrained(tmp_path)
    other, report = LlamaForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = np.random.default_rng(1).integers(61, size=(2, 20))
    with torch.no_grad():
        want = other.eval()(torch.tensor(ids)).logits.numpy()
    assert np.abs(ours(ids).data - want).max() < 1e-4 * np.abs(want).max()


def test_sharded(tmp_path):
    other = theirs()
    other.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = np.arange(10)[None]
    with torch.no_grad():
        want = other(torch.tensor(ids)).logits.numpy()
    assert np.abs(from_pretrained(tmp_path)(ids).data - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", ["plain", "multi-query", "mlp_bias", "head_dim"])
def test_gradients_and_one_step(name, tmp_path):
    """Gradients to 1e-4 of the largest of each; after one step of AdamW, weights to 1e-5."""
    other = theirs(**VARIANTS[name])
    other.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    x, y = np.random.default_rng(3).integers(61, size=(2, 4, 16))
    loss = lm_loss(ours, (x, y))
    loss.backward()
    logits = other(torch.tensor(x)).logits
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(y).flatten())
    wanted.backward()
    assert abs(loss.item() - wanted.item()) < 1e-5
    pairs = dict(other.named_parameters())
    for key, p in ours.named_parameters():
        want = pairs[key].grad.numpy()
        assert np.abs(p.grad - want).max() < 1e-4 * np.abs(want).max(), key
    # eps keeps gradients that are nearly zero from deciding about a whole step by their sign
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-4, "weight_decay": 0.1}
    AdamW(ours.parameters(), **settings).step()
    torch.optim.AdamW(other.parameters(), **settings).step()
    for key, p in ours.named_parameters():
        assert np.abs(p.data - pairs[key].detach().numpy()).max() < 1e-5, key


def test_unknown_scaling_is_refused(tmp_path):
    theirs().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    settings["rope_parameters"] |= {"rope_type": "longrope", "factor": 8.0}
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="'longrope' is unknown"):
        from_pretrained(tmp_path)
