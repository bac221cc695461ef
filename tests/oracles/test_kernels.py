"""Numba and NumPy as judges of our kernels, on random expressions, and the ways around machine code."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scratchlm.inference.kernels as kernels
from scratchlm.foundations.tensor import Tensor
from scratchlm.learning.activation import silu
from scratchlm.learning.adamw import adamw_update
from scratchlm.transformer.glu import swiglu
from scratchlm.workshop.upgrade import check_twin, full_name, registered

numba = pytest.importorskip("numba")
BACK_ENDS = [False] + [True] * kernels.can_assemble()
SIGNS = "+-*/<>√e"


@st.composite
def trees(draw, depth):
    """An expression of three arrays and small numbers: a leaf, or a sign and one or two expressions."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(["x", "y", "z", 0.5, -1.0, 3.0]))
    sign = draw(st.sampled_from(SIGNS))
    return sign, *(draw(trees(depth - 1)) for _ in range(1 if sign in "√e" else 2))


# How each sign is written for our compiler and NumPy, and for Numba. Roots are of 1 + |a|, exponentials of
# values between -2 and 2, and denominators at least 1, so that no rounding error is blown up without bound.
ARRAYS = {
    "+": "({} + {})", "-": "({} - {})", "*": "({} * {})", "/": "({} / (one + {} * {}))",
    "<": "minimum({}, {})", ">": "maximum({}, {})", "√": "sqrt(one + maximum({}, -{}))",
    "e": "exp(maximum(minimum({}, two), -two))",
}
SCALARS = ARRAYS | {
    "<": "min({}, {})", ">": "max({}, {})", "√": "math.sqrt(one + abs({}))",
    "e": "math.exp(max(min({}, two), -two))",
}


def text(tree, forms, leaf):
    """The expression in Python."""
    if not isinstance(tree, tuple):
        return leaf(tree)
    parts = [text(part, forms, leaf) for part in tree[1:]]
    if tree[0] in "/√":
        parts.append(parts[-1])
    return forms[tree[0]].format(*parts)


def array_function(tree, functions, one, two):
    body = text(tree, ARRAYS, lambda v: v if isinstance(v, str) else f"number({v})")
    names = {"number": np.float32, "one": one, "two": two, **functions}
    return eval(f"lambda x, y, z: {body} + (x - x)", names)


def numba_function(tree):
    """A loop by Numba, in float32 throughout, with multiply-add allowed as in ours."""
    body = text(tree, SCALARS, lambda v: f"{v}[i]" if isinstance(v, str) else f"f32({v})")
    source = ("def loop(x, y, z, out):\n    one, two = f32(1), f32(2)\n"
              f"    for i in range(x.size):\n        out[i] = {body} + (x[i] - x[i])\n")
    names = {"f32": np.float32, "math": __import__("math")}
    exec(source, names)
    return numba.njit(fastmath={"contract"})(names["loop"])


def magnitude(tree, arrays):
    """A bound of all values in between: the expression with everything made positive and added."""
    if not isinstance(tree, tuple):
        return np.abs(arrays[tree]).astype(np.float64) if isinstance(tree, str) else abs(tree)
    parts = [magnitude(part, arrays) for part in tree[1:]]
    match tree[0]:
        case "*":
            return (1 + parts[0]) * (1 + parts[1])
        case "/":
            return (1 + parts[0]) * (1 + parts[1]) ** 2
        case "e":
            return 8 * (1 + parts[0])
    return 1 + sum(parts)


# Numba takes a third of a second for each expression, hence so few; the chapter itself draws hundreds.
@settings(derandomize=True, deadline=None, max_examples=25)
@given(tree=trees(4), seed=st.integers(0, 99), n=st.sampled_from([1, 7, 8, 100]))
def test_equals_numba_and_numpy(tree, seed, n):
    rng = np.random.default_rng(seed)
    arrays = dict(zip("xyz", rng.normal(size=(3, n)).astype(np.float32)))
    by_numba = np.empty(n, np.float32)
    numba_function(tree)(*arrays.values(), by_numba)
    functions = {name: getattr(np, name) for name in ("sqrt", "exp", "maximum", "minimum")}
    by_numpy = array_function(tree, functions, np.float32(1), np.float32(2))(*arrays.values())
    ours = {name: getattr(kernels, name) for name in functions}
    # Each of at most 31 signs may be wrong by one unit in the last place of what passes through it, 1.2e-7
    # of its magnitude, and an exponential by two; a hundred of them is ample.
    tolerance = 100 * 2.0**-23 * (1 + magnitude(tree, arrays))
    function = array_function(tree, ours, kernels.as_expr(1.0), kernels.as_expr(2.0))
    for native in BACK_ENDS:
        result = kernels.fused(function, native=native)(*arrays.values())
        assert result.dtype == np.float32
        assert np.all(np.abs(result - by_numba) <= tolerance)
        assert np.all(np.abs(result - by_numpy) <= tolerance)


@pytest.mark.parametrize("native", BACK_ENDS)
def test_exact_where_nothing_is_rounded(native):
    """Sums of products of small whole numbers: equal to Numba's, whatever the order of rounding."""
    rng = np.random.default_rng(0)
    x, y, z = rng.integers(-50, 51, size=(3, 100_003)).astype(np.float32)

    @numba.njit
    def loop(x, y, z, out):
        for i in range(x.size):
            out[i] = max(x[i] * y[i] - z[i], z[i]) * x[i]

    want = np.empty_like(x)
    loop(x, y, z, want)
    kernel = kernels.fused(lambda x, y, z: kernels.maximum(x * y - z, z) * x, native=native)
    assert np.array_equal(kernel(x, y, z), want)


@pytest.mark.skipif(not kernels.can_assemble(), reason="no machine code here")
def test_sixteen_threads_share_a_kernel():
    """Constants and spilled values belong to the call, not to the kernel."""
    from concurrent.futures import ThreadPoolExecutor

    def crowded(x, k):
        many = [x * i + k for i in range(40)]
        return sum(a * b for a, b in zip(many, many[::-1]))

    kernel = kernels.fused(crowded)
    x = np.tile(np.arange(-3, 4, dtype=np.float32), 3000)
    with ThreadPoolExecutor(16) as pool:
        for k, result in enumerate(pool.map(lambda k: kernel(x, k), range(64))):
            assert np.array_equal(result, crowded(x, np.float32(k)))


def test_without_machine_code(monkeypatch):
    """On another processor everything works, by NumPy in blocks, and the twins step back."""
    monkeypatch.setattr(kernels, "can_assemble", lambda: False)
    x = np.linspace(-3, 3, 20_000, dtype=np.float32)
    kernel = kernels.fused(lambda x: kernels.exp(x) + 1)
    assert np.allclose(kernel(x), np.exp(x) + 1, rtol=1e-6)
    assert kernel.kernel(x).machine_code is None
    roof = kernels.Roofline(kernels.measure_bandwidth(2, 4, 2), kernels.measure_peak(1, 1), 2)
    assert roof.bandwidth > 1e6 and roof.peak > 1e6
    for twin, original, args in ((kernels.fused_silu, silu.original, (Tensor(x),)),
                                 (kernels.fused_swiglu, swiglu.original, (Tensor(x), Tensor(x)))):
        assert np.array_equal(twin(*args).data, original(*args).data)


def test_a_system_that_forbids_code(monkeypatch):
    """If no page can be made executable, that is no crash but the other back end."""
    class Refuses:
        @staticmethod
        def mprotect(*_):
            return -1

    kernels.can_assemble.cache_clear()
    monkeypatch.setattr(kernels.ctypes, "CDLL", lambda _: Refuses)
    try:
        assert not kernels.can_assemble()
        assert np.array_equal(kernels.fused(lambda x: x + 1)(np.ones(3, np.float32)), np.full(3, 2.0))
    finally:
        kernels.can_assemble.cache_clear()


def test_the_roof_is_measured():
    """A fraction of what is possible would mean that the loop is wrong; limits far from any machine's."""
    roof = kernels.Roofline.measure(1)
    assert 1e8 < roof.bandwidth < 1e12 and 1e8 < roof.peak < 1e13
    assert roof.seconds(roof.peak, 0) == pytest.approx(1)
    assert roof.attainable(roof.ridge) == pytest.approx(roof.peak)


def adamw_inputs(rng):
    n = int(rng.choice([1, 20_000, 70_001]))
    p, grad, m, v = (a.astype(np.float32) for a in rng.normal(size=(4, n)))
    return p, grad, m, v * v, int(rng.integers(1, 2000)), 1e-3, 0.9, 0.95, 1e-8, float(rng.choice([0, 0.1]))


def tensor_inputs(count):
    def make(rng):
        n = int(rng.choice([1, 20_000, 70_001]))
        return tuple(Tensor(a.astype(np.float32).reshape(-1, 1), requires_grad=bool(rng.integers(2)))
                     for a in rng.normal(0, 20, size=(count, n)))
    return make


@pytest.mark.parametrize("front, inputs", [(adamw_update, adamw_inputs), (silu, tensor_inputs(1)),
                                           (swiglu, tensor_inputs(2))], ids=["adamw", "silu", "swiglu"])
def test_twins_equal_their_originals(front, inputs):
    assert registered()[full_name(front.original)].startswith(kernels.__name__)
    check_twin(front, inputs, rtol=1e-5, atol=2e-6)


def test_the_library_does_not_need_numba():
    program = ("import sys; sys.modules['numba'] = None\n"
               "import numpy as np, scratchlm.inference.kernels as k\n"
               "print(k.fused(lambda x: k.sqrt(x))(np.float32([4, 9])))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[2. 3.]", done.stderr
