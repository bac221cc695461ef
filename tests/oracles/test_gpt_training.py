"""PyTorch as the judge of a whole training run: the same first weights, the same batches, the same losses.

Run as a program, it trains nanoGPT's configuration for computers without a graphics card for 2,000 steps on
characters of the corpus, on both sides, and compares the losses on held-out text:

    python tests/oracles/test_gpt_training.py
"""

import numpy as np
import pytest

from scratchlm.foundations.tensor import no_grad
from scratchlm.language.causal_lm import Windows, lm_loss
from scratchlm.learning.learning_rate import warmup_cosine
from scratchlm.workshop.bench import TRAININGS, made_up_batches, our_training, torch_training

pytest.importorskip("torch")


def both(shape, ids, batch_size, steps, warmup, measure_on=()):
    """Losses of our steps and of PyTorch's, and of both on `measure_on` after every tenth of them."""
    schedule, every = warmup_cosine(warmup, steps, final=0.1), max(1, steps // 10)
    batches = (Windows(ids, shape["n_positions"], batch_size) for _ in range(2))
    trainer = our_training(shape, next(batches), schedule=schedule)
    step, loss_of = torch_training(shape, next(batches))
    ours, theirs, held_out = [], [], []
    for k in range(steps):
        trainer.train_step()
        ours.append(trainer.history[-1]["loss"])
        theirs.append(step(schedule(k)))
        if measure_on and (k + 1) % every == 0:
            with no_grad():
                mine = np.mean([lm_loss(trainer.model, batch).item() for batch in measure_on])
            its = np.mean([loss_of(*batch) for batch in measure_on])
            held_out.append((k + 1, mine, its))
            print(f"step {k + 1:5}  loss on held-out text: ours {mine:.4f}, PyTorch {its:.4f}", flush=True)
    trainer.loss_fn.close()
    return np.array(ours), np.array(theirs), held_out


def test_a_hundred_steps_have_the_losses_of_pytorch():
    """Rounding is amplified by every step, and after a hundred has not reached a thousandth yet."""
    shape = {"vocab_size": 65, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ours, theirs, _ = both(shape, made_up_batches(shape, 8).ids, 8, 100, warmup=10)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-10:].mean() < ours[0] - 0.5  # it learns something


def test_another_learning_rate_would_be_noticed():
    shape = {"vocab_size": 65, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
    ids = made_up_batches(shape, 8).ids
    trainer = our_training(shape, Windows(ids, 32, 8), lr=1.1e-3)
    step, _ = torch_training(shape, Windows(ids, 32, 8))
    losses = []
    for _ in range(30):
        trainer.train_step()
        losses.append((trainer.history[-1]["loss"], step()))
    trainer.loss_fn.close()
    ours, theirs = np.array(losses).T
    assert np.abs(ours - theirs).max() > 1e-3 * theirs.max()


def characters(count):
    """Characters of the corpus as ids, and how many different ones there are."""
    from scratchlm.workshop.pull import corpus

    text = ""
    for document in corpus("train"):
        text += "".join(c for c in document.text if c == "\n" or " " <= c <= "~") + "\n"
        if len(text) >= count:
            break
    known = sorted(set(text[:count]))
    return np.array([known.index(c) for c in text[:count]]), len(known)


if __name__ == "__main__":
    ids, vocab_size = characters(1_000_000)
    shape, batch_size, *_ = next(iter(TRAININGS.values()))
    shape = shape | {"vocab_size": vocab_size}
    T = shape["n_positions"]
    held = ids[900_000:]
    count = (len(held) - 1) // T
    x, y = (held[i : i + count * T].reshape(count, T) for i in (0, 1))  # (windows, T)
    parts = [(x[i : i + 100], y[i : i + 100]) for i in range(0, count - count % 100, 100)]
    ours, theirs, held_out = both(shape, ids[:900_000], batch_size, 2000, 100, parts)
    _, mine, its = held_out[-1]
    print(f"{vocab_size} characters; last 100 training losses: ours {ours[-100:].mean():.4f}, "
          f"PyTorch {theirs[-100:].mean():.4f}; held-out text: {mine / its - 1:+.2%}")
    assert abs(mine / its - 1) < 0.02
