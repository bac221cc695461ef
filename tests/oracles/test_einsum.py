"""PyTorch as the judge of einsum: the same strings, results and gradients of every operand."""

import numpy as np
import pytest

from scratchlm.foundations.einsum import einsum
from scratchlm.foundations.tensor import Tensor

torch = pytest.importorskip("torch")

CALLS = [
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("ij,jk", (3, 4), (4, 5)),
    ("ij->ji", (3, 4)),
    ("ij->", (3, 4)),
    ("ii->", (4, 4)),
    ("ii->i", (4, 4)),
    ("iij,ij->j", (3, 3, 4), (3, 4)),
    ("i,j->ij", (3,), (4,)),
    ("i,i,i->i", (3,), (1,), (3,)),
    ("ij,ij->ij", (1, 4), (3, 1)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("i...,...j->...", (3, 1, 2), (4, 2, 5)),
    ("...ii->...i", (2, 3, 3)),
    ("bqhd,bkhd->bhqk", (2, 3, 4, 5), (2, 6, 4, 5)),
    ("bhqk,bkhd->bqhd", (2, 4, 3, 6), (2, 6, 4, 5)),
    ("bi,ij,bj->b", (4, 3), (3, 5), (4, 5)),
    ("ab,bc,cd,de->ae", (2, 7), (7, 3), (3, 6), (6, 2)),
    ("abc,abd,abe->cde", (2, 3, 4), (2, 3, 1), (2, 3, 2)),
    ("ij,kl->", (2, 3), (3, 2)),
    (",i->i", (), (3,)),
    ("ij,jk->ik", (3, 0), (0, 5)),
    ("Ab,bC->CA", (2, 3), (3, 4)),
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_result_and_gradients_equal_torch(call):
    subscripts, *shapes = call
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in shapes]
    ours = [Tensor(array, requires_grad=True) for array in arrays]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    got, want = einsum(subscripts, *ours), torch.einsum(subscripts, *theirs)
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-12, atol=1e-12)
    seed = rng.normal(size=got.shape)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_lists_equal_torch():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5))
    got = einsum(a, [Ellipsis, 0], b, [0, 30], [30, Ellipsis])
    want = torch.einsum(torch.tensor(a), [..., 0], torch.tensor(b), [0, 30], [30, ...])
    np.testing.assert_allclose(got.data, want.numpy(), rtol=1e-12, atol=1e-12)
