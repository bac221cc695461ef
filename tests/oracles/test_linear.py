"""PyTorch as the judge of linear layers and modules: results, gradients, names, state dicts."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.linear import Linear, Module, ModuleList, Parameter, Sequential, linear

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4), (2, 0, 4)], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_result_and_gradients_equal_torch(shape, with_bias, dtype, tolerance):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(dtype) for s in (shape, (5, 4), (5,))][: 2 + with_bias]
    ours = [Tensor(array.copy(), requires_grad=True) for array in arrays]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    got, want = linear(*ours), torch.nn.functional.linear(*theirs)
    assert got.shape == tuple(want.shape) and got.dtype == dtype
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=tolerance, atol=tolerance)
    seed = rng.normal(size=got.shape).astype(dtype)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_a_large_layer_in_float32_equals_torch():
    """The sums run over 2,048 rows: errors grow like the root of that, times 6e-8."""
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((8, 256, 96), (160, 96), (160,))]
    ours = [Tensor(array.copy(), requires_grad=True) for array in arrays]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    linear(*ours).backward(np.ones((8, 256, 160), np.float32))
    torch.nn.functional.linear(*theirs).backward(torch.ones(8, 256, 160))
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-4, atol=2e-4)


def build(lib):
    """The same model in both libraries: nested, with a list, a tied weight and a buffer."""
    base = Module if lib is None else torch.nn.Module
    linear_class = Linear if lib is None else torch.nn.Linear
    list_class = ModuleList if lib is None else torch.nn.ModuleList
    in_a_row = Sequential if lib is None else torch.nn.Sequential

    class Block(base):
        def __init__(self):
            super().__init__()
            self.up = linear_class(6, 6)
            self.down = linear_class(6, 6, bias=False)
            for name, persistent in [("offset", True), ("scratch", False)]:
                array = np.arange(6, dtype=np.float32)
                array = array if lib is None else torch.tensor(array)
                self.register_buffer(name, array, persistent=persistent)

        def forward(self, x):
            return self.down(self.up(x) + self.offset)

    class Model(base):
        def __init__(self):
            super().__init__()
            self.first = linear_class(4, 6)
            one = np.ones(6, np.float32)
            self.scale = Parameter(one) if lib is None else torch.nn.Parameter(torch.tensor(one))
            self.blocks = list_class([Block(), Block()])
            self.head = in_a_row(linear_class(6, 6), linear_class(6, 3))
            self.head[0].weight = self.blocks[0].up.weight

        def forward(self, x):
            x = self.first(x) * self.scale
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    return Model()


def test_names_and_their_order_equal_torch():
    ours, theirs = build(None), build(torch)
    for method in ("named_parameters", "named_modules", "named_buffers"):
        assert [name for name, _ in getattr(ours, method)(prefix="model")] == [
            name for name, _ in getattr(theirs, method)(prefix="model")], method
    assert ours.num_parameters() == sum(p.numel() for p in theirs.parameters())
    seen, wanted = [], []
    ours.apply(lambda module: seen.append(type(module).__name__))
    theirs.apply(lambda module: wanted.append(type(module).__name__))
    assert seen == wanted


def test_state_dicts_load_in_both_directions():
    x = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    ours, theirs = build(None), build(torch)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})  # a twin twice
    want = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(x).data, want, rtol=1e-5, atol=1e-5)
    again = build(torch)
    state = {name: torch.tensor(array) for name, array in ours.state_dict().items()}
    missing, unexpected = again.load_state_dict(state, strict=False)
    assert missing == ["head.0.weight"] and not unexpected  # tied: torch writes it twice, we once
    np.testing.assert_array_equal(again(torch.tensor(x)).detach().numpy(), want)


def test_gradients_of_a_whole_model_equal_torch():
    x = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    ours, theirs = build(None), build(torch)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    (ours(x) ** 2).mean().backward()
    (theirs(torch.tensor(x)) ** 2).mean().backward()
    for (name, mine), (other_name, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other_name
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_first_numbers_are_distributed_as_in_torch():
    """Both are uniform between ±1/√in: compare the largest number and the standard deviation."""
    torch.manual_seed(0)
    ours, theirs = Linear(256, 512, rng=np.random.default_rng(0)), torch.nn.Linear(256, 512)
    for name, array in ours.state_dict().items():
        other = theirs.state_dict()[name].numpy()
        assert array.shape == other.shape and array.dtype == other.dtype
        np.testing.assert_allclose(np.abs(array).max(), np.abs(other).max(), rtol=0.02)
        np.testing.assert_allclose(array.std(), other.std(), rtol=0.1)  # 512 biases: 2 % each
