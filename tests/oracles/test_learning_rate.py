"""PyTorch's schedulers as the judge of ours: the same rate at every step."""

import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.gradient_descent import SGD
from scratchlm.learning.learning_rate import (
    apply_schedule,
    constant,
    warm_up,
    warmup_cosine,
    warmup_linear,
    wsd,
)


def rates_of_torch(make, steps, lr=0.3):
    """The rate at each of `steps` steps of a PyTorch optimiser with this scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def our_rates(schedule, steps, lr=0.3):
    optimizer, rates = SGD([Tensor(np.zeros(1), requires_grad=True)], lr=lr), []
    for step in range(steps):
        apply_schedule(optimizer, schedule(step))
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine(final):
    want = rates_of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, 50, 0.3 * final), 50)
    np.testing.assert_allclose(our_rates(warmup_cosine(0, 50, final), 50), want, atol=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_line(final):
    want = rates_of_torch(lambda o: lr_scheduler.LinearLR(o, 1.0, final, 40), 60)
    np.testing.assert_allclose(our_rates(warmup_linear(0, 40, final), 60), want, atol=1e-12)


def test_warm_up():
    want = rates_of_torch(lambda o: lr_scheduler.LinearLR(o, 1 / 11, 1.0, 10), 30)
    np.testing.assert_allclose(our_rates(lambda step: warm_up(step, 10), 30), want, atol=1e-12)


@pytest.mark.parametrize("schedule", [
    constant(), warmup_cosine(7, 40), warmup_linear(7, 40), wsd(7, 40), wsd(0, 40, 1.0, 0.5)
])
def test_ours_as_their_lambda(schedule):
    want = rates_of_torch(lambda o: lr_scheduler.LambdaLR(o, schedule), 60)
    np.testing.assert_allclose(our_rates(schedule, 60), want, atol=1e-12)


def test_warm_up_then_cosine_as_a_sequence():
    """What PyTorch builds of two schedulers is one function here."""
    def make(optimizer):
        warm = lr_scheduler.LinearLR(optimizer, 1 / 6, 1.0, 5)
        down = lr_scheduler.LambdaLR(
            optimizer, lambda t: (1 + math.cos(math.pi * min(t, 45) / 45)) / 2)
        return lr_scheduler.SequentialLR(optimizer, [warm, down], [5])

    want = rates_of_torch(make, 50)
    np.testing.assert_allclose(our_rates(warmup_cosine(5, 50, 0.0), 50), want, atol=1e-12)
