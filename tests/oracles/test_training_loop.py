"""PyTorch as the judge of a whole training: optimiser, clipping, schedule and loss together.

And what a notebook cannot test: the display in a terminal, and Ctrl-C from outside.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import torch

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.adamw import AdamW
from scratchlm.learning.dataset import ArrayDataset, DataLoader, forever
from scratchlm.learning.learning_rate import warmup_cosine
from scratchlm.learning.loss import cross_entropy
from scratchlm.learning.mlp import MLP
from scratchlm.learning.training_loop import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 12))
Y = (X @ RNG.normal(size=(12, 5))).argmax(axis=1)


def double_precision_mlp():
    model = MLP([12, 16, 5], rng=np.random.default_rng(1))
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    return model


def test_thirty_steps_equal_torch():
    """In float64 both do the same arithmetic in another order: 30 steps agree to 1e-9."""
    model, schedule = double_precision_mlp(), warmup_cosine(5, 30)
    data = ArrayDataset(X, Y)
    trainer = Trainer(
        model, AdamW(model.parameters(), lr=0.02, weight_decay=0.1),
        lambda model, batch: cross_entropy(model(Tensor(batch[0])), batch[1]),
        DataLoader(data, 16), schedule=schedule, clip_norm=0.5,
    )
    twins = [torch.tensor(p.data.copy(), requires_grad=True) for p in model.parameters()]
    shapes = [tuple(t.shape) for t in twins]
    assert shapes == [(16, 12), (16,), (5, 16), (5,)]
    optimizer = torch.optim.AdamW(twins, lr=0.02, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)

    trainer.fit(30)
    batches = forever(DataLoader(data, 16))
    for record in trainer.history:
        x, y = map(torch.tensor, next(batches))
        hidden = torch.relu(torch.nn.functional.linear(x, twins[0], twins[1]))
        logits = torch.nn.functional.linear(hidden, twins[2], twins[3])
        loss = torch.nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(twins, 0.5)
        np.testing.assert_allclose(record["lr"], optimizer.param_groups[0]["lr"], rtol=1e-12)
        optimizer.step()
        scheduler.step()
        # PyTorch's clipping adds 1e-6 to the norm, so that gradients differ by 2e-6 at most;
        # Adam divides most of that out again
        np.testing.assert_allclose(record["loss"], loss.item(), rtol=1e-6)
        np.testing.assert_allclose(record["grad_norm"], norm.item(), rtol=1e-5)
    for mine, other in zip(model.parameters(), twins, strict=True):
        np.testing.assert_allclose(mine.data, other.detach().numpy(), atol=1e-6)


PROGRAM = textwrap.dedent("""
    import sys
    import time
    import numpy as np
    from scratchlm.learning.dataset import ArrayDataset, DataLoader
    from scratchlm.learning.gradient_descent import SGD
    from scratchlm.learning.mlp import MLP
    from scratchlm.learning.training_loop import (
        LossPlot, ProgressBar, Trainer, classification_loss)

    data = ArrayDataset(np.ones((8, 3), dtype=np.float32), np.zeros(8, dtype=np.int64))
    model = MLP([3, 2])
    def loss(model, batch):
        time.sleep(0.01)
        return classification_loss(model, batch)
    trainer = Trainer(model, SGD(model.parameters(), lr=0.1), loss, DataLoader(data, 4),
                      callbacks=[ProgressBar(), LossPlot()])
    print("ready", flush=True)
    trainer.fit(int(sys.argv[1]))
    print("ended at", trainer.step, trainer.stopping, "matplotlib" in sys.modules)
""")


def start(steps):
    """The program, which heeds Ctrl-C even if these tests run in the background of a shell, and do not."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(steps)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=os.environ | {"COLUMNS": "90"},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def test_the_display_is_one_line_where_there_is_no_terminal():
    process = start(5)
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    assert lines[0] == "ready" and lines[-1] == "ended at 5 False False", lines
    assert len(lines) == 3 and lines[1].startswith("5/5 ━━━") and "steps/s · in" in lines[1]


def test_ctrl_c_from_outside_ends_it_cleanly():
    process = start(100_000)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0 and "stopped" in lines[0], lines
    assert lines[-1].startswith("ended at") and lines[-1].endswith("True False"), lines
