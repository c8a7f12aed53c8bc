"""Where an update lies: a fact, and a fault only far out and without learning."""

import dataclasses

import pandas as pd
import pytest

from spectra.analysis.verdict.rules.alignment import intruders, principal_locked
from spectra.runs.tables import DRIFT, conform
from tests.analysis.verdict.rules.rule_tables import FLAT, MODULE_NAMES, RISING, log, made, noisy


@pytest.mark.parametrize(
    ("share", "reward", "verdict"),
    [
        (0.6, FLAT, "principal_locked"),
        (0.6, RISING, None),
        (0.4, FLAT, None),
        (0.6, None, None),
        (0.9, None, "principal_locked"),
    ],
    ids=["locked and flat", "locked and learning", "less locked", "no reward", "no reward and far out"],
)
def test_locked(share: float, reward: tuple[float, ...] | None, verdict: str | None) -> None:
    series = None if reward is None else log(reward=noisy(reward))
    found = principal_locked(made(share=share, series=series))
    assert found.verdict == verdict
    if verdict:
        assert (found.evidence[0].value, found.evidence[0].first_step) == (share, 10)
        assert found.evidence[0].null == pytest.approx(4 / (48 * 24))


def test_a_lock_is_dated() -> None:
    found = principal_locked(made(share=lambda step: 0.2 if step == 10 else 0.7, series=log(reward=noisy(FLAT))))
    assert (found.verdict, found.onset) == ("principal_locked", 20)


def test_the_last_directions_do_not_lock() -> None:
    assert principal_locked(made(share=0.9, subspace="minor", series=log(reward=noisy(FLAT)))).verdict is None


def test_intruders_are_a_fact_with_a_step() -> None:
    rows = [
        {"step": step, "module": name, "intruders": int(step >= 20), "intruder_energy": 0.1 * (step >= 20)}
        for step in (10, 20, 40)
        for name in MODULE_NAMES
    ]
    frame = conform("drift", pd.DataFrame(rows).reindex(columns=list(DRIFT)))
    found = intruders(dataclasses.replace(made(), drift=frame))
    assert found.verdict is None
    assert (found.evidence[0].value, found.evidence[0].first_step) == (1.0, 20)
    assert intruders(made()).evidence == ()
