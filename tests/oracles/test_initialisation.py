"""PyTorch and transformers as the judges of initialisation: limits, spread, GPT-2's recipe."""

import numpy as np
import pytest

from scratchlm.learning.initialisation import (
    GAINS,
    fans,
    gpt2_init,
    kaiming_normal_,
    kaiming_uniform_,
    xavier_normal_,
    xavier_uniform_,
)
from scratchlm.learning.linear import Module, Parameter

torch = pytest.importorskip("torch")
init = torch.nn.init

CASES = [
    (xavier_uniform_, init.xavier_uniform_, {"gain": 1.7}, {"gain": 1.7}),
    (xavier_normal_, init.xavier_normal_, {}, {}),
    (kaiming_uniform_, init.kaiming_uniform_, {}, {"nonlinearity": "relu"}),
    (kaiming_normal_, init.kaiming_normal_, {}, {"nonlinearity": "relu"}),
    (kaiming_normal_, init.kaiming_normal_, {"nonlinearity": "tanh"}, {"nonlinearity": "tanh"}),
    (kaiming_uniform_, init.kaiming_uniform_, {"nonlinearity": "linear"},
     {"nonlinearity": "linear"}),
]


@pytest.mark.parametrize("shape", [(300, 700), (40, 30, 9, 9)], ids=str)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_spread_equals_torch(case, shape):
    """Around 100,000 numbers: the standard deviation is known to 0.3 %, so 1.5 % is ample."""
    ours, theirs, options, other_options = CASES[case]
    torch.manual_seed(0)
    p = ours(Parameter(np.empty(shape, np.float32)), np.random.default_rng(0), **options)
    other = theirs(torch.empty(shape), **other_options).numpy()
    assert abs(p.data.std() / other.std() - 1) < 0.015
    assert abs(p.data.mean()) < 5 * p.data.std() / np.sqrt(p.size)
    if "uniform" in ours.__name__:
        assert abs(np.abs(p.data).max() / np.abs(other).max() - 1) < 0.001
    else:  # as many beyond two standard deviations as there should be
        assert abs(np.mean(np.abs(p.data) > 2 * p.data.std()) - 0.0455) < 0.004


def test_gains_and_fans_equal_torch():
    for name in ("linear", "sigmoid", "tanh", "relu"):
        assert abs(GAINS[name] - init.calculate_gain(name)) < 1e-12
    for shape in [(3, 4), (3, 4, 5), (3, 4, 5, 6)]:
        assert fans(shape) == init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_gpt2_init_equals_transformers():
    """Every parameter of a small GPT-2, against the one that transformers creates."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=500, n_positions=64, n_embd=128, n_layer=4,
                                     n_head=4)
    torch.manual_seed(0)
    want = {name: p.detach().numpy()
            for name, p in transformers.GPT2LMHeadModel(config).named_parameters()}
    model = Module()
    for name, array in want.items():
        *path, last = name.split(".")
        place = model
        for part in path:
            if not hasattr(place, part):
                setattr(place, part, Module())
            place = getattr(place, part)
        start = np.ones if path[-1].startswith("ln_") else np.empty
        setattr(place, last, Parameter(start(array.shape, np.float32)))
    gpt2_init(model, np.random.default_rng(0), config.n_layer)
    assert [name for name, _ in model.named_parameters()] == list(want)
    for name, p in model.named_parameters():
        if want[name].std() == 0:
            np.testing.assert_array_equal(p.data, want[name])
        else:  # at least 8,192 numbers: 0.8 % each
            assert abs(p.data.std() / want[name].std() - 1) < 0.05, name
