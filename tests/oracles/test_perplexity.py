"""Strided evaluation against the loop that Hugging Face documents for fixed-length models."""

import math

import numpy as np
import pytest
import torch

from scratchlm.language.perplexity import bits_per_byte, strided_nats


def hugging_face_nats(model, ids, max_length, stride):
    """Sum of the losses of all targets, with their sliding window (docs: "Perplexity")."""
    total, previous = 0.0, 0
    for begin in range(0, len(ids) - 1, stride):
        end = min(begin + max_length, len(ids) - 1)
        inputs, targets = ids[None, begin:end], ids[None, begin + 1 : end + 1].clone()
        targets[:, : previous - begin] = -100
        logits = model(inputs)
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        ).item()
        previous = end
        if end == len(ids) - 1:
            break
    return total


@pytest.mark.parametrize(("count", "context", "stride"),
                         [(65, 16, 8), (65, 16, 16), (33, 8, 4), (9, 8, 2), (5, 8, 8)])
def test_equals_the_documented_loop(count, context, stride):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(6, 12, batch_first=True)  # depends on everything in its window
    table, head = torch.nn.Embedding(10, 6), torch.nn.Linear(12, 10)
    ids = torch.randint(10, (count,))

    def model(x):
        return head(lstm(table(torch.as_tensor(x)))[0])

    with torch.no_grad():
        want = hugging_face_nats(model, ids, context, stride)
        found = strided_nats(lambda x: model(x).numpy(), ids.numpy(), context, stride, 3)
    assert np.isclose(found, want, rtol=1e-5)  # float32
    assert np.isclose(bits_per_byte(found, count), found / math.log(2) / count)
