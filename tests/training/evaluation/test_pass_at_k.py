"""Scores against direct counts, and intervals that cover what they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spectra.errors import UsageError
from spectra.training.evaluation.pass_at_k import (
    Estimate,
    average,
    estimate_all,
    estimate_pass,
    interval,
    scores,
)

OUTCOMES = {name: [mark == "1" for mark in marks] for name, marks in {"a": "0100", "b": "0000", "c": "0111"}.items()}


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    direct = [any(pick) for marks in OUTCOMES.values() for pick in itertools.combinations(marks, k)]
    assert estimate_pass(OUTCOMES, k).value == pytest.approx(sum(direct) / len(direct), abs=1e-15)


def test_powers_of_two_and_all_samples_are_estimated() -> None:
    assert list(estimate_all({"a": [True] * 32})) == [1, 2, 4, 8, 16, 32]
    assert list(estimate_all({"a": [True] * 6, "b": [False] * 7})) == [1, 2, 4, 6]
    assert list(estimate_all({"a": [True]})) == [1]


def test_more_than_was_drawn_is_refused() -> None:
    with pytest.raises(UsageError, match="Pass@5 of 4 samples"):
        estimate_pass(OUTCOMES, 5)
    with pytest.raises(UsageError, match="Pass@1 of 0 samples"):
        estimate_pass({}, 1)


def test_errors_of_the_average_are_the_textbook_s() -> None:
    shares = [0.25, 0.0, 0.75]
    found = estimate_pass(OUTCOMES, 1)
    assert found.value == pytest.approx(1 / 3, abs=1e-15)
    assert found.error == pytest.approx(np.std(shares, ddof=1) / math.sqrt(3), abs=1e-15)
    # Leaving one out gives the unbiased p(1 − p)/(n − 1) of each problem.
    assert found.sampling_error == pytest.approx(math.sqrt(sum(p * (1 - p) / 3 for p in shares)) / 3, abs=1e-15)


def test_the_sampling_error_of_pass_at_all_samples_is_not_known() -> None:
    assert math.isnan(estimate_pass(OUTCOMES, 4).sampling_error)
    assert estimate_pass(OUTCOMES, 4).as_json()["sampling_error"] is None
    assert math.isnan(estimate_pass({"a": [True, False]}, 1).error)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_the_sampling_error_is_what_another_seed_changes(k: int) -> None:
    draw = np.random.default_rng(0)
    truth = draw.beta(0.6, 0.6, 30)
    found = [
        estimate_pass({str(i): (draw.random(32) < p).tolist() for i, p in enumerate(truth)}, k) for _ in range(400)
    ]
    assert np.std([one.value for one in found]) == pytest.approx(
        np.mean([one.sampling_error for one in found]), rel=0.1
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_intervals_hold_the_mean_and_stay_shares(shares: list[float]) -> None:
    low, high = interval(shares)
    assert 0 <= low <= np.mean(shares) + 1e-12
    assert np.mean(shares) - 1e-12 <= high <= 1


def test_intervals_of_unanimous_problems_are_wilson_s_with_student_s_quantile() -> None:
    z, n = stats.t.ppf(0.975, 29), 30
    assert interval([0.0] * n) == pytest.approx((0.0, z**2 / (n + z**2)), abs=1e-12)
    assert interval([1.0] * n) == pytest.approx((n / (n + z**2), 1.0), abs=1e-12)
    assert interval([0.5]) == (0.0, 1.0)


def test_more_alike_problems_give_narrower_intervals() -> None:
    spread = [0.0, 1.0] * 20
    alike = [0.4, 0.6] * 20
    assert np.diff(interval(alike)) < np.diff(interval(spread))


# Mean difficulty; how unlike the problems are (small: each is nearly always right or wrong); problems; completions; k.
SCENARIOS = [
    (mean, concentration, *shape)
    for mean in (0.1, 0.3, 0.5, 0.8)
    for concentration in (0.3, 1.0, 4.0)
    for shape in ((30, 32, 1), (30, 32, 4), (40, 32, 1), (272, 4, 1), (500, 4, 1), (30, 4, 2))
]


def test_intervals_cover_over_problems_and_samples_as_often_as_they_promise() -> None:
    draw = np.random.default_rng(1)
    covered = {}
    for mean, concentration, problems, samples, k in SCENARIOS:
        a, b = mean * concentration, (1 - mean) * concentration
        truth = np.mean(1 - (1 - draw.beta(a, b, 200_000)) ** k)
        if not 0.05 < truth < 0.95:
            continue  # where nearly all problems agree, no interval of 30 problems covers evenly
        repeats = 400
        counts = draw.binomial(samples, draw.beta(a, b, (repeats, problems)))
        table = np.array([1 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)])
        bounds = np.array([interval(list(shares)) for shares in table[counts]])
        covered[mean, concentration, problems, samples, k] = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
    assert len(covered) > 50
    assert 0.945 < np.mean(list(covered.values())) < 0.975
    # Three standard deviations of 400 trials below 0.93.
    assert min(covered.values()) > 0.93 - 3 * math.sqrt(0.93 * 0.07 / 400), min(covered, key=covered.get)  # type: ignore[arg-type]


def test_a_bootstrap_of_problems_gives_nearly_the_same_interval() -> None:
    draw = np.random.default_rng(2)
    shares = draw.binomial(32, draw.beta(0.8, 1.2, 200)) / 32
    means = draw.choice(shares, (4000, 200)).mean(axis=1)
    assert interval(list(shares)) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.01)


def test_the_average_of_benchmarks() -> None:
    parts = [Estimate(0.2, 0.1, 0.3, 0.04, 0.01), Estimate(0.6, 0.5, 0.7, 0.03, 0.02)]
    found = average(parts)
    assert found.value == pytest.approx(0.4)
    assert found.error == pytest.approx(0.025)
    assert found.sampling_error == pytest.approx(math.sqrt(0.0005) / 2)
    assert (found.low, found.high) == pytest.approx((0.4 - 1.96 * 0.025, 0.4 + 1.96 * 0.025), abs=1e-4)


def test_a_summary_is_plain_json() -> None:
    found = scores(OUTCOMES)
    assert (found["problems"], found["samples"]) == (3, 4)
    assert found["average"] == found["pass"]["1"]
    assert list(found["pass"]) == ["1", "2", "4"]
    assert found["pass"]["4"]["sampling_error"] is None
