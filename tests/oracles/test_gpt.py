"""transformers as the judge of GPT: files of GPT-2 in both directions, logits, a step of AdamW."""

import json

import numpy as np
import pytest

from scratchlm.foundations.tensor import no_grad
from scratchlm.language.causal_lm import lm_loss
from scratchlm.learning.adamw import AdamW
from scratchlm.learning.weight_decay import decay_groups
from scratchlm.transformer.checkpoint import load_safetensors, save_safetensors
from scratchlm.transformer.gpt import GPT, GPTConfig, gpt_parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPES = {
    "small": {"vocab_size": 97, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "narrow MLP, other GELU": {"vocab_size": 50, "n_positions": 16, "n_embd": 24, "n_layer": 1,
                               "n_head": 3, "n_inner": 40, "activation_function": "gelu"},
    "untied": {"vocab_size": 61, "n_positions": 16, "n_embd": 16, "n_layer": 3, "n_head": 2,
               "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
}


def written(folder, seed=0, std=0.2, **shape):
    """A GPT-2 with random weights, large enough for every path to matter, and its folder."""
    torch.manual_seed(seed)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(1 if p.ndim == 1 else 0, std)
    theirs.save_pretrained(folder)
    return theirs


def random_ids(shape, batch=3, seed=1):
    return np.random.default_rng(seed).integers(shape["vocab_size"],
                                                size=(batch, shape["n_positions"]))


def assert_same_logits(ours, theirs, ids, rtol=1e-4):
    """float32: equal to a ten-thousandth of the largest logit."""
    with no_grad(), torch.no_grad():
        want = theirs(torch.tensor(ids)).logits.numpy()
        got = ours(ids).data
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_folder_of_transformers_loads(tmp_path, shape):
    theirs = written(tmp_path, **shape)
    ours = GPT.from_pretrained(tmp_path)
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters() == sum(gpt_parameters(ours.config).values())
    assert not ours.training
    for length in (1, 2, shape["n_positions"]):
        assert_same_logits(ours, theirs, random_ids(shape)[:, :length])


def test_names_are_theirs(tmp_path):
    theirs = written(tmp_path, **SHAPES["untied"])
    assert set(GPT.from_pretrained(tmp_path).state_dict()) == set(theirs.state_dict())


def test_a_folder_in_shards_loads(tmp_path):
    theirs = written(tmp_path / "whole", **SHAPES["small"])
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    assert_same_logits(GPT.from_pretrained(tmp_path / "shards"), theirs,
                       random_ids(SHAPES["small"]))


def test_an_old_file_loads(tmp_path):
    """The gpt2 repository's: no prefix, the causal mask stored with every block."""
    shape = SHAPES["small"]
    theirs = written(tmp_path, **shape)
    file, n = tmp_path / "model.safetensors", shape["n_positions"]
    old = {name.removeprefix("transformer."): array
           for name, array in load_safetensors(file).items()}
    for layer in range(shape["n_layer"]):
        old[f"h.{layer}.attn.bias"] = np.tri(n, dtype=np.float32)[None, None]
        old[f"h.{layer}.attn.masked_bias"] = np.float32(-1e4)
    file.unlink()
    save_safetensors(file, old)
    assert "wte.weight" in load_safetensors(file)
    ours = GPT.from_pretrained(tmp_path)
    assert_same_logits(ours, theirs, random_ids(shape))
    assert_same_logits(ours, transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval(),
                       random_ids(shape))


def test_a_file_with_the_output_layer_loads(tmp_path):
    """Tied, but stored twice; and refused if the two differ."""
    shape = SHAPES["small"]
    theirs = written(tmp_path, **shape)
    state = {name: array.copy() for name, array
             in load_safetensors(tmp_path / "model.safetensors").items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    (tmp_path / "model.safetensors").unlink()
    save_safetensors(tmp_path / "model.safetensors", state)
    assert_same_logits(GPT.from_pretrained(tmp_path), theirs, random_ids(shape))
    save_safetensors(tmp_path / "model.safetensors",
                     state | {"lm_head.weight": state["transformer.wte.weight"] + 1})
    with pytest.raises(ValueError, match="differs from another array for the same tied"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_transformers_loads_our_folder(tmp_path, shape):
    ours = GPT(GPTConfig(**shape), np.random.default_rng(0)).eval()
    ours.save_pretrained(tmp_path)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert not set(report["missing_keys"]) - {"lm_head.weight"}
    assert_same_logits(ours, theirs.eval(), random_ids(shape))


def test_variants_that_we_do_not_compute_are_refused(tmp_path):
    written(tmp_path, **SHAPES["small"])
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    for name, value in (("scale_attn_by_inverse_layer_idx", True), ("model_type", "llama"),
                        ("scale_attn_weights", False)):
        file.write_text(json.dumps(settings | {name: value}))
        with pytest.raises(ValueError, match=f"{name} is {value!r}; only"):
            GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_step_of_adamw_gives_the_same_weights(tmp_path, weight_decay):
    """After one step to 1e-5; after ten, rounding has been amplified by 1/√v, still to 1e-4."""
    shape = SHAPES["small"] | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).train()
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path).train()
    mine = AdamW(decay_groups(ours, weight_decay), lr=1e-3, betas=(0.9, 0.95))
    others = torch.optim.AdamW(
        [{"params": [p for p in theirs.parameters() if p.ndim >= 2],
          "weight_decay": weight_decay},
         {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95))
    for step in range(1, 11):
        ids = random_ids(shape, seed=step)
        x, y = ids[:, :-1], ids[:, 1:]
        loss = lm_loss(ours, (x, y))
        want = torch.nn.functional.cross_entropy(
            theirs(torch.tensor(x)).logits.flatten(0, 1), torch.tensor(y).flatten())
        assert loss.item() == pytest.approx(want.item(), rel=1e-5)
        for optimizer, each in ((mine, loss), (others, want)):
            optimizer.zero_grad()
            each.backward()
            optimizer.step()
        state = theirs.state_dict()
        for name, array in ours.state_dict().items():
            np.testing.assert_allclose(array, state[name].numpy(), rtol=0,
                                       atol=1e-5 if step == 1 else 1e-4, err_msg=name)
