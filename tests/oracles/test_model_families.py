"""The proof behind `grants: transformers.AutoConfig`: all families, from both formats."""

import json

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFWriter

import scratchlm.transformer.model_families as families
from scratchlm.foundations.tensor import no_grad
from scratchlm.inference.gguf import GGUF, to_hf
from scratchlm.inference.kv_cache import KVCache
from scratchlm.transformer.gpt import GPT
from scratchlm.transformer.llama import Llama
from scratchlm.transformer.sliding_window import WindowCache

SHAPE = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 7,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
         "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 7}
NESTED = {"full_attention": {"rope_type": "default", "rope_theta": 3000.0},
          "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}}
VARIANTS = {  # name -> its classes in transformers, and what makes every part count
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None, "head_dim": 20}),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, biases": ("Qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {}),
    "smollm3, windows": ("SmolLM3", {"use_sliding_window": True, "sliding_window": 4,
                                     "no_rope_layer_interval": 3}),
    "gemma2": ("Gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2, no caps": ("Gemma2", GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("Gemma3", GEMMA),
    "gemma3, bases": ("Gemma3", GEMMA | {"rope_parameters": NESTED, "final_logit_softcapping": 2.0}),
    "gemma3, listed": ("Gemma3", GEMMA | {"layer_types": ["full_attention", "sliding_attention"] * 3
                                          + ["full_attention"]}),
}
CUTS = [(0, 9), (9, 10), (10, 11), (11, 25), *((n, n + 1) for n in range(25, 40))]


def theirs(name):
    """A random model of transformers, in which norms and biases count too."""
    family, options = VARIANTS[name]
    config = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    torch.manual_seed(0)
    config = getattr(transformers, config)(**SHAPE | options, attn_implementation="eager")
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def far(a, b):
    """The largest difference, as a part of the largest logit."""
    return np.abs(a - b).max() / np.abs(b).max()


IDS = np.random.default_rng(1).integers(61, size=(2, 40))


@pytest.mark.parametrize("name", VARIANTS)
def test_safetensors(name, tmp_path):
    """No table of names; logits to 1e-4, with either cache and without, far beyond the windows."""
    other = theirs(name)
    other.save_pretrained(tmp_path)
    ours = families.from_pretrained(tmp_path)
    assert isinstance(ours, Llama) and not ours.training
    assert ours.num_parameters() == sum(p.numel() for p in other.parameters())
    want = logits(other, IDS)
    with no_grad():
        assert far(ours(IDS).data, want) < 1e-4
    caches = [KVCache] if name == "llama" else [KVCache, WindowCache]
    for kind in caches:
        cache = kind(ours.config, 64, 2)
        with no_grad():
            parts = [ours(IDS[:, a:b], cache=cache).data for a, b in CUTS]
        assert far(np.concatenate(parts, axis=1), want) < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_one_text_token_by_token(name, tmp_path):
    """The step that is written out by hand must leave alone what it cannot compute."""
    theirs(name).save_pretrained(tmp_path)
    ours, ids = families.from_pretrained(tmp_path), IDS[:1]
    cache = KVCache(ours.config, 64)
    with no_grad():
        parts = [ours(ids[:, n : n + 1], cache=cache).data for n in range(40)]
        assert far(np.concatenate(parts, axis=1), ours(ids).data) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_the_other_way(name, tmp_path):
    """What we save, transformers loads, and its AutoConfig finds the family."""
    other = theirs(name)
    other.save_pretrained(tmp_path / "theirs")
    families.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert type(config) is type(other.config)
    again, report = type(other).from_pretrained(
        tmp_path / "ours", dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert far(logits(again.eval(), IDS), logits(other, IDS)) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_configuration_of_autoconfig(name, tmp_path):
    """What AutoConfig makes of a config.json means the same to us as the file itself."""
    theirs(name).config.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    config_class = families.model_classes(settings)[1]
    full = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    assert config_class.from_dict(full) == config_class.from_dict(settings)


def test_old_style_gemma3(tmp_path):
    """config.json as it was before transformers 5."""
    other = theirs("gemma3, bases")
    other.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    del settings["rope_parameters"], settings["layer_types"]
    settings |= {"rope_theta": 3000.0, "rope_local_base_freq": 20.0, "rope_scaling": None,
                 "sliding_window_pattern": 6}
    path.write_text(json.dumps(settings))
    with no_grad():
        assert far(families.from_pretrained(tmp_path)(IDS).data, logits(other, IDS)) < 1e-4


def test_gpt2(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=61, n_positions=64, n_embd=48, n_layer=2, n_head=4)
    other = transformers.GPT2LMHeadModel(config).eval()
    other.save_pretrained(tmp_path)
    ours = families.from_pretrained(tmp_path)
    assert type(ours) is GPT is families.model_class({"model_type": "gpt2"})
    want, cache = logits(other, IDS), KVCache(ours.config, 64, 2)
    with no_grad():
        parts = [ours(IDS[:, a:b], cache=cache).data for a, b in CUTS]
        assert far(ours(IDS).data, want) < 1e-4 and far(np.concatenate(parts, axis=1), want) < 1e-4


def permute(weight, heads):
    """What llama.cpp's converter does to q and k, as it is written there."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def convert(model, path):
    """Write a model of transformers as llama.cpp's converter does, with the package's table of names."""
    c, kind = model.config, model.config.model_type
    kind = {"gemma3_text": "gemma3", "mistral": "llama"}.get(kind, kind)
    writer = GGUFWriter(path, kind)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    rope = c.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if getattr(c, "head_dim", None):
        writer.add_key_length(c.head_dim)
        writer.add_value_length(c.head_dim)
    if kind.startswith("gemma"):
        writer.add_sliding_window(c.sliding_window)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], c.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}
        if kind in ("llama", "smollm3") and name.split(".")[-2] in heads:
            array = permute(array, heads[name.split(".")[-2]])
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUF_VARIANTS = ["llama", "mistral, no window", "qwen2", "qwen2, tied", "qwen3", "qwen3, biases",
                 "smollm3", "gemma2", "gemma3"]


@pytest.mark.parametrize("name", GGUF_VARIANTS)
def test_gguf(name, tmp_path, monkeypatch):
    """The same logits from a GGUF file; what a file does not say, llama.cpp knows, and so do we."""
    family, options = VARIANTS[name]
    if name.startswith("gemma"):  # not in the file: all but the largest use the root of head_dim
        monkeypatch.setitem(VARIANTS, name, (family, options | {"query_pre_attn_scalar": 16}))
    other = theirs(name)
    convert(other, tmp_path / "x.gguf")
    ours = families.from_state(*to_hf(GGUF(tmp_path / "x.gguf")))
    assert ours.num_parameters() == sum(p.numel() for p in other.parameters())
    cache = KVCache(ours.config, 64, 2)
    with no_grad():
        assert far(ours(IDS).data, logits(other, IDS)) < 1e-4
        parts = [ours(IDS[:, a:b], cache=cache).data for a, b in CUTS]
    assert far(np.concatenate(parts, axis=1), logits(other, IDS)) < 1e-4


@pytest.mark.parametrize("kind, layers", [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma(kind, layers, tmp_path, monkeypatch):
    """llama.cpp knows it by its layers: scores are divided by the root of hidden_size / heads."""
    family, options = VARIANTS[kind]
    largest = options | {"num_hidden_layers": layers, "query_pre_attn_scalar": 12}
    monkeypatch.setitem(VARIANTS, kind, (family, largest))
    other = theirs(kind)
    convert(other, tmp_path / "x.gguf")
    ours = families.from_state(*to_hf(GGUF(tmp_path / "x.gguf")))
    with no_grad():
        assert far(ours(IDS[:, :20]).data, logits(other, IDS[:, :20])) < 1e-3  # many layers


def test_load_picks_the_class(tmp_path):
    """scratchlm.load, from a file without and a folder with a tokenizer."""
    import scratchlm

    other = theirs("gemma3")
    other.save_pretrained(tmp_path)
    alphabet = [chr(33 + n) for n in range(61)]
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                 "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {c: n for n, c in enumerate(alphabet)}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    lm = scratchlm.load(tmp_path)
    assert type(lm.model) is families.Decoder and lm.model.config.model_type == "gemma3_text"
    assert far(lm.logits(IDS[0]), logits(other, IDS)[0]) < 1e-4
