"""`regex` and Hugging Face's tokenizers as the judges of where text is cut.

A hundred thousand random strings, of every plane of Unicode, must be cut by hand as `regex` cuts
them, and as the pre-tokenizer cuts that GPT-2's own tokenizer.json names.
"""

import random
import unicodedata

import pytest
import regex

from scratchlm.language.tokenisation import GPT2_PATTERN, SPACES, gpt2_split, kinds

tokenizers = pytest.importorskip("tokenizers")


def shared(code: int) -> bool:
    """Whether the character is known to this Python's database, or unknown to all of them."""
    surrogate = 0xD800 <= code < 0xE000
    return not surrogate and (unicodedata.category(chr(code)) != "Cn" or 0x40000 <= code < 0xE0000)


PLANES = [[chr(code) for code in range(plane << 16, (plane + 1) << 16) if shared(code)]
          for plane in (0, 0, 1, 2, 3, 4, 14, 16)]
TRICKY = [
    "'", "'s", "'ll", "'LL", "'ſ", " ", "  ", "\t", "\n", "\r\n", "\x1c", "\x85", "\xa0",
    "\u180e", "\u200b", "\u3000", "12", "½", "Ⅷ", "٣", "abc", "e\u0301", "\u0301", "東", "_", "->",
    "😀", "\u200d", "\0", "\ufeff",
]


def strings(number: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(TRICKY if rng.random() < 0.7 else rng.choice(PLANES))
                    for _ in range(rng.choice((1, 3, 6, 12)))) for _ in range(number)]


def test_cut_by_hand_equals_regex():
    find = regex.compile(GPT2_PATTERN)
    for string in strings(100_000):
        assert gpt2_split(string) == find.findall(string), string


def test_cut_by_hand_equals_tokenizers():
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(GPT2_PATTERN), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for string in strings(10_000, seed=1):
        ours = gpt2_split(string)
        assert ours == [piece for piece, _ in cut.pre_tokenize_str(string)], string
        spans = [span for _, span in byte_level.pre_tokenize_str(string)]
        assert ours == [string[start:stop] for start, stop in spans], string


def test_kinds_of_all_characters():
    everything = "".join(sorted(set().union(*PLANES)))
    for kind, pattern in [("L", r"\p{L}"), ("N", r"\p{N}"), (" ", r"\s")]:
        found = set(regex.findall(pattern, everything))
        assert found == {character for character in everything if kinds[character] == kind}
    assert len(SPACES) == 25
