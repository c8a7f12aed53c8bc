import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spectra.statistics.intervals import RESAMPLES, layer_interval, paired, seed_interval, student_quantile, wilson
from tests import oracles_relations as oracle


def test_the_interval_is_that_of_every_possible_resample() -> None:
    values, clusters = [1.0, 2.0, 4.0, 7.0, 3.0, 9.0, 2.5], ["0", "0", "1", "1", "2", "2", "2"]
    means = oracle.every_resample(oracle.cluster_means(values, clusters))
    half = stats.t.ppf(0.975, 2) * means.std() * math.sqrt(3 / 2)
    found = layer_interval(values, clusters)
    assert found.value == np.mean(values)
    assert found.hi - found.value == pytest.approx(found.value - found.lo) == pytest.approx(half, rel=0.04)
    assert RESAMPLES >= 2000


def test_weights_make_a_ratio_of_means() -> None:
    lifts, chance = np.array([2.0, 0.5, 1.0, 4.0]), np.array([0.1, 0.3, 0.2, 0.01])
    found = layer_interval(lifts, [0, 1, 2, 3], chance)
    assert found.value == pytest.approx((lifts * chance).mean() / chance.mean())
    assert found.lo < found.value < found.hi


def test_modules_of_a_layer_go_together() -> None:
    rng = np.random.default_rng(0)
    layers = np.repeat(np.arange(12), 7)
    shared = rng.normal(size=12)[layers] + 0.01 * rng.normal(size=84)
    together, apart = layer_interval(shared, layers.tolist()), layer_interval(shared, list(range(84)))
    assert together.hi - together.lo > 2 * (apart.hi - apart.lo)


def test_it_is_the_same_every_time() -> None:
    values = np.random.default_rng(1).normal(size=20)
    assert layer_interval(values, list(range(20))) == layer_interval(values, list(range(20)))


@pytest.mark.parametrize("layers", [3, 6, 24])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_the_interval_covers_what_it_says(layers: int, shape: str) -> None:
    rng = np.random.default_rng([layers, len(shape)])
    clusters = np.repeat(np.arange(layers), 4).tolist()
    hits = []
    for _ in range(1500):
        effect = rng.normal(size=layers) if shape == "normal" else rng.lognormal(0, 0.5, layers) - math.exp(0.125)
        found = layer_interval(np.repeat(effect, 4) + 0.3 * rng.normal(size=4 * layers), clusters)
        hits.append(found.lo <= 0 <= found.hi)
    least = 0.93 if shape == "normal" else 0.90
    assert least < np.mean(hits) < 0.975


def test_two_layers_have_no_interval() -> None:
    found = layer_interval([1.0, 3.0, 2.0], [0, 1, 1])
    assert found.value == 2 and math.isnan(found.lo) and math.isnan(found.hi)
    assert all(math.isnan(end) for end in layer_interval([], []))
    assert math.isnan(found.within(0.0, 1.0).lo)


def test_equal_values_have_an_interval_without_width() -> None:
    found = layer_interval([0.1] * 6, [0, 0, 1, 1, 2, 2])
    assert found.lo == pytest.approx(0.1, abs=1e-15) and found.hi == pytest.approx(0.1, abs=1e-15)


def test_an_interval_is_cut_to_what_is_possible() -> None:
    found = layer_interval([0.0, 0.0, 1.0], [0, 1, 2])
    assert found.lo < 0 and found.hi > 1
    assert found.within(0.0, 1.0)[1:] == (0, 1)


def test_seeds_have_student_s_interval() -> None:
    values = [0.31, 0.36, 0.40]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert seed_interval(values) == pytest.approx((np.mean(values), low, high))
    assert seed_interval([*values, math.nan]) == pytest.approx(seed_interval(values))
    assert seed_interval([0.3])[0] == 0.3 and math.isnan(seed_interval([0.3]).lo)
    assert math.isnan(seed_interval([]).value)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 9, 29, 499])
def test_student_s_quantile(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-14)


@pytest.mark.parametrize("problems", [2, 3, 6, 30, 272])
def test_paired_differences_are_the_paired_t_test_s(problems: int) -> None:
    draw = np.random.default_rng(problems)
    difficulty = draw.random(problems)
    a, b = difficulty + 0.1 * draw.normal(size=problems), difficulty + 0.1 * draw.normal(size=problems)
    oracle = stats.ttest_rel(a, b)
    low, high = oracle.confidence_interval(0.95)
    names = [f"p{number}" for number in range(problems)]
    # The second run has its problems in another order, and one that the first does not have.
    found = paired(pd.Series(a, names), pd.Series([*b[::-1], 9.0], [*names[::-1], "other"]))
    assert found == pytest.approx((problems, np.mean(a - b), low, high, oracle.statistic))


def test_paired_differences_of_one_problem_and_of_equal_runs() -> None:
    one = paired(pd.Series([1.0], ["a"]), pd.Series([0.0], ["a"]))
    assert one.problems == 1 and all(math.isnan(value) for value in one[1:])
    same = pd.Series([0.0, 1.0, 0.5], ["a", "b", "c"])
    assert paired(same, same) == (3, 0, 0, 0, 0)
    assert paired(same + 1, same).z == math.inf


@given(st.integers(1, 400).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_a_share_has_wilson_s_interval(trial: tuple[int, int]) -> None:
    right, count = trial
    oracle = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    assert wilson(right / count, count) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_an_effective_count_narrows_and_a_wider_quantile_widens_a_share_s_interval() -> None:
    plain = np.diff(wilson(0.3, 30))
    assert np.diff(wilson(0.3, 41.5)) < plain < np.diff(wilson(0.3, 30, student_quantile(29)))


def test_intervals_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import spectra.statistics.intervals"
    subprocess.run([sys.executable, "-c", code], check=True)
