"""Near-duplicates: against datasketch where it is installed, else against all pairs."""
import random

import numpy as np
import pytest

from scratchlm.scale.data_cleaning import (
    BANDS,
    ROWS,
    candidates,
    jaccard,
    minhash,
    near_pairs,
    shingles,
)

WORDS = [f"word{i}" for i in range(300)]


def families(seed: int, count: int = 50) -> list[str]:
    """Texts of 100 words in families of three, whose members differ in more and more words."""
    rng, texts = random.Random(seed), []
    for _ in range(count):
        words = rng.choices(WORDS, k=100)
        for changes in (0, 1, 4):
            for _ in range(changes):
                words[rng.randrange(100)] = f"new{rng.random()}"
            texts.append(" ".join(words))
    return texts


def all_pairs(sets: list[np.ndarray]) -> dict[tuple[int, int], float]:
    """Every pair and its similarity, by Python's own sets."""
    plain = [set(each.tolist()) for each in sets]
    return {(i, j): len(plain[i] & plain[j]) / len(plain[i] | plain[j])
            for j in range(len(plain)) for i in range(j)}


@pytest.mark.parametrize("seed", range(3))
def test_all_pairs(seed):
    """All that is alike from 0.85 is found (a miss has a chance of 2e-7), and nothing below."""
    sets = [shingles(text) for text in families(seed)]
    every = all_pairs(sets)
    found = set(near_pairs(sets, 0.5))
    assert all(every[pair] >= 0.5 for pair in found)
    assert {pair for pair, value in every.items() if value >= 0.85} <= found
    assert all(jaccard(sets[i], sets[j]) == every[i, j] for i, j in found)
    assert len(found) > 60


def test_candidates_are_those_that_share_a_band():
    """Sorting the bands finds what comparing them one by one finds."""
    signatures = minhash([shingles(text) for text in families(5, 12)])
    bands = signatures.reshape(len(signatures), BANDS, ROWS)
    slow = [[i, j] for i in range(len(bands)) for j in range(i + 1, len(bands))
            if (bands[i] == bands[j]).all(1).any()]
    assert candidates(signatures).tolist() == slow


def test_datasketch_estimates_the_same():
    """Two independent estimates of 125 draws: five standard deviations of their difference."""
    datasketch = pytest.importorskip("datasketch")
    sets = [shingles(text) for text in families(1, 20)]
    ours, theirs = minhash(sets), []
    for each in sets:
        theirs.append(datasketch.MinHash(num_perm=BANDS * ROWS))
        theirs[-1].update_batch([value.tobytes() for value in each])
    for (i, j), value in all_pairs(sets).items():
        allowed = 5 * np.sqrt(2 * value * (1 - value) / (BANDS * ROWS)) + 0.03
        assert abs((ours[i] == ours[j]).mean() - theirs[i].jaccard(theirs[j])) <= allowed
