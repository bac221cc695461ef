"""The proof behind `grants: gguf`: equal bits from every block, equal files both ways, and safe refusals."""

import random
import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter

from scratchlm.inference.gguf import (
    GGUF,
    LAYOUT,
    UNDECODED,
    VALUES,
    GGUFError,
    dequantise,
    save_gguf,
    to_hf,
    tokenizer,
    unpermute,
)

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def random_blocks(kind, n, rng, tame=False):
    """`n` blocks of random bytes; if tame, their grids are ordinary numbers."""
    raw = rng.integers(0, 256, n * LAYOUT[kind].itemsize).astype(np.uint8)
    if tame and LAYOUT[kind].names:
        blocks = raw.view(LAYOUT[kind])
        for name in {"d", "m"} & set(LAYOUT[kind].names):
            blocks[name] = rng.normal(size=n)
    return raw


def same_bits(a, b):
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tame", [True, False])
def test_every_block_type_bit_by_bit(kind, tame):
    """Random bytes give NaN, infinite and denormal scales as well; they are treated alike."""
    rng = np.random.default_rng(len(kind) + tame)
    n = 4000 if VALUES[kind] > 1 else 100_000
    raw = random_blocks(kind, n, rng, tame)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(raw.reshape(10, -1), GGMLQuantizationType[kind])
    ours = dequantise(raw, kind, n * VALUES[kind])
    real = ~np.isnan(theirs.ravel())
    assert same_bits(ours[real], theirs.ravel()[real]) and np.isnan(ours[~real]).all()
    assert same_bits(dequantise(raw.tobytes(), kind, n * VALUES[kind]), ours)
    assert np.isfinite(ours).all() or not tame or VALUES[kind] == 1


@pytest.mark.parametrize("kind", TYPES)
def test_special_scales(kind):
    """Every float16 bit pattern that is not a usual number, as a scale."""
    if not LAYOUT[kind].names:
        return
    special = np.array([0, 0x8000, 1, 0x83FF, 0x7C00, 0xFC00, 0x7C01, 0xFE00, 0x7BFF, 0xFFFF], np.uint16)
    blocks = random_blocks(kind, 100, np.random.default_rng(0)).view(LAYOUT[kind])
    blocks["d"] = np.repeat(special, 10).view(np.float16)
    if "m" in blocks.dtype.names:
        blocks["m"] = np.tile(special, 10).view(np.float16)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(blocks.view(np.uint8), GGMLQuantizationType[kind])
    ours = dequantise(blocks.view(np.uint8), kind, 100 * VALUES[kind])
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    real = ~np.isnan(ours)
    assert same_bits(ours[real], theirs[real])


def test_sizes_of_all_types():
    sizes = {n: tuple(gguf.GGML_QUANT_SIZES[n]) for n in GGMLQuantizationType}
    for name in LAYOUT:
        assert sizes[GGMLQuantizationType[name]] == (VALUES[name], LAYOUT[name].itemsize)
    for number, (name, values, size) in UNDECODED.items():
        if number in list(GGMLQuantizationType):  # older releases know fewer
            assert GGMLQuantizationType(number).name == name and sizes[number] == (values, size)


def test_nothing_fits_but_what_fits():
    for kind in TYPES:
        raw = random_blocks(kind, 3, np.random.default_rng(0))
        right = 3 * VALUES[kind]
        for data, n in ((raw[:-1], right), (raw, right - VALUES[kind]), (raw, right + 1), (raw, -1)):
            with pytest.raises(GGUFError, match="are not"):
                dequantise(data, kind, n)
    with pytest.raises(GGUFError, match="'IQ1_S' is not supported"):
        dequantise(b"", "IQ1_S", 0)


SCALARS = {"uint8": 200, "int8": -5, "uint16": 60_000, "int16": -30_000, "uint32": 4_000_000_000,
           "int32": -(2**31), "uint64": 2**63 + 5, "int64": -(2**62), "float32": 0.1, "float64": 0.1,
           "bool": True, "string": "ünï\n\"日本\" 😀"}
ARRAYS = {"numbers": [1, 2, 3], "floats": [0.5, 1.5], "bools": [True, False, True], "words": ["a", "", "é"]}


def write(path, alignment=32, endian=GGUFEndian.LITTLE):
    """A file by the package, with every type of metadata and of tensor."""
    rng, writer = np.random.default_rng(0), GGUFWriter(path, "llama", endianess=endian)
    writer.add_custom_alignment(alignment)
    for kind, value in SCALARS.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    for name, value in ARRAYS.items():
        writer.add_array(f"x.{name}", value)
    raws = {}
    for kind in TYPES:
        if kind in ("F32", "F16"):
            raws[kind] = rng.normal(size=(3, 5)).astype(kind.lower().replace("f", "float"))
            writer.add_tensor(kind, raws[kind])
        else:
            raws[kind] = random_blocks(kind, 6, rng, tame=True).reshape(2, -1)
            writer.add_tensor(kind, raws[kind], raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raws


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_files_of_theirs(tmp_path, alignment):
    path = tmp_path / "x.gguf"
    raws = write(path, alignment)
    file, reader = GGUF(path), GGUFReader(path)
    assert file.version == 3 and file.metadata["general.alignment"] == alignment
    for kind, value in SCALARS.items():
        wanted = float(np.float32(value)) if kind == "float32" else value
        assert file.metadata[f"x.{kind}"] == wanted and type(file.metadata[f"x.{kind}"]) is type(wanted)
    for name, value in ARRAYS.items():
        assert list(file.metadata[f"x.{name}"]) == value
    assert list(file.metadata) == [key for key in reader.fields if not key.startswith("GGUF.")]
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            ours = file.metadata[key]
            assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == field.contents()
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        info = file.tensors[tensor.name]
        assert info.shape == tuple(tensor.shape.tolist()[::-1]) and info.type == tensor.tensor_type.name
        assert info.offset == tensor.data_offset and info.nbytes == tensor.n_bytes
        assert file.raw(tensor.name).tobytes() == tensor.data.tobytes() == raws[tensor.name].tobytes()
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert same_bits(file.tensor(tensor.name), np.ascontiguousarray(theirs))


def test_version_2_and_big_endian(tmp_path):
    write(tmp_path / "x.gguf")
    content = bytearray((tmp_path / "x.gguf").read_bytes())
    content[4] = 2
    (tmp_path / "two.gguf").write_bytes(content)
    one, two = GGUF(tmp_path / "x.gguf"), GGUF(tmp_path / "two.gguf")
    assert two.version == 2 and one.tensors == two.tensors and one.metadata.keys() == two.metadata.keys()
    for version in (0, 1, 4, 2**31):
        content[4:8] = struct.pack("<I", version)
        (tmp_path / "other.gguf").write_bytes(content)
        with pytest.raises(GGUFError, match=f"has version {version}"):
            GGUF(tmp_path / "other.gguf")
    writer = GGUFWriter(tmp_path / "big.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_uint32("x", 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(GGUFError, match="is big-endian; only little-endian"):
        GGUF(tmp_path / "big.gguf")


def test_files_of_ours(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.gguf"
    metadata = {"general.architecture": "llama", "a": 3, "b": -3, "c": 2**40, "d": 0.25, "e": True, "f": "é",
                "g": ["x", ""], "h": np.arange(5, dtype=np.int16), "i": np.array([True, False]), "j": [],
                "k": np.float64(1.5)}
    tensors = {"one": rng.normal(size=(2, 3, 4)).astype(np.float32),
               "two": rng.normal(size=7).astype(np.float16),
               "three": (random_blocks("Q4_K", 4, rng), "Q4_K", (2, 512))}
    save_gguf(path, metadata, tensors)
    reader, file = GGUFReader(path), GGUF(path)
    for key, value in metadata.items():
        theirs = reader.fields[key].contents()
        assert theirs == (value.tolist() if isinstance(value, np.ndarray) else value)
    assert reader.fields["h"].types == [GGUFValueType.ARRAY, GGUFValueType.INT16]
    for tensor in reader.tensors:
        wanted = tensors[tensor.name]
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        assert tensor.data.tobytes() == wanted.tobytes()
        assert tensor.data_offset == file.tensors[tensor.name].offset


def test_nested_arrays(tmp_path):
    """Deeper than the package goes: it would flatten these."""
    nested = [[["a", "b"], []], [["c"]]]
    save_gguf(tmp_path / "x", {"x": nested, "y": [np.arange(3), np.arange(2)]}, {})
    file = GGUF(tmp_path / "x")
    assert file.metadata["x"] == nested
    assert [part.tolist() for part in file.metadata["y"]] == [[0, 1, 2], [0, 1]]
    deep = ["end"]
    for depth in range(2, 12):
        deep = [deep]
        save_gguf(tmp_path / "x", {"x": deep}, {})
        if depth <= 8:
            assert GGUF(tmp_path / "x").metadata["x"] == deep
        else:
            with pytest.raises(GGUFError, match="nested more than 8 deep"):
                GGUF(tmp_path / "x")


def damage(content, rng, head):
    """A file with a few changes, most of them in its first `head` bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(head if rng.random() < 0.9 else 2 * head) % (len(content) + 1)
        kind = rng.randrange(8)
        if kind in (0, 6, 7):
            content[i : i + 1] = rng.randbytes(1)
        elif kind == 1:
            number = 2 ** rng.randrange(64) - rng.randrange(2)
            content[i : i + 8] = struct.pack("<Q", number)
        elif kind == 2:
            content[i : i + 4] = struct.pack("<I", rng.choice([rng.randrange(50), 2**32 - 1, 2**31]))
        elif kind == 3:
            content[i:i] = content[i : i + rng.randint(1, 60)]
        elif kind == 4:
            del content[i : i + rng.randint(1, 60)]
        else:
            del content[i:]
    return bytes(content)


def test_ten_thousand_damaged_files(tmp_path):
    """Read or refused in one line, at once, and no memory beyond a small multiple of the file's size."""
    path, rng = tmp_path / "x.gguf", random.Random(0)
    metadata = {"general.architecture": "llama", "general.alignment": 32, "t": ["a", "bc", ""],
                "n": np.arange(4.0), "f": np.array([True]), "nest": [["a"], ["b", "c"]], "x": 1.5, "b": True}
    arrays = {"token_embd.weight": np.ones((2, 4), np.float32),
              "blk.0.attn_q.weight": np.ones((4, 4), np.float16),
              "blk.0.ffn_up.weight": (np.zeros(18 * 2, np.uint8), "Q4_0", (2, 32))}
    save_gguf(path, metadata, arrays)
    content, accepted, slowest = path.read_bytes(), 0, 0.0
    head = min(info.offset for info in GGUF(path).tensors.values())
    tracemalloc.start()
    for trial in range(10_000):
        if trial == 3000:
            tracemalloc.stop()  # it makes everything slow; from here on it reports zeros
        damaged = damage(content, rng, head)
        path.write_bytes(damaged)
        tracemalloc.reset_peak()
        before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
        try:
            file = GGUF(path)
            for name in file.tensors:
                file.tensor(name)
            accepted += 1
        except GGUFError as error:
            assert "\n" not in str(error)
        slowest = max(slowest, time.perf_counter() - start)
        # Python's own objects take some kilobytes; a number of 4 bits becomes one of 32.
        assert tracemalloc.get_traced_memory()[1] - before < 100_000 + 12 * len(damaged)
    assert 500 < accepted < 9500 and slowest < 2


def test_claims_of_size_cost_nothing(tmp_path):
    path = tmp_path / "x"
    lists = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 9)
    files = [struct.pack("<4sIQQ", b"GGUF", 3, tensors, entries) + bytes(100)
             for tensors, entries in ((2**63, 0), (0, 2**63), (10**6, 0), (0, 10**6))]
    files += [lists + struct.pack("<IQ", kind, count) + bytes(100)
              for kind in (0, 6, 7, 8, 9, 12) for count in (10**5, 10**9, 2**64 - 1)]
    tracemalloc.start()
    for content in files:
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(GGUFError, match="announced"):
            GGUF(path)
        assert tracemalloc.get_traced_memory()[1] - before < 50_000
    content = lists + struct.pack("<IQ", 6, 5_000_000) + bytes(20_000_000)
    path.write_bytes(content)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert GGUF(path).metadata["k"].shape == (5_000_000,)
    assert tracemalloc.get_traced_memory()[1] - before < 100_000  # a view of the mapped file
    tracemalloc.stop()


def permute(weight, n_head):
    """What llama.cpp's converter does to q and k, as it is written there."""
    shape = weight.shape
    return weight.reshape(n_head, 2, shape[0] // n_head // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def convert(model, path):
    """Write a transformers model as GGUF, with the package's own table of names."""
    config, kind = model.config, model.config.model_type
    writer = GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if kind == "llama" and name.split(".")[-2] in heads:
            array = permute(array, heads[name.split(".")[-2]])
        name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_there_and_back(tmp_path, kind, tied):
    common = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
              "rms_norm_eps": 1e-5, "tie_word_embeddings": tied}
    torch.manual_seed(0)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, attention_bias=tied))
    else:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))
    convert(model, tmp_path / "x.gguf")
    config, state = to_hf(GGUF(tmp_path / "x.gguf"))
    theirs = dict(model.state_dict())
    if tied:
        del theirs["lm_head.weight"]
    assert set(state) == set(theirs)
    for name, tensor in theirs.items():
        assert np.array_equal(state[name], tensor.numpy()), name
    for field, value in common.items():
        assert config[field] == value, field
    assert config["model_type"] == kind and config["rope_theta"] == 5000.0 and config["head_dim"] == 8
    assert config.get("attention_bias", False) == (kind == "llama" and tied)
    fields = {name: value for name, value in config.items() if value is not None}
    again = type(model)(type(model.config)(**fields))  # their class takes our configuration
    missing = again.load_state_dict({name: torch.from_numpy(state[name]) for name in state}, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}


def test_unpermute_undoes_the_converter():
    weight = np.random.default_rng(0).normal(size=(24, 5))
    for heads in (1, 2, 3, 6, 12):
        assert np.array_equal(unpermute(permute(weight, heads), heads), weight)
    with pytest.raises(GGUFError, match="24 rows are not 5 heads"):
        unpermute(weight, 5)


def llama3_frequencies(factor, head_dim=64, base=500_000.0):
    """The table that llama.cpp's converter writes, from transformers' own function."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192, "rope_theta": base}
    config = transformers.LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2,
                                      rope_parameters=parameters, max_position_embeddings=131_072)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double().numpy()
    return (base ** (-np.arange(0, head_dim, 2) / head_dim) / scaled).astype(np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_table_of_llama_3(tmp_path, factor):
    sizes = {"embedding_length": 128, "attention.head_count": 2, "feed_forward_length": 8, "block_count": 1,
             "context_length": 131_072, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 5e5}
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    tensors = {"token_embd.weight": np.ones((2, 128), np.float32),
               "rope_freqs.weight": llama3_frequencies(factor)}
    save_gguf(tmp_path / "x", metadata, tensors)
    config, state = to_hf(GGUF(tmp_path / "x"))
    assert config["rope_scaling"] == {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                                      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    assert list(state) == ["model.embed_tokens.weight"]


def test_a_byte_level_tokenizer(tmp_path):
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|end|>", *sorted(ByteLevel.alphabet()), "Ġd", "Ġde", "Ġdef", "el"]
    about = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": ["Ġ d", "Ġd e", "Ġde f", "e l"],
             "eos_token_id": 0, "token_type": np.array([3] + [1] * (len(tokens) - 1), np.int32)}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in about.items()}
    save_gguf(tmp_path / "x", metadata, {})
    bpe = tokenizer(GGUF(tmp_path / "x"))
    ids = bpe.encode("a def éel<|end|>")
    assert ids[-1] == bpe.eos_id == 0 and tokens.index("Ġdef") in ids and tokens.index("el") in ids
    assert bpe.decode(ids) == "a def éel<|end|>"
