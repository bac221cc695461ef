"""transformers as the judge of the block: GPT-2's, with random weights, forward and backward."""

import numpy as np
import pytest

from scratchlm.foundations.tensor import Tensor
from scratchlm.transformer.transformer_block import Block, Conv1D, affine

torch = pytest.importorskip("torch")
modeling = pytest.importorskip("transformers.models.gpt2.modeling_gpt2")
transformers = pytest.importorskip("transformers")


def both(n_embd, n_head, n_inner, activation, dtype):
    """Our block and GPT-2's, with the same random weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=n_embd, n_head=n_head, n_inner=n_inner, activation_function=activation,
        attn_implementation="eager",
    )
    theirs = modeling.GPT2Block(config, layer_idx=0).to(dtype).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(0, 0.3)
    ours = Block(n_embd, n_head, n_inner, activation=activation).eval()
    state = {name: p.numpy() for name, p in theirs.state_dict().items()}
    for name, p in ours.named_parameters():  # in their dtype
        p.data = state[name].copy()
    ours.load_state_dict(state)
    return ours, theirs


# rounding of products of up to 256 numbers, through softmax, GELU and two norms
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}


SHAPES = [(64, 4, None, "gelu_new"), (48, 3, 100, "gelu"), (16, 1, 8, "relu")]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_equal_gpt2s(shape, dtype):
    ours, theirs = both(*shape, dtype)
    rng = np.random.default_rng(1)
    x, seed = rng.normal(size=(2, 3, 9, shape[0])).astype(str(dtype).removeprefix("torch."))
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    length = x.shape[1]
    mask = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]
    want = theirs(other, attention_mask=mask)
    want = want[0] if isinstance(want, tuple) else want
    got = ours(mine)
    got.backward(seed)
    want.backward(torch.tensor(seed))
    unit = TOLERANCE[dtype]

    def close(a, b):
        a, b = np.asarray(a), b.detach().numpy()
        np.testing.assert_allclose(a, b, rtol=unit, atol=unit * max(1, np.abs(b).max()))

    close(got.data, want)
    close(mine.grad, other.grad)
    their_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert their_gradients.keys() == dict(ours.named_parameters()).keys()
    for name, p in ours.named_parameters():
        close(p.grad, their_gradients[name])


def test_state_dict_goes_both_ways():
    ours, theirs = both(16, 2, None, "gelu_new", torch.float32)
    state = {name: torch.tensor(array) for name, array in ours.state_dict().items()}
    assert theirs.load_state_dict(state, strict=True)


def test_conv1d_equals_theirs():
    ours, theirs = Conv1D(5, 3), transformers.pytorch_utils.Conv1D(3, 5)
    ours.load_state_dict({name: p.detach().numpy() for name, p in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    want = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(x).data, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(affine(x, ours.weight, ours.bias).data, want, rtol=1e-5, atol=1e-6)
