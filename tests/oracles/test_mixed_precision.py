"""PyTorch as the judge of rounding, of autocast, and of the scale of GradScaler."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.adamw import AdamW
from scratchlm.learning.linear import Linear
from scratchlm.scale.mixed_precision import E4M3, GradScaler, autocast, to_bf16, to_fp16

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


def as_torch(x, dtype):
    return torch.from_numpy(x.copy()).to(dtype).to(torch.float32).numpy()


def floats():
    """Every upper half of a float32 with lower halves around the tie, and random bits."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    some = RNG.integers(1 << 32, size=500_000, dtype=np.uint32)
    return np.concatenate([(upper[:, None] | lower).ravel(), some]).view(np.float32)


@pytest.mark.parametrize("ours, dtype", [(to_bf16, torch.bfloat16), (to_fp16, torch.float16)])
def test_rounding_bit_for_bit(ours, dtype):
    x = floats()
    with np.errstate(all="ignore"):
        mine, theirs = ours(x), as_torch(x, dtype)
    assert np.array_equal(np.isnan(mine), np.isnan(theirs))
    numbers = ~np.isnan(theirs)
    assert np.array_equal(mine[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


def test_fp16_of_everything_near_its_own_numbers():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.unique(halves[np.isfinite(halves)])
    ties = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    x = np.concatenate([halves, ties, np.nextafter(ties, np.float32(np.inf)),
                        np.nextafter(ties, np.float32(-np.inf))])
    assert np.array_equal(to_fp16(x), as_torch(x, torch.float16))


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="this PyTorch has no float8")
def test_e4m3_bit_for_bit():
    x = floats()
    with np.errstate(all="ignore"):
        mine, theirs = E4M3.round(x), as_torch(x, torch.float8_e4m3fn)
    numbers = np.abs(x) <= 464  # beyond, versions of PyTorch differ: NaN or the largest
    assert np.array_equal(mine[numbers].view(np.uint32), theirs[numbers].view(np.uint32))
    assert np.isnan(mine[np.abs(x) > 464]).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_autocast_of_a_linear_layer(name):
    """Sums in another order may round to a neighbour: at most one unit in the last place."""
    layer = Linear(96, 64, rng=RNG)
    x, grad = (RNG.normal(size=(32, n)).astype(np.float32) for n in (96, 64))
    inputs = Tensor(x, requires_grad=True)
    with autocast(name):
        out = layer(inputs)
    out.backward(grad)
    theirs = torch.nn.Linear(96, 64)
    theirs.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in layer.state_dict().items()})
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    dtype = getattr(torch, name)
    with torch.amp.autocast("cpu", dtype=dtype):
        right = theirs(leaf)
    right.backward(torch.from_numpy(grad).to(dtype))
    eps = torch.finfo(dtype).eps
    for mine, other in [(out.data, right), (inputs.grad, leaf.grad),
                        (layer.weight.grad, theirs.weight.grad), (layer.bias.grad, theirs.bias.grad)]:
        other = other.detach().to(torch.float32).numpy()
        assert np.abs(mine - other).max() <= 2 * eps * np.abs(other).max()
        assert np.mean(mine == other) > 0.9


def scalers(**options):
    try:
        return GradScaler(**options), torch.amp.GradScaler("cpu", **options)
    except (AttributeError, TypeError):
        pytest.skip("this PyTorch has no GradScaler for the CPU")


@pytest.mark.parametrize("options", [
    {}, {"init_scale": 8.0, "growth_interval": 3},
    {"init_scale": 1e3, "growth_factor": 1.5, "backoff_factor": 0.25, "growth_interval": 2},
])
def test_scales_skips_and_weights_are_those_of_torch(options):
    ours, theirs = scalers(**options)
    start = RNG.normal(size=(4, 3)).astype(np.float32)
    w, v = Tensor(start.copy(), requires_grad=True), torch.from_numpy(start.copy()).requires_grad_()
    mine = AdamW([w], lr=0.1, weight_decay=0.1)
    other = torch.optim.AdamW([v], lr=0.1, weight_decay=0.1)
    for step in range(60):
        factors = RNG.normal(size=start.shape).astype(np.float32)
        if RNG.random() < 0.15:
            factors[1, 2] = RNG.choice([np.inf, -np.inf, np.nan])
        mine.zero_grad()
        other.zero_grad()
        ours.scale((w * Tensor(factors)).sum()).backward()
        theirs.scale((v * torch.from_numpy(factors)).sum()).backward()
        if step % 2:
            ours.unscale_(mine)
            theirs.unscale_(other)
            np.testing.assert_allclose(w.grad, v.grad.numpy(), rtol=1e-6)
        ours.step(mine)
        theirs.step(other)
        ours.update()
        theirs.update()
        assert ours.get_scale() == theirs.get_scale()
        np.testing.assert_allclose(w.data, v.detach().numpy(), rtol=1e-4, atol=1e-6)  # float32
    assert ours.state_dict() == theirs.state_dict()


def test_states_may_be_exchanged_and_misuse_is_refused_alike():
    ours, theirs = scalers(init_scale=4.0, growth_interval=5)
    fresh = torch.amp.GradScaler("cpu")
    fresh.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert fresh.get_scale() == ours.get_scale() == 4.0
    w, v = Tensor(np.ones(2, np.float32), requires_grad=True), torch.ones(2, requires_grad=True)
    mine, other = AdamW([w]), torch.optim.AdamW([v])
    for scaler, weight, optimizer in ((ours, w, mine), (theirs, v, other)):
        scaler.scale(weight.sum()).backward()
        scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="unscale_"):
            scaler.unscale_(optimizer)
