"""µP's groups in PyTorch: AdamW with the same groups, and the form that divides the logits."""

import numpy as np
import pytest

from scratchlm.learning.adamw import AdamW
from scratchlm.learning.loss import cross_entropy
from scratchlm.learning.mlp import MLP
from scratchlm.scale.hyperparameters import mup_groups, mup_init, width_roles

torch = pytest.importorskip("torch")

SIZES, BASE, WIDTH, LR, DECAY = 6, 8, 24, 1e-2, 0.1
PLAIN = {"foreach": False, "fused": False}


def mlp(width):
    model = MLP([SIZES, width, width, 3], "tanh", np.random.default_rng(width))
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    return model


def torch_twin(model):
    layers = []
    for layer in model.layers:
        twin = torch.nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        twin.load_state_dict({n: torch.tensor(a.copy()) for n, a in layer.state_dict().items()})
        layers += [twin, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def torch_names(net):
    """Our names of PyTorch's parameters: layer i is step 2i."""
    return {f"layers.{int(n.split('.')[0]) // 2}.{n.split('.')[1]}": p
            for n, p in net.named_parameters()}


def run(eps, steps, make_other, divide):
    """Both train on the same batches; returns our model, and PyTorch's parameters by our names."""
    model, base = mup_init(mlp(WIDTH), mlp(BASE)), mlp(BASE)
    net = torch_twin(model)
    if divide != 1:
        with torch.no_grad():
            net[-1].weight *= divide
    theirs = torch_names(net)
    optimizer = AdamW(mup_groups(model, base, LR, DECAY), betas=(0.9, 0.95), eps=eps)
    other = make_other(model, base, theirs, eps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x, y = rng.normal(size=(16, SIZES)), rng.integers(0, 3, 16)
        optimizer.zero_grad()
        other.zero_grad()
        cross_entropy(model(x), y).backward()
        hidden = net[:-1](torch.tensor(x))
        logits = hidden @ net[-1].weight.T / divide + net[-1].bias
        torch.nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
        optimizer.step()
        other.step()
    return model, theirs


def assert_equal(model, theirs, divide, tolerance):
    for name, p in model.named_parameters():
        found = theirs[name].detach().numpy()
        found = found / divide if name == "layers.2.weight" else found
        np.testing.assert_allclose(p.data, found, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("steps", [1, 20])
def test_torch_takes_the_same_groups(steps):
    def make(model, base, theirs, eps):
        groups = [{**group, "params": [theirs[name] for name, _ in group["params"]]}
                  for group in mup_groups(model, base, LR, DECAY)]
        assert len(groups) == 3
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=eps, **PLAIN)

    model, theirs = run(1e-8, steps, make, 1)
    assert_equal(model, theirs, 1, 1e-10)


def test_dividing_the_logits_is_the_same():
    """The form of the authors' package, written out: constant rate, and logits divided by r.

    Adam's steps do not depend on the scale of gradients but for eps, which is next to nothing.
    """
    def make(model, base, theirs, eps):
        groups = []
        for name, (role, factor) in width_roles(model, base).items():
            shrink = factor if role == "hidden" else 1
            decay = DECAY * shrink if theirs[name].ndim > 1 else 0.0
            groups.append({"params": [theirs[name]], "lr": LR / shrink, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=eps, **PLAIN)

    model, theirs = run(1e-30, 20, make, WIDTH / BASE)
    assert_equal(model, theirs, WIDTH / BASE, 1e-9)
