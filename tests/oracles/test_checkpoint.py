"""The proof behind `grants: safetensors`: equal bytes, numbers and refusals; and saves that survive."""

import json
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from scratchlm.learning.adamw import AdamW
from scratchlm.learning.dataset import ArrayDataset, DataLoader
from scratchlm.learning.dropout import Dropout
from scratchlm.learning.linear import Linear, Sequential
from scratchlm.learning.training_loop import Trainer
from scratchlm.transformer.checkpoint import (
    Safetensors,
    SafetensorsError,
    load_checkpoint,
    load_safetensors,
    load_sharded,
    round_bf16,
    save_checkpoint,
    save_safetensors,
    save_sharded,
    widen_bf16,
)

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "c8", "u8", "i8", "f8"]
NAMES = ["a", "z", "Z", "layers.0.weight", "layers.10.weight", "ü", "", "a\n\"\\b/\x7f\x01", "日本", "😀"]


def some_tensors(rng):
    tensors = {}
    for name in rng.permutation(NAMES)[: rng.integers(0, 9)]:
        dtype = np.dtype(str(rng.choice(DTYPES)))
        shape = tuple(rng.integers(0, 4, size=rng.integers(0, 4)).tolist())
        raw = rng.integers(0, 256, int(np.prod(shape)) * dtype.itemsize).astype(np.uint8)
        raw = raw & 1 if dtype.kind == "b" else raw
        tensors[str(name)] = raw.view(dtype).reshape(shape)
    return tensors


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[n].dtype == theirs[n].dtype and ours[n].shape == theirs[n].shape
        and ours[n].tobytes() == theirs[n].tobytes()
        for n in ours
    )


def test_files_are_equal_byte_by_byte(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.safetensors"
    for trial in range(300):
        tensors = some_tensors(rng)
        metadata = [None, {}, {"format": "np"}, {"ü\n": "\"\\ \x1f"}][trial % 4]
        save_safetensors(path, tensors, metadata)
        if tensors or metadata != {}:  # for nothing and empty metadata, 0.8.0 writes broken JSON
            assert path.read_bytes() == safetensors.numpy.save(tensors, metadata)
        assert same(load_safetensors(path), tensors)
        assert same(tensors, safetensors.numpy.load_file(path))


def test_several_entries_of_metadata(tmp_path):
    metadata = {f"key {i}": f"value {i} ü" for i in range(9)}
    save_safetensors(tmp_path / "ours", {"a": np.ones(3)}, metadata)
    safetensors.numpy.save_file({"a": np.ones(3)}, tmp_path / "theirs", metadata)
    for name in ("ours", "theirs"):
        with safetensors.safe_open(tmp_path / name, "np") as file:
            assert file.metadata() == metadata and np.array_equal(file.get_tensor("a"), np.ones(3))
        assert Safetensors(tmp_path / name).metadata == metadata


def test_every_float32_bit_pattern_rounds_to_bf16_as_in_torch():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 500_000, dtype=np.uint32)
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001], np.uint32)
    edges = (np.arange(2**16, dtype=np.uint32)[:, None] << 16) + low
    numbers = np.concatenate([bits, edges.ravel()]).view(np.float32)
    theirs = torch.from_numpy(numbers).to(torch.bfloat16)
    real = ~np.isnan(numbers)
    ours = round_bf16(numbers)
    assert np.array_equal(ours[real], theirs.view(torch.uint16).numpy()[real])
    assert np.isnan(widen_bf16(ours[~real])).all()
    assert np.array_equal(widen_bf16(ours)[real], theirs.float().numpy()[real])


def test_bf16_files(tmp_path):
    rng = np.random.default_rng(1)
    arrays = {"w": rng.normal(size=(5, 7)).astype(np.float32), "n": np.arange(3), "v": np.ones(4, np.float16)}
    save_safetensors(tmp_path / "ours", arrays, bf16=True)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors["w"] = tensors["w"].bfloat16()
    assert (tmp_path / "ours").read_bytes() == safetensors.torch.save(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "theirs")
    loaded = load_safetensors(tmp_path / "theirs")
    assert loaded["w"].dtype == np.float32 and np.array_equal(loaded["w"], tensors["w"].float().numpy())
    save_safetensors(tmp_path / "again", loaded, bf16=True)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_unaligned_data_is_read(tmp_path):
    """Old files have headers of any length, so that numbers start at odd places."""
    for blanks in range(8):
        text = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}' + b" " * blanks
        (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + np.array([1.5, 2.5]).tobytes())
        array = load_safetensors(tmp_path / "x")["a"]
        assert array.flags.aligned and not array.flags.writeable and array.tolist() == [1.5, 2.5]


def test_views_are_written_in_order(tmp_path):
    turned = np.arange(6.0).reshape(2, 3).T
    save_safetensors(tmp_path / "x", {"a": turned, "b": turned[::2], "c": np.arange(3, dtype=">f4")})
    loaded = load_safetensors(tmp_path / "x")
    assert np.array_equal(loaded["a"], turned) and np.array_equal(loaded["b"], turned[::2])
    assert loaded["c"].tolist() == [0, 1, 2]


def damage(content, rng):
    """A file with some bytes changed, cut, doubled, or a bit of its header replaced by another word."""
    content = bytearray(content)
    words = [b"1", b"0", b"-", b"9" * 22, b"true", b"null", b"[]", b"{}", b'"U8"', b'"F64"', b'"a"', b",",
             b":", b"\\ud800", b"NaN", b"1e5", b"0.5", b"[" * 50, b" ", b"\xff", b'"__metadata__"', b"\x00"]
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(content) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            content[i : i + 1] = rng.randbytes(1)
        elif kind == 1:
            content[i : i + rng.randint(0, 9)] = rng.choice(words)
        elif kind == 2:
            content[i:i] = content[i : i + rng.randint(1, 40)]
        elif kind == 3:
            del content[i : i + rng.randint(1, 40)]
        elif kind == 4:
            del content[i:]
        else:  # a header whose length is right again, so that the damage gets further
            n = int.from_bytes(content[:8], "little")
            if 8 + n <= len(content):
                j = rng.randrange(8, 8 + n + 1)
                header = content[8:j] + rng.choice(words) + content[min(8 + n, j + rng.randint(0, 3)) : 8 + n]
                content[: 8 + n] = len(header).to_bytes(8, "little") + header
    return bytes(content)


def test_what_we_accept_they_accept(tmp_path):
    """4,000 damaged files: an error of one line or the same tensors as theirs; fast, in little memory."""
    rng, path = random.Random(0), tmp_path / "x.safetensors"
    tensors = {"a": np.arange(6.0).reshape(2, 3), "bc": np.ones(3, np.int8), "d": np.zeros((0, 4), "f2")}
    content = safetensors.numpy.save(tensors, {"k": "v"})
    accepted, slowest = 0, 0.0
    tracemalloc.start()
    for _ in range(4000):
        damaged = damage(content, rng)
        path.write_bytes(damaged)
        start = time.perf_counter()
        try:
            ours = load_safetensors(path)
        except SafetensorsError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            continue
        finally:
            slowest = max(slowest, time.perf_counter() - start)
        accepted += 1
        assert same(ours, safetensors.numpy.load(damaged)), damaged
    assert tracemalloc.get_traced_memory()[1] < 2_000_000 and slowest < 2 and accepted > 25
    tracemalloc.stop()


def test_absurd_headers_cost_nothing(tmp_path):
    path = tmp_path / "x"
    heads = [2**64 - 1, 2**63, 2**40, 100_000_001, 10**6]
    big = b"[" * 3_000_000  # nested deeper than any reader can follow
    wide = b'{"a":{"dtype":"U8","shape":[' + b"9" * 2_000_000 + b'],"data_offsets":[0,1]}}'
    files = [n.to_bytes(8, "little") + b'{"a":1}' for n in heads]
    files += [len(text).to_bytes(8, "little") + text for text in (big, wide)]
    tracemalloc.start()
    for content in files:
        path.write_bytes(content)
        size, start = len(content), time.perf_counter()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(SafetensorsError):
            Safetensors(path)
        assert tracemalloc.get_traced_memory()[1] - before < 4 * size + 200_000
        assert time.perf_counter() - start < 2
    tracemalloc.stop()


def test_shards(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f"model.layers.{i}.weight": rng.normal(size=(8, 8)).astype(np.float32) for i in range(7)}
    save_sharded(tmp_path, tensors, {"format": "pt"}, shard_bytes=600)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors) and index["metadata"]["total_size"] == 7 * 256
    theirs = {}
    for file in sorted(set(index["weight_map"].values())):
        part = safetensors.numpy.load_file(tmp_path / file)
        assert {name for name, where in index["weight_map"].items() if where == file} == set(part)
        theirs |= part
    assert same(load_sharded(tmp_path), tensors) and same(theirs, tensors)
    save_sharded(tmp_path / "..", {}, shard_bytes=1)
    assert load_sharded(tmp_path / "..") == {}


SAVE = """
import sys, numpy as np
from scratchlm.transformer.checkpoint import save_checkpoint
print("ready", flush=True)
for step in range(1, 10**9):
    save_checkpoint(sys.argv[1], {"step": step, "weight": np.full(int(sys.argv[2]), step)})
"""


def test_killed_at_random_moments(tmp_path):
    """kill -9 while saving, over and over: there is always one whole checkpoint, and it is never older."""
    rng, last = random.Random(0), 0
    save_checkpoint(tmp_path, {"step": 0, "weight": np.zeros(3)})
    for trial in range(12):
        command = [sys.executable, "-c", SAVE, str(tmp_path), str(10 ** (2 + trial % 5))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.wait()
        process.stdout.close()
        state = load_checkpoint(tmp_path)
        assert np.all(state["weight"] == state["step"])
        last = max(last, state["step"])
    assert last > 1
    save_checkpoint(tmp_path, {"step": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


LIMITED = """
import resource, sys, numpy as np
from scratchlm.transformer.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
for save in (save_checkpoint, save_safetensors):
    try:
        save(sys.argv[1], {"weight": np.ones(10_000), "small": np.zeros(3)})
    except OSError as error:
        print(error.strerror)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on the size of files are a thing of Unix")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"step": 7, "weight": np.zeros(10)})
    before = path.read_bytes()
    for limit in (0, 1, 100, 8192, 50_000, 80_000):
        command = [sys.executable, "-c", LIMITED, str(path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout == "File too large\n" * 2 and not done.stderr
        assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_failing_call_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"step": 7})
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no more")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no more"):
                save_checkpoint(path, {"step": 8})
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_a_link_and_the_mode_is_the_usual_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real" / "file.safetensors")
    save_safetensors(tmp_path / "link.safetensors", {"a": np.zeros(1)})
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "link.safetensors").is_symlink()
    real = tmp_path / "real" / "file.safetensors"
    assert real.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_mapped_file_may_be_replaced(tmp_path):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, {"a": np.full(10_000, 1.0)})
    old = load_safetensors(path)
    save_safetensors(path, {"a": old["a"] + 1})
    assert np.all(old["a"] == 1) and np.all(load_safetensors(path)["a"] == 2)


def make_trainer(seed):
    rng = np.random.default_rng(seed)
    dropout = Dropout(0.5, rng=np.random.default_rng(seed + 1))
    model = Sequential(Linear(8, 16, rng=rng), dropout, Linear(16, 1, rng=rng))
    data = np.random.default_rng(0)
    x = data.normal(size=(50, 8)).astype(np.float32)
    loader = DataLoader(ArrayDataset(x, x[:, :1] * 2), batch_size=7, seed=3)

    def loss(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    return Trainer(model, AdamW(model.parameters(), lr=0.01), loss, loader)


def test_the_real_trainer_resumes_bit_by_bit(tmp_path):
    whole = make_trainer(0)
    whole.fit(40)
    first = make_trainer(0)
    first.fit(17)  # in the middle of an epoch
    save_checkpoint(tmp_path, first)
    second = make_trainer(9)
    load_checkpoint(tmp_path, second)
    second.fit(40)
    losses = [record["loss"] for record in first.history + second.history]
    assert losses == [record["loss"] for record in whole.history]
    assert same(second.model.state_dict(), whole.model.state_dict())
    theirs = safetensors.numpy.load_file(tmp_path / "checkpoint.safetensors")  # others can read the weights
    assert np.array_equal(theirs["model.0.weight"], first.model.state_dict()["0.weight"])


def test_half_written_checkpoints_are_refused(tmp_path):
    path = save_checkpoint(tmp_path / "x.safetensors", {"w": np.arange(100.0), "n": 1})
    content = path.read_bytes()
    n = struct.unpack("<Q", content[:8])[0]
    cuts = [content[:i] for i in range(0, len(content), 7)]
    holes = [content[:i] + bytes(len(content) - i) for i in range(8 + n + 8, len(content), 16)]
    for damaged in cuts + holes + [content + b"\0", content + content]:
        path.write_bytes(damaged)
        with pytest.raises(SafetensorsError):
            load_checkpoint(path)
