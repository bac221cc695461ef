"""Hugging Face's tokenizers, SentencePiece and transformers as the judges of our byte-pair encoding.

Training must give the same merges, and encoding the same ids, string by string. The strings are
made of everything that breaks tokenizers: characters of nine planes, combining marks, control
characters, odd white space, special tokens in the middle of words.
"""

import json
import random
import unicodedata

import pytest

from scratchlm.language.bpe import BPE, to_printable, train_bpe, train_sentencepiece
from scratchlm.language.tokenisation import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    SMOLLM_PATTERN,
)

tokenizers = pytest.importorskip("tokenizers")

from tokenizers import AddedToken, Regex, decoders, models, normalizers, trainers  # noqa: E402
from tokenizers import pre_tokenizers as pre  # noqa: E402

TEXT = """
def greet(name: str = "world") -> str:
    '''Return a greeting, isn't that nice?  It's 100% pure Python 3.12.'''
    if not name:
        raise ValueError("empty name; it'll never do")
    return f"Hello, {name}! Übergrößen, naïve café, 東京都, Привет, שלום, 😀👍🏽\\n"

class Point(NamedTuple):\r\n\tx: float = 0.5\r\n\ty: float = -1e-10


for i in range(1000, 2024):
        print(i, i ** 2, "½", "Ⅷ", "٣٤٥", sep=" · ")
"""


def assigned(code: int) -> bool:
    """Whether all Unicode databases here agree on it: known to this Python, or never assigned.

    Private use and the empty planes 4 to 13 count (one plane and three are in PLANES); what is
    younger than this Python's database does not, as its category depends on the version.
    """
    return not 0xD800 <= code < 0xE000 and (
        unicodedata.category(chr(code)) != "Cn" or 0x40000 <= code < 0xE0000
    )


PLANES = [[chr(code) for code in range(plane << 16, (plane + 1) << 16) if assigned(code)]
          for plane in (*range(6), 13, 14, 16)]
EVERYTHING = [character for plane in PLANES for character in plane]
# tokenizers' tables for normal forms are older than its tables for categories
YOUNG = "".join(c for c in EVERYTHING if unicodedata.ucd_3_2_0.category(c) == "Cn")
MARKS = [c for c in EVERYTHING if unicodedata.category(c).startswith("M")]
CONTROLS = [chr(code) for code in [*range(32), *range(0x7F, 0xA0), 0x200B, 0x200D, 0x2060, 0xFEFF]]
SPACES = [*" \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000", "  ", "\r\n", "   "]
PIECES = ["'s", "'LL", "'ſ", "don't", "def", " return", "self.", "(x)", "__init__", "1234567", " 12", "½²",
          "東京", "é", "e\u0301", "\u1112\u1161\u11ab", "ﬁ", "😀👍🏽", "://", "->", '"""', "İ", "ß",
          "<|end|>", "<|start|>", "<s>", "</s>", "<unk>", "<0x41>", "<|", "|>", "keep me", "[MASK]", "word"]


def fuzz(number: int, seed: int, without: str = "") -> list[str]:
    """Random strings of up to some 25 pieces; `without` lists characters to leave out."""
    rng = random.Random(seed)
    ascii_, strings = [chr(code) for code in range(32, 127)], []
    pools = (PIECES, PIECES, PIECES, SPACES, SPACES, ascii_, ascii_, MARKS, CONTROLS)
    for _ in range(number):
        parts = []
        for _ in range(rng.randrange(1, rng.choice((3, 8, 25)))):
            kind = rng.randrange(12)
            pool = pools[kind] if kind < len(pools) else rng.choice(PLANES)
            parts += [rng.choice(pool)] * (rng.randrange(1, 4) if kind in (3, 8) else 1)
        strings.append("".join(parts))
    gone = dict.fromkeys(map(ord, without))
    return [string.translate(gone) for string in strings] if without else strings


def assert_same_ids(ours: BPE, theirs, strings: list[str], parse_special: bool = True) -> None:
    """The same ids for every string; the first difference is shown."""
    theirs.encode_special_tokens = not parse_special
    wanted = theirs.encode_batch_fast(strings, add_special_tokens=False)
    theirs.encode_special_tokens = False
    for string, want in zip(strings, wanted):
        got = ours.encode(string, parse_special=parse_special)
        assert got == want.ids, (string, [*map(ours.id_to_bytes, got)], want.tokens)


def trained(tokenizer, trainer_options: dict, text: str = TEXT * 3):
    """The Hugging Face tokenizer, trained on a small text."""
    options = {"show_progress": False, "special_tokens": ["<|end|>", "<|start|>"]} | trainer_options
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(**options))
    return tokenizer


def splits(pattern: str | list[str]) -> list:
    patterns = [pattern] if isinstance(pattern, str) else pattern
    return [pre.Split(Regex(each), "isolated") for each in patterns]


def byte_level(pattern, normalizer=None, added=(), vocab_size=420, ignore_merges=False):
    """A byte-level tokenizer; `pattern` is a pattern, a list of them, or pre-tokenizers."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps = pattern if isinstance(pattern, tuple) else (
        *splits(pattern), pre.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre.ByteLevel.alphabet()
    trained(tokenizer, {"vocab_size": vocab_size, "initial_alphabet": alphabet})
    tokenizer.add_tokens(list(added))
    return tokenizer


BYTE_LEVEL = {
    "gpt-2": lambda: byte_level((pre.ByteLevel(add_prefix_space=False, use_regex=True),)),
    "gpt-4": lambda: byte_level(GPT4_PATTERN),
    "llama-3": lambda: byte_level(LLAMA3_PATTERN, ignore_merges=True),
    "qwen-2": lambda: byte_level(
        QWEN2_PATTERN, normalizers.NFC(), [AddedToken("<s>", normalized=False), AddedToken("é")]),
    "smollm": lambda: byte_level(
        (pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False))),
    "digits in one": lambda: byte_level((pre.Digits(), pre.ByteLevel(add_prefix_space=True))),
    "added tokens": lambda: byte_level(GPT2_PATTERN, added=[
        AddedToken("[MASK]", lstrip=True), AddedToken("keep me", rstrip=True, normalized=False),
        AddedToken("word", single_word=True), AddedToken("<|", normalized=False),
        AddedToken("<s>", lstrip=True, rstrip=True, special=True), AddedToken("def")]),
    "no words": lambda: byte_level((pre.ByteLevel(add_prefix_space=False, use_regex=False),)),
}


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_encodes_as_tokenizers(name, number=13_000):
    theirs = BYTE_LEVEL[name]()
    ours = BPE.from_tokenizer_json(json.loads(theirs.to_str()))
    strings = fuzz(number, seed=len(name), without=YOUNG if theirs.normalizer else "")
    assert_same_ids(ours, theirs, strings)
    assert_same_ids(ours, theirs, strings[:2000], parse_special=False)
    again = BPE.from_tokenizer_json(ours.to_tokenizer_json())
    for string in strings[:2000]:
        ids = ours.encode(string)
        assert again.encode(string) == ids
        if name in ("gpt-2", "gpt-4", "llama-3", "smollm", "no words"):
            assert ours.decode(ids) == string
        if name != "qwen-2":  # theirs takes the added token é for a byte
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    "behavior", ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"])
def test_every_behaviour_of_split(behavior, invert):
    for pattern in (Regex(r"\s|e|\p{N}+"), " ", Regex(r"(a|b)\w*")):
        steps = (pre.Split(pattern, behavior, invert), pre.ByteLevel(False, use_regex=False))
        theirs = byte_level(steps, vocab_size=300)
        assert_same_ids(BPE.from_tokenizer_json(json.loads(theirs.to_str())), theirs, fuzz(300, seed=1))


def sentencepiece_like(normalizer=None, pre_tokenizer=None, decoder=None, *, vocab_size=600,
                       fallback=True, **model):
    """A tokenizer over characters, trained on a small text."""
    options = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": fallback} | model
    tokenizer = tokenizers.Tokenizer(models.BPE(**options))
    special = ["<unk>", "<s>", "</s>"]
    # cut before every ▁ while learning, as SentencePiece does
    tokenizer.pre_tokenizer = pre.Metaspace(prepend_scheme="always")
    names = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    trained(tokenizer, {"vocab_size": vocab_size, "special_tokens": special + names})
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in special]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


LLAMA = {
    "normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    "decoder": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                  decoders.Strip(" ", 1, 0)]),
}
PIECEWISE = {
    "llama": lambda: sentencepiece_like(**LLAMA),
    "gemma": lambda: sentencepiece_like(
        normalizers.Replace(" ", "▁"), pre.Split(" ", "merged_with_previous"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])),
    "metaspace always": lambda: sentencepiece_like(None, pre.Metaspace(), decoders.Metaspace()),
    "metaspace first": lambda: sentencepiece_like(None, pre.Metaspace(prepend_scheme="first", split=False)),
    "metaspace never": lambda: sentencepiece_like(None, pre.Metaspace(prepend_scheme="never")),
    "unknown": lambda: sentencepiece_like(None, pre.Metaspace(), fallback=False, vocab_size=340),
    "unknown one by one": lambda: sentencepiece_like(
        None, pre.Metaspace(split=False), fallback=False, vocab_size=340, fuse_unk=False),
    "nfkc": lambda: sentencepiece_like(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "),
                              normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_sentencepiece_flavour_encodes_as_tokenizers(name, number=13_000):
    theirs = PIECEWISE[name]()
    ours = BPE.from_tokenizer_json(json.loads(theirs.to_str()))
    strings = fuzz(number, seed=len(name), without=YOUNG if name == "nfkc" else "")
    assert_same_ids(ours, theirs, strings)
    assert_same_ids(ours, theirs, strings[:2000], parse_special=False)
    again = BPE.from_tokenizer_json(ours.to_tokenizer_json())
    for string in strings[:1000]:
        ids = ours.encode(string, parse_special=False)
        assert again.encode(string, parse_special=False) == ids
        if name in ("llama", "gemma") and "▁" not in string:
            assert ours.decode(ids) == string == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("fields", [
    {}, {"prepend_scheme": "always"}, {"prepend_scheme": "first"}, {"prepend_scheme": "never"},
    {"add_prefix_space": True}, {"add_prefix_space": False}, {"add_prefix_space": None},
    {"prepend_scheme": "always", "add_prefix_space": False},
    {"prepend_scheme": "never", "add_prefix_space": False},
    {"prepend_scheme": "never", "add_prefix_space": True},
])
@pytest.mark.parametrize("part", ["pre_tokenizer", "decoder"])
def test_fields_of_metaspace(part, fields):
    data = json.loads(sentencepiece_like(None, pre.Metaspace(), decoders.Metaspace()).to_str())
    data[part] = {"type": "Metaspace", "replacement": "▁"} | fields
    try:
        theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception:  # they refuse it
        with pytest.raises(ValueError, match="a Metaspace has add_prefix_space false"):
            BPE.from_tokenizer_json(data)
        return
    ours = BPE.from_tokenizer_json(data)
    for string in ("name", " name", "return name"):
        ids = ours.encode(string)
        assert ids == theirs.encode(string).ids
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    """A SentencePiece model of the BPE kind, trained on a small text."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text(TEXT * 3, "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), model_type="bpe", vocab_size=480,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=[], minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))


def gguf_metadata(model) -> dict:
    """The metadata that a GGUF file of this SentencePiece model would have."""
    ids = range(model.vocab_size())
    kinds = ((model.is_unknown, 2), (model.is_control, 3), (model.is_byte, 6), (model.is_unused, 5))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(id) for id in ids],
        "tokenizer.ggml.scores": [model.get_score(id) for id in ids],
        "tokenizer.ggml.token_type": [next((k for test, k in kinds if test(id)), 1) for id in ids],
        "tokenizer.ggml.bos_token_id": model.bos_id(), "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    }


def test_gguf_of_a_sentencepiece_model(sentencepiece_model):
    ours = BPE.from_gguf_metadata(gguf_metadata(sentencepiece_model))
    assert ours.add_bos and ours.bos_id == 1 and ours.eos_id == 2
    # SentencePiece itself takes a zero byte for the end of the text
    strings = fuzz(20_000, seed=4, without="\0▁")
    for string, want in zip(strings, sentencepiece_model.encode(strings)):
        got = ours.encode(string, parse_special=False)
        assert got == want, (string, [*map(ours.id_to_bytes, got)])
        assert ours.decode(got) == string
    again = BPE.from_tokenizer_json(ours.to_tokenizer_json())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.to_tokenizer_json()))
    for string in strings[:2000]:
        assert again.encode(string) == ours.encode(string)
    assert_same_ids(ours, theirs, strings[:2000])


def test_gguf_of_a_byte_level_model():
    for kind, name in [("gpt-2", "gpt-2"), ("llama-bpe", "llama-3"), ("smollm", "smollm"),
                       ("qwen2", "qwen-2")]:
        theirs = BYTE_LEVEL[name]()
        data = json.loads(theirs.to_str())
        special = {token["id"]: 3 if token["special"] else 4 for token in data["added_tokens"]}
        tokens = sorted(theirs.get_vocab(), key=theirs.get_vocab().get)
        ours = BPE.from_gguf_metadata({
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": kind, "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [" ".join(merge) for merge in data["model"]["merges"]],
            "tokenizer.ggml.token_type": [special.get(id, 1) for id in range(len(tokens))],
            "tokenizer.ggml.eos_token_id": 0,
        })
        assert ours.eos_id == 0 and not ours.add_bos
        if name == "qwen-2":
            theirs.normalizer = None  # GGUF files have none
        assert_same_ids(ours, theirs, fuzz(2000, seed=3))


def hf_merges(tokenizer, special) -> tuple[list, dict]:
    model = json.loads(tokenizer.to_str())["model"]
    vocab = {token: id for token, id in model["vocab"].items() if token not in special}
    return [tuple(merge) for merge in model["merges"]], vocab


@pytest.mark.parametrize("start", range(0, 400, 50))
def test_training_gives_the_same_merges(start):
    for seed in range(start, start + 50):
        rng = random.Random(seed)
        alphabet = rng.choice(["ab", "abc", "abcde ", "a b\n", "xyz é東", "ab1 2'"])
        texts = ["".join(rng.choices(alphabet, k=rng.randrange(200))) for _ in range(rng.randrange(1, 20))]
        special = [[], ["<|a|>"], ["<s>", "x y"]][seed % 3]
        pattern = rng.choice([GPT2_PATTERN, GPT4_PATTERN, QWEN2_PATTERN, SMOLLM_PATTERN, r"\S+|\s+"])
        size, least = 256 + len(special) + rng.randrange(150), rng.choice([0, 0, 2, 3])
        theirs = tokenizers.Tokenizer(models.BPE())
        theirs.pre_tokenizer = pre.Sequence([*splits(pattern), pre.ByteLevel(False, use_regex=False)])
        theirs.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=size, min_frequency=least, special_tokens=special, show_progress=False,
            initial_alphabet=pre.ByteLevel.alphabet()))
        merges, vocab = hf_merges(theirs, special)
        ours = train_bpe(texts, size, pattern, special, least)
        assert [(to_printable(a), to_printable(b)) for a, b in ours.merges] == merges, seed
        assert {to_printable(token): id for token, id in ours.vocab.items()} == vocab, seed


def test_training_on_real_code_gives_the_same_merges():
    from scratchlm.workshop.pull import corpus

    texts = [document.text for document in corpus("valid")]
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre.Sequence([*splits(GPT4_PATTERN), pre.ByteLevel(False, use_regex=False)])
    theirs.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=4096, show_progress=False, initial_alphabet=pre.ByteLevel.alphabet()))
    ours = train_bpe(texts, 4096)
    assert [(to_printable(a), to_printable(b)) for a, b in ours.merges] == hf_merges(theirs, ())[0]
    assert_same_ids(ours, theirs, texts)
    file = json.dumps(ours.to_tokenizer_json())
    assert_same_ids(ours, tokenizers.Tokenizer.from_str(file), texts)
    assert all(ours.decode(ours.encode(text)) == text for text in texts)


def test_sentencepiece_training_gives_the_same_merges():
    for seed in range(60):
        rng = random.Random(seed)
        texts = ["".join(rng.choices("ab c\né東 ", k=rng.randrange(300))) for _ in range(5)]
        special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        size = len(special) + 9 + rng.randrange(60)
        theirs = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        theirs.pre_tokenizer = pre.Metaspace()
        theirs.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, show_progress=False))
        merges, vocab = hf_merges(theirs, special[:3])
        ours = train_sentencepiece(texts, size)
        assert [(a.decode(), b.decode()) for a, b in ours.merges] == merges, seed
        assert {token.decode(): id for token, id in ours.vocab.items()} == vocab, seed


def test_encodes_as_tiktoken():
    tiktoken = pytest.importorskip("tiktoken")
    for pattern in (GPT2_PATTERN, GPT4_PATTERN, QWEN2_PATTERN):
        ours = train_bpe([TEXT], 420, pattern)
        ours = BPE(ours.vocab, ours.merges, pattern, {"<|end|>": 420, "<|start|>": 421})
        theirs = tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=ours.vocab,
                                   special_tokens=ours.special_tokens)
        for string in fuzz(3000, seed=5, without=YOUNG):
            assert ours.encode(string) == theirs.encode(string, allowed_special="all"), string
            assert ours.encode(string, parse_special=False) == theirs.encode_ordinary(string)


def test_transformers_loads_what_we_save(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = train_bpe([TEXT], 300, special_tokens=["<|end|>", "<|start|>"], bos="<|start|>", eos="<|end|>")
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id) == (1, 0)
    for string in fuzz(500, seed=9):
        assert theirs(string)["input_ids"] == ours.encode(string, add_special=True)
    again = BPE.load(tmp_path)
    assert (again.bos_id, again.eos_id, again.add_bos) == (1, 0, True)
    assert again.encode(TEXT) == ours.encode(TEXT)
