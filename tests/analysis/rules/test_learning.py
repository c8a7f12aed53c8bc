"""Did weights move, was there a gradient, did the reward rise, does bfloat16 show it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from spectra.analysis.rules.learning import flat, invisible, is_share, learns, silent, still
from spectra.runs.tables import COORDINATES, conform
from tests.analysis.rules.frames import FLAT, MODULE_NAMES, RISING, log, made, noisy


def test_weights_that_did_not_move() -> None:
    assert still(made(relative_fro=0.0)).verdict == "not_learning"
    assert still(made(relative_fro=1e-8)).verdict == "not_learning"
    assert still(made(relative_fro=lambda step: np.nan)).verdict is None
    assert still(made()).verdict is None


@pytest.mark.parametrize(
    ("share", "reward", "verdict"), [(0.97, 0.02, "not_learning"), (0.97, 0.99, None), (0.5, 0.3, None)]
)
def test_groups_without_a_gradient(share: float, reward: float, verdict: str | None) -> None:
    found = silent(made(series=log(zero_advantage_share=[share] * 60, reward=[reward] * 60)))
    assert found.verdict == verdict
    assert found.evidence[0].value == pytest.approx(share)


@pytest.mark.parametrize(
    ("reward", "expected", "verdict"),
    [
        (RISING, True, None),
        (FLAT, False, "not_learning"),
        ([0.99] * 60, True, None),
        ([0.3] * 10, None, None),
        ([], None, None),
    ],
    ids=["rising", "flat", "solved", "short", "nothing"],
)
def test_rewards(reward: list[float], expected: bool | None, verdict: str | None) -> None:
    tables = made(series=log(reward=noisy(reward, noise=0.005)))
    assert learns(tables) is expected
    assert flat(tables).verdict == verdict


def test_rewards_between_zero_and_one_are_shares() -> None:
    assert is_share(pd.Series([0.0, 1.0]))
    assert not is_share(pd.Series([-1.0, 1.0]))
    assert not is_share(pd.Series(dtype="float64"))


@pytest.mark.parametrize(("unchanged", "seen"), [(0.999, True), (0.9, False)])
def test_an_update_that_bfloat16_does_not_show_is_mentioned(unchanged: float, seen: bool) -> None:
    rows = [
        {"step": 40, "module": name, "unchanged_bf16": unchanged, "expected_unchanged_bf16": 0.95}
        for name in MODULE_NAMES
    ]
    frame = conform("coordinates", pd.DataFrame(rows).reindex(columns=list(COORDINATES)))
    found = invisible(dataclasses.replace(made(), coordinates=frame))
    assert found.verdict is None
    assert bool(found.evidence) is seen
    assert not seen or (found.evidence[0].value, found.evidence[0].null) == (unchanged, 0.95)
