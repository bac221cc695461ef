"""The proof behind `grants: torch.Tensor`: equal values, gradients, dtypes and refusals."""

import numpy as np
import pytest
import torch

from scratchlm.foundations.tensor import (
    Tensor,
    clip,
    concatenate,
    matmul,
    maximum,
    minimum,
    no_grad,
    power,
    stack,
    where,
)

# Each operation twice: ours and PyTorch's. All are tame on numbers of moderate size.
ONE = {
    "negative": (lambda x: -x, lambda x: -x),
    "tanh": (Tensor.tanh, torch.tanh),
    "sin": (Tensor.sin, torch.sin),
    "cos": (Tensor.cos, torch.cos),
    "exp": (lambda x: (-x * x).exp(), lambda x: (-x * x).exp()),
    "log": (lambda x: (abs(x) + 0.5).log(), lambda x: (abs(x) + 0.5).log()),
    "sqrt": (lambda x: (x.abs() + 0.5).sqrt(), lambda x: (x.abs() + 0.5).sqrt()),
    "square": (lambda x: x**2, lambda x: x**2),
    "root": (lambda x: (x * x + 1) ** -0.5, lambda x: (x * x + 1) ** -0.5),
    "base": (lambda x: 2.0**x, lambda x: 2.0**x),
    "clip": (lambda x: clip(x, -0.5, 0.7), lambda x: torch.clip(x, -0.5, 0.7)),
    "reflected": (lambda x: 1 - 2 / (x * x + 3), lambda x: 1 - 2 / (x * x + 3)),
    "masked_fill": (lambda x: x.masked_fill(x > 0.6, 0.1), lambda x: x.masked_fill(x > 0.6, 0.1)),
    "flat": (lambda x: x.reshape(-1), lambda x: x.reshape(-1)),
    "turn": (lambda x: x.transpose(), lambda x: x.permute(*range(x.ndim)[::-1])),
    "stack": (lambda x: stack([x, x * 2], axis=-1), lambda x: torch.stack([x, x * 2], dim=-1)),
    "first": (lambda x: x[:1], lambda x: x[:1]),
    "rows": (lambda x: x[[0, -1, 0]], lambda x: x[[0, -1, 0]]),
    "mask": (lambda x: x[x.data > -1.0], lambda x: x[x > -1.0]),
    "last": (lambda x: x[..., -1, None], lambda x: x[..., -1, None]),
    "halves": (lambda x: x.split([1])[0], lambda x: torch.tensor_split(x, [1])[0]),
}
TWO = {
    "add": (lambda x, y: x + y, torch.add),
    "subtract": (lambda x, y: x - y, torch.sub),
    "multiply": (lambda x, y: x * y, torch.mul),
    "divide": (lambda x, y: x / (y * y + 1), lambda x, y: x / (y * y + 1)),
    "power": (lambda x, y: power(abs(x) + 0.5, y), lambda x, y: (abs(x) + 0.5) ** y),
    "maximum": (maximum, torch.maximum),
    "minimum": (minimum, torch.minimum),
    "where": (lambda x, y: where(x > 0.1, x, y), lambda x, y: torch.where(x > 0.1, x, y)),
}
REDUCTIONS = {
    "sum": (Tensor.sum, torch.sum),
    "mean": (Tensor.mean, torch.mean),
    "max": (Tensor.max, torch.amax),
    "min": (Tensor.min, torch.amin),
    "var": (Tensor.var, lambda x, dim, keepdim: torch.var(x, dim, correction=0, keepdim=keepdim)),
}


def close(ours, theirs, tolerance=1e-9):
    theirs = theirs.detach().numpy()
    if ours.shape != theirs.shape:
        return False
    return bool(np.all(np.abs(ours - theirs) <= tolerance * np.maximum(1, np.abs(theirs))))


def broadcastable(*shapes):
    try:
        return np.prod(np.broadcast_shapes(*shapes)) <= 120
    except ValueError:
        return False


def same_side(x, t, y, u):
    """Whether both libraries see the same entries of x below, at, and above y.

    At a kink the last digit decides between two gradients that have nothing to do with each other, so the
    generator avoids operations where the libraries' rounding disagrees. Exact ties that both see are welcome.
    """
    return np.array_equal(np.sign(np.subtract(x, y)), np.sign(np.subtract(t, u)))


def decided(x, t, y=None, u=None):
    """Whether every kink of every operation on x (and y) has the same sides in both libraries."""
    x, t = x.data, t.detach().numpy()
    if y is not None:
        return same_side(x, t, y.data, u.detach().numpy())
    thresholds = np.array([-1.0, -0.5, 0.0, 0.1, 0.6, 0.7])  # those of ONE and TWO
    among_themselves = same_side(x.reshape(-1, 1), t.reshape(-1, 1), x.reshape(-1), t.reshape(-1))
    return among_themselves and same_side(x[..., None], t[..., None], thresholds, thresholds)


def reduce_both(rng, x, t):
    name = rng.choice(list(REDUCTIONS))
    axis = tuple(int(a) for a in rng.permutation(x.ndim)[: rng.integers(1, x.ndim + 1)])
    keep = bool(rng.integers(2))
    return REDUCTIONS[name][0](x, axis=axis, keepdims=keep), REDUCTIONS[name][1](t, dim=axis, keepdim=keep)


def multiply_matrices(rng, nodes, x, t):
    fitting = [(y, u) for y, u in nodes if y.ndim and x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0]]
    fitting = [(y, u) for y, u in fitting if broadcastable(x.shape[:-2], y.shape[:-2])]
    if not fitting:
        return (x @ x.swapaxes(-1, -2), t @ t.swapaxes(-1, -2)) if x.ndim > 1 else (x @ x, t @ t)
    y, u = fitting[rng.integers(len(fitting))]
    return x @ y, t @ u


def next_node(rng, nodes):
    """One more node, of a kind drawn at random: ours and PyTorch's."""
    x, t = nodes[rng.integers(len(nodes))]
    if x.size > 120 or not decided(x, t):
        return x.tanh(), t.tanh()
    kind = rng.choice(["one", "two", "reduce", "matmul", "join"], p=[0.4, 0.3, 0.1, 0.15, 0.05])
    if kind == "two":
        partners = [node for node in nodes if broadcastable(x.shape, node[0].shape)]
        y, u = partners[rng.integers(len(partners))]
        ours, theirs = TWO[rng.choice(list(TWO))] if decided(x, t, y, u) else TWO["add"]
        return ours(x, y), theirs(t, u)
    if x.ndim == 0:
        return x.tanh(), t.tanh()
    if kind == "reduce":
        return reduce_both(rng, x, t)
    if kind == "matmul":
        return multiply_matrices(rng, nodes, x, t)
    if kind == "join":
        return concatenate([x, x.sin()], axis=-1), torch.cat([t, t.sin()], dim=-1)
    ours, theirs = ONE[rng.choice(list(ONE))]
    return ours(x), theirs(t)


def random_graph(seed, count=50):
    """Leaves and nodes of a random expression, and a sum over all of its nodes; everything twice."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape) for shape in [(3, 4), (4,), (3, 1), (2, 3, 4), (4, 4), (), (1, 4, 2)]]
    leaves = [(Tensor(a.copy(), requires_grad=True), torch.tensor(a, requires_grad=True)) for a in arrays]
    nodes = list(leaves)
    while len(nodes) < len(leaves) + count:
        x, t = next_node(rng, nodes)
        if x.size:  # a mask may have left nothing
            scale = 1 / max(1.0, float(np.abs(x.data).max()))  # keeps fifty steps from overflowing
            nodes.append((x * scale, t * scale))
    weights = rng.normal(size=len(nodes)).tolist()
    ours = sum((x * weight).sum() for (x, _), weight in zip(nodes, weights, strict=True))
    theirs = sum((t * weight).sum() for (_, t), weight in zip(nodes, weights, strict=True))
    return leaves, nodes, (ours, theirs)


@pytest.mark.parametrize("block", range(4))
def test_random_graphs_of_fifty_nodes(block):
    for seed in range(50 * block, 50 * block + 50):
        leaves, nodes, (ours, theirs) = random_graph(seed)
        for x, t in nodes:
            assert close(x.data, t), f"seed {seed}: values differ"
        ours.backward()
        theirs.backward()
        for x, t in leaves:
            assert close(x.grad, t.grad), f"seed {seed}: gradients of the leaf of shape {x.shape} differ"


def test_random_graphs_use_every_operation():
    """Every operation of the tables is really drawn, or the test above would prove less than it says."""
    drawn = set()
    tables = [ONE, TWO, REDUCTIONS]
    saved = [dict(table) for table in tables]
    try:
        for table in tables:
            for name, (ours, theirs) in list(table.items()):
                def spy(*args, ours=ours, name=name, **kwargs):
                    drawn.add(name)
                    return ours(*args, **kwargs)
                table[name] = (spy, theirs)
        for seed in range(50):
            random_graph(seed)
    finally:
        for table, old in zip(tables, saved, strict=True):
            table.update(old)
    assert drawn == {name for table in tables for name in table}


def both(ours, theirs, *arrays, tolerance=1e-12):
    """Assert equal values and gradients of one expression, from random seeds."""
    mine = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, u = ours(*mine), theirs(*other)
    assert close(y.data, u, tolerance)
    seed = np.random.default_rng(0).normal(size=y.shape)
    y.backward(seed)
    u.backward(torch.tensor(seed))
    for x, t in zip(mine, other, strict=True):
        assert close(x.grad, t.grad, tolerance)


KEYS = [  # not (0, :, [1, 1]), where NumPy moves the picked axis to the front and PyTorch does not
    0, -1, slice(1, None), slice(None, None, 2), (1, 2), (slice(1), ..., 0), None, (..., None), ...,
    (0, None, slice(2)), [0, 2, 2], (slice(None), [3, 3, 0]), ([0, 0, 2], [1, 1, 3]), ([[0], [2]], [1, 1], 0),
    ([0, 1], slice(None), [1, 0]), (None, [2, 2], ..., [0, 1]),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing(key):
    both(lambda x: x[key], lambda t: t[key], np.random.default_rng(0).normal(size=(3, 4, 2)))


def test_indexing_with_masks_and_tensors():
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    both(lambda a: a[a > 0], lambda t: t[t > 0], x)
    mask, rows = np.array([True, False, True]), np.array([[0, 1], [1, 1]])
    both(lambda a: a[mask, 1], lambda t: t[torch.tensor(mask), 1], x)
    both(lambda a: a[Tensor(rows)], lambda t: t[torch.tensor(rows)], x)


@pytest.mark.parametrize("first, second", [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (2, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)), ((2, 5, 1, 3), (3, 4)),
    ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((4, 0, 3), (3, 2)), ((7, 2, 3), (1, 3, 2)),
], ids=str)
def test_matmul(first, second):
    rng = np.random.default_rng(0)
    both(matmul, torch.matmul, rng.normal(size=first), rng.normal(size=second))


def test_matmul_of_transposed_and_strided_operands():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6, 3)), rng.normal(size=(8, 6))
    both(lambda a, b: a.swapaxes(1, 2) @ b.T[:, ::2], lambda t, u: t.swapaxes(1, 2) @ u.T[:, ::2], x, y)


def test_ties_share_the_gradient_as_in_torch():
    x, y = np.array([1.0, 2.0, 2.0, -1.0]), np.array([1.0, 0.0, 2.0, 3.0])
    both(maximum, torch.maximum, x, y)
    both(minimum, torch.minimum, x, y)
    both(lambda a: a.max(axis=0), lambda t: torch.amax(t, 0), x)
    both(lambda a: a.min(), lambda t: torch.amin(t), y * 0)
    both(lambda a: abs(a), torch.abs, y)
    both(lambda a: a.clip(0.0, 2.0), lambda t: t.clip(0.0, 2.0), y)
    both(lambda a: a**0, lambda t: t**0, y)


def test_dtypes_follow_torch():
    for data in (1.5, [1.0, 2.0], 3, [1, 2], True, np.ones(2), np.ones(2, np.float32), np.ones(2, np.int32)):
        theirs = torch.as_tensor(data)
        assert str(Tensor(data).dtype) == str(theirs.dtype).removeprefix("torch.")
    x, t = Tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])
    ints, mask = np.array([1, 2]), np.array([True, False])
    for ours, theirs in [
        (x * 2, t * 2), (x / 3.5, t / 3.5), (2**x, 2**t),
        (x + ints, t + torch.tensor(ints)), (x * mask, t * torch.tensor(mask)),
        (x.mean() * 2.5, t.mean() * 2.5), (x[0] ** 2, t[0] ** 2), (x / np.sqrt(2.0), t / np.sqrt(2.0)),
        (Tensor(ints) + 1, torch.tensor(ints) + 1), (Tensor(ints) * 0.5, torch.tensor(ints) * 0.5),
        (where(mask, x, 0.0), torch.where(torch.tensor(mask), t, 0.0)), (x.var(), t.var(correction=0)),
    ]:
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        assert np.allclose(ours.data, theirs.numpy())


def test_the_state_of_a_tensor_follows_torch():
    """Who requires a gradient, who gets one, what accumulates, and what is refused."""
    def story(make, no_grad, ones):
        x, y = make([1.0, 2.0, 3.0], requires_grad=True), make([4.0, 5.0, 6.0])
        z = x * y
        facts = [z.requires_grad, (y * 2).requires_grad, z.detach().requires_grad, (y > 5).tolist()]
        with no_grad():
            facts.append((x * 2).requires_grad)
        z.sum().backward()
        (x * 2).backward(ones)
        facts += [[float(g) for g in x.grad], y.grad]
        shared = (x * x).exp()
        shared.sum().backward()
        for misuse in (shared.sum().backward, y.sum().backward, (x * 2).backward):
            with pytest.raises(RuntimeError):
                misuse()
        used = x * x
        with pytest.raises(RuntimeError):
            x.__iadd__(1)
        with no_grad():
            x -= 1
        with pytest.raises(RuntimeError):
            used.sum().backward()
        return [*facts, [float(v) for v in x.detach()]]

    assert story(Tensor, no_grad, np.ones(3, np.float32)) == story(torch.tensor, torch.no_grad, torch.ones(3))
