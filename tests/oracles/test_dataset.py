"""PyTorch's DataLoader as the judge of ours: given the same order, the same batches."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from scratchlm.learning.dataset import ArrayDataset, DataLoader, random_split

ARRAYS = np.random.default_rng(0).normal(size=(23, 4)), np.arange(23)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [1, 5, 23, 30])
def test_batches_equal_torch(size, drop_last):
    if drop_last and size > 23:
        return  # PyTorch gives no batch at all; ours refuses
    loader = DataLoader(ArrayDataset(*ARRAYS), size, drop_last=drop_last, seed=4)
    for epoch in range(2):
        theirs = TorchLoader(TensorDataset(*map(torch.tensor, ARRAYS)), size, drop_last=drop_last,
                             sampler=loader.order(epoch).tolist())
        pairs = list(zip(loader, theirs, strict=True))
        assert len(pairs) == len(loader) == len(theirs)
        for mine, other in pairs:
            for a, b in zip(mine, other, strict=True):
                assert np.array_equal(a, b.numpy())


def test_torch_reads_our_datasets():
    """Our datasets have what PyTorch asks of one: a length, and an example for an index."""
    train, _ = random_split(ArrayDataset(*ARRAYS), [0.8, 0.2])
    batches = list(TorchLoader(train, batch_size=6))
    assert np.array_equal(np.concatenate([y.numpy() for _, y in batches]), train[:][1])
