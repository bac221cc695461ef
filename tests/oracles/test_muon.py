"""Muon beside PyTorch's, step by step, and on the models of later chapters.

PyTorch's Muon orthogonalises in bfloat16 and has no option against it. `full_precision` lets
it go on in the dtype of the gradient, so that nothing but roundings is left between the two.
"""

import numpy as np
import pytest
import torch

from scratchlm.foundations.tensor import Tensor
from scratchlm.language.causal_lm import Windows, lm_loss
from scratchlm.learning.learning_rate import warmup_cosine
from scratchlm.learning.linear import Linear, Parameter, Sequential
from scratchlm.learning.loss import cross_entropy
from scratchlm.learning.muon import Muon, MuonAdamW, muon_groups, newton_schulz
from scratchlm.learning.training_loop import Trainer
from scratchlm.transformer.checkpoint import load_checkpoint, save_checkpoint
from scratchlm.transformer.gpt import GPT, GPTConfig
from scratchlm.transformer.llama import Llama, LlamaConfig

SHAPES = [(6, 6), (4, 9), (30, 8), (1, 5), (64, 48)]
# what is left of roundings after ten steps; Newton–Schulz makes them up to 500 times larger
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}


@pytest.fixture
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


def run_beside_torch(options, dtype, steps=10):
    """Take steps with the same gradients; returns both optimizers and sets of parameters."""
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    ours = [Parameter(start.copy()) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    optimizer, other = Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for step in range(steps):
        for number, (p, q) in enumerate(zip(ours, theirs)):
            grad = (10.0 ** (number - 2) * (rng.normal(size=p.shape) + 0.3)).astype(dtype)
            skipped = number == 1 and (step < 2 or step % 4 == 0)  # joins late, pauses at times
            p.grad = None if skipped else grad
            q.grad = None if skipped else torch.tensor(grad)
        optimizer.step()
        other.step()
    return optimizer, other, ours, theirs


def assert_equal(ours, theirs, tolerance):
    for p, q in zip(ours, theirs):
        found = q.detach().numpy()
        assert p.dtype == found.dtype and p.shape == found.shape
        assert np.allclose(p.data, found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov, weight_decay", [(True, 0.0), (False, 0.0), (True, 0.5)])
def test_muon(full_precision, dtype, adjust_lr_fn, nesterov, weight_decay):
    options = {"lr": 0.02, "momentum": 0.95, "nesterov": nesterov,
               "weight_decay": weight_decay, "adjust_lr_fn": adjust_lr_fn}
    ours, theirs, params, torch_params = run_beside_torch(options, dtype)
    assert_equal(params, torch_params, TOLERANCE[dtype])
    for state, q in zip(ours.state, torch_params):
        assert set(state) == set(theirs.state[q]) == {"momentum_buffer"}
        buffer = theirs.state[q]["momentum_buffer"].numpy()
        assert np.allclose(state["momentum_buffer"], buffer, rtol=1e-5,
                           atol=1e-6 * np.abs(buffer).max())


def test_a_state_from_torch_goes_on_here(full_precision):
    _, theirs, params, torch_params = run_beside_torch({"weight_decay": 0.0}, np.float64, 5)
    optimizer = Muon(params, lr=1e-3)
    for p, q, state in zip(params, torch_params, optimizer.state):
        p.data = q.detach().numpy().copy()
        state["momentum_buffer"] = theirs.state[q]["momentum_buffer"].numpy().copy()
        q.grad = torch.ones_like(q)
        p.grad = np.ones(p.shape)
    optimizer.step()
    theirs.step()
    assert_equal(params, torch_params, 1e-10)


def test_bfloat16_is_close():
    """PyTorch's step as it is: the same up to the three digits of bfloat16."""
    matrix = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    q = torch.nn.Parameter(torch.zeros(64, 48))
    q.grad = torch.tensor(matrix)
    torch.optim.Muon([q], lr=1.0, weight_decay=0.0).step()
    theirs, ours = -q.detach().numpy(), newton_schulz(matrix) * (64 / 48) ** 0.5
    cosine = (theirs * ours).sum() / np.linalg.norm(theirs) / np.linalg.norm(ours)
    assert cosine > 0.99


def test_muon_with_adamw(full_precision):
    """A network trained for ten steps: hidden matrix by Muon, first and last layer by AdamW."""
    rng = np.random.default_rng(1)
    ours = Sequential(Linear(6, 16, rng=rng), Tensor.tanh, Linear(16, 12, rng=rng), Tensor.tanh,
                      Linear(12, 4, rng=rng))
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(),
                                 torch.nn.Linear(16, 12), torch.nn.Tanh(),
                                 torch.nn.Linear(12, 4))
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    optimizer = MuonAdamW(muon_groups(ours, adamw=["0", "4"]), lr=0.05, adamw_lr=0.01)
    hidden = theirs[2].weight
    others = [
        torch.optim.Muon([hidden], lr=0.05, weight_decay=0.0),
        torch.optim.AdamW([p for p in theirs.parameters() if p is not hidden], lr=0.01,
                          betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for _ in range(10):
        x, y = rng.normal(size=(32, 6)).astype(np.float32), rng.integers(0, 4, 32)
        optimizer.zero_grad()
        cross_entropy(ours(x), y).backward()
        optimizer.step()
        for other in others:
            other.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)).backward()
        for other in others:
            other.step()
    for name, array in ours.state_dict().items():
        found = theirs.state_dict()[name].numpy()
        assert np.allclose(array, found, rtol=1e-5, atol=1e-5 * np.abs(found).max())


def gpt():
    config = GPTConfig(vocab_size=50, n_positions=16, n_embd=12, n_layer=2, n_head=2)
    return GPT(config, rng=np.random.default_rng(0))


def names(groups):
    """Names by (use_muon, split, fan_in_fan_out), without the number of the block."""
    return {
        (group["use_muon"], group.get("split"), group.get("fan_in_fan_out"),
         group["weight_decay"]): {name for name, _ in group["params"]} for group in groups
    }


def test_groups_of_gpt2():
    found = names(muon_groups(gpt(), 0.1))
    blocks = [f"transformer.h.{layer}" for layer in (0, 1)]
    assert found[True, 3, True, 0.1] == {f"{b}.attn.c_attn.weight" for b in blocks}
    assert found[True, 1, False, 0.1] == {f"{b}.attn.c_proj.weight" for b in blocks}  # square
    assert found[True, 1, True, 0.1] == {
        f"{b}.mlp.{name}.weight" for b in blocks for name in ("c_fc", "c_proj")}
    assert found[False, None, None, 0.1] == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert all("ln_" in name or name.endswith("bias") for name in found[False, None, None, 0.0])
    assert len(found) == 5


@pytest.mark.parametrize("tied", [True, False])
def test_groups_of_llama(tied):
    config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=20,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=16, tie_word_embeddings=tied)
    found = names(muon_groups(Llama(config), 0.1))
    hidden = {f"{part}_proj.weight" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {name.split(".")[-2] + ".weight" for name in found[True, 1, False, 0.1]} == hidden
    assert len(found[True, 1, False, 0.1]) == 2 * len(hidden)
    rest = {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert found[False, None, None, 0.1] == rest


def test_queries_keys_and_values_of_gpt2_go_their_own_ways():
    """The step of c_attn, (in, 3 · out), is that of three matrices (out, in)."""
    model = gpt()
    optimizer = MuonAdamW(muon_groups(model), lr=0.1)
    lm_loss(model, next(Windows(np.arange(40), 8, 4))).backward()
    weight = model.transformer.h[0].attn.c_attn.weight
    before, grad = weight.data.copy(), weight.grad.copy()
    optimizer.step()
    for part in range(3):
        columns = slice(12 * part, 12 * part + 12)
        step = (before - weight.data)[:, columns]
        # the step is read off as a difference of weights, exact to some 1e-8
        assert np.allclose(step, 0.1 * newton_schulz(grad[:, columns].T).T, atol=1e-5)


def test_checkpoint_of_a_trainer(tmp_path):
    """Stopped, stored in a file, loaded and resumed: the same to the last bit."""
    def trainer():
        model = gpt()
        optimizer = MuonAdamW(muon_groups(model, 0.1), lr=0.05, adamw_lr=0.01)
        return Trainer(model, optimizer, lm_loss, Windows(np.arange(50), 8, 4),
                       schedule=warmup_cosine(2, 8), clip_norm=1.0)

    whole, resumed = trainer(), trainer()
    whole.fit(4)
    save_checkpoint(tmp_path / "checkpoint.safetensors", whole)
    whole.fit(8)
    load_checkpoint(tmp_path / "checkpoint.safetensors", resumed)
    resumed.fit(8)
    for name, array in whole.model.state_dict().items():
        assert np.array_equal(array, resumed.model.state_dict()[name])
    rates = {group["use_muon"]: group["lr"] for group in resumed.optimizer.param_groups}
    assert rates[True] == pytest.approx(5 * rates[False])
