"""The models of the causal-lm chapter against the same ones made of PyTorch's parts."""

import copy

import numpy as np
import torch

from scratchlm.language.causal_lm import (
    BengioLM,
    NeuralBigram,
    Windows,
    evaluate_lm,
    lm_loss,
)
from scratchlm.learning.adamw import AdamW


class TorchBengio(torch.nn.Module):
    def __init__(self, vocab_size, memory, embedding_dim, hidden_size):
        super().__init__()
        self.memory = memory
        self.embedding = torch.nn.Embedding(vocab_size, embedding_dim)
        self.hidden = torch.nn.Linear(memory * embedding_dim, hidden_size)
        self.output = torch.nn.Linear(hidden_size, vocab_size)

    def forward(self, ids):
        padded = torch.nn.functional.pad(ids, (self.memory - 1, 0))
        seen = padded.unfold(1, self.memory, 1)  # (B, T, m)
        return self.output(torch.tanh(self.hidden(self.embedding(seen).flatten(2))))


def pair():
    ours = BengioLM(17, 4, 6, 10, np.random.default_rng(0))
    theirs = TorchBengio(17, 4, 6, 10)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    return ours, theirs


def torch_loss(model, x, y):
    logits = model(torch.tensor(x))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(y).flatten())


def test_bengio_loss_and_gradients():
    ours, theirs = pair()
    x, y = next(Windows(np.arange(300) * 7 % 17, context=12, batch_size=5))
    loss, expected = lm_loss(ours, (x, y)), torch_loss(theirs, x, y)
    loss.backward()
    expected.backward()
    assert np.isclose(loss.item(), expected.item(), rtol=1e-5)  # float32
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert np.allclose(parameter.grad, named[name].grad.numpy(), atol=1e-6), name


def test_training_follows_torch():
    ours, theirs = pair()
    mine = AdamW(ours.parameters(), lr=0.01)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    windows = Windows(np.random.default_rng(1).integers(17, size=500), 8, 4)
    for _ in range(20):
        x, y = next(windows)
        ours.zero_grad()
        loss = lm_loss(ours, (x, y))
        loss.backward()
        mine.step()
        other.zero_grad()
        expected = torch_loss(theirs, x, y)
        expected.backward()
        other.step()
        assert np.isclose(loss.item(), expected.item(), rtol=1e-3)  # errors grow with the steps


def test_evaluation_is_torchs_sum():
    ours, theirs = pair()
    ids = np.random.default_rng(2).integers(17, size=100)
    found = evaluate_lm(ours, ids, context=16, n_bytes=100, stride=13)  # memory 4: exact
    whole = np.concatenate([[0], ids])
    with torch.no_grad():
        want = torch_loss(theirs, whole[None, :-1], whole[None, 1:]).item()
    assert np.isclose(found["valid_loss"], want, rtol=1e-5)


def test_bigram_is_a_table_of_logits():
    model = NeuralBigram(9, np.random.default_rng(0))
    ids = np.random.default_rng(3).integers(9, size=(2, 7))
    before = copy.deepcopy(model.state_dict())
    want = torch.nn.functional.embedding(torch.tensor(ids), torch.tensor(before["logits.weight"]))
    assert np.array_equal(model(ids).data, want.numpy())
