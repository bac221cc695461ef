"""The engine beside transformers: every family, from safetensors and from GGUF, with tiny random weights."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import test_model_families as families
from test_model_families import GGUF_VARIANTS, IDS, VARIANTS, logits

from scratchlm.inference.engine import Engine, Sequence, Unsupported
from scratchlm.inference.gguf import GGUF, to_hf
from scratchlm.transformer.model_families import from_pretrained, model_classes
from scratchlm.workshop.lm import load
from scratchlm.workshop.pull import pull

SIZES = {"hidden_size": 64, "intermediate_size": 96}  # the engine works with multiples of 32


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(families, "SHAPE", families.SHAPE | SIZES)
    for name, (family, options) in VARIANTS.items():
        monkeypatch.setitem(families.VARIANTS, name, (family, options | {"head_dim": 32}))


def distance(found, right):
    """Root mean square of the difference, relative to the spread of the right scores."""
    return np.sqrt(((found - right) ** 2).mean() / right.var())


def read(engine, ids, cuts):
    text = Sequence(engine)
    found = np.concatenate([engine.step([(text, ids[a:b].tolist(), b - a)]) for a, b in cuts])
    text.close()
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_safetensors(name, tmp_path):
    """Weights in float32, and so are keys and values then: only the order of additions differs."""
    other = families.theirs(name)
    other.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    if name == "qwen3, biases":
        with pytest.raises(Unsupported, match="bias of o_proj"):
            Engine(ours.config, ours.state_dict())
        return
    engine = Engine(ours.config, ours.state_dict(), threads=2)
    for ids in IDS:
        found = read(engine, ids, [(0, len(ids))])
        assert distance(found, logits(other, ids[None])[0]) < 2e-5
        assert np.array_equal(found, read(engine, ids, families.CUTS))


@pytest.mark.parametrize("name", GGUF_VARIANTS)
def test_gguf(name, tmp_path, monkeypatch):
    if name.startswith("gemma"):  # not in the file: all but the largest use the root of head_dim
        family, options = VARIANTS[name]
        monkeypatch.setitem(VARIANTS, name, (family, options | {"query_pre_attn_scalar": 32}))
    other = families.theirs(name)
    families.convert(other, tmp_path / "model.gguf")
    settings, state = to_hf(GGUF(tmp_path / "model.gguf"))
    if name == "qwen3, biases":
        with pytest.raises(Unsupported, match="bias of o_proj"):
            Engine(model_classes(settings)[1].from_dict(settings), state, threads=1)
        return
    engine = Engine(model_classes(settings)[1].from_dict(settings), state, threads=1)
    found = read(engine, IDS[0], [(0, len(IDS[0]))])
    assert distance(found, logits(other, IDS[:1])[0]) < 2e-5


def test_as_close_to_float32_as_llama_cpp():
    """Both round activations to bytes in blocks of 32, so their distances differ by chance only."""
    llama_cpp = pytest.importorskip("llama_cpp")
    path = pull("smollm2-135m")
    slow, fast = load(path, tier="numpy"), load(path, tier="fast")
    text = "\n".join(inspect.getsource(function) for function in (distance, read, test_gguf))
    ids = slow.tokenizer.encode(text)[:256]
    right, ours = (np.asarray(lm.model(np.array([ids])).data[0]) for lm in (slow, fast))
    theirs = []
    for flash in (False, True):
        other = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False, flash_attn=flash)
        other.eval(ids)
        theirs.append(distance(other.scores[: len(ids)], right))
    assert distance(ours, right) < 1.1 * min(theirs), (distance(ours, right), theirs)


def test_another_process_compiles_the_step(tmp_path):
    program = """if True:
        from scratchlm.inference.engine import STEP, compile_elsewhere, run_step
        assert compile_elsewhere().wait() == 0
        run_step.compile(STEP)
        assert sum(run_step.stats.cache_hits.values()) == 1
        assert compile_elsewhere() is None  # it is kept
    """
    settings = {k: v for k, v in os.environ.items() if k != "SCRATCHLM_SIMD"}
    settings["NUMBA_CACHE_DIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", program], env=settings, check=True)
