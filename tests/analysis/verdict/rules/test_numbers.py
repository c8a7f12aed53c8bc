"""Numbers that are not finite."""

import numpy as np
import pytest

from spectra.analysis.verdict.rules.numbers import not_finite
from tests.analysis.verdict.rules.rule_tables import RISING, log, made


def test_weights_that_are_not_finite() -> None:
    found = not_finite(made(relative_fro=lambda step: np.nan if step >= 20 else 1e-3))
    assert (found.verdict, found.onset, found.earliest) == ("diverging", 20, 20)
    assert found.evidence[0].value == 6


@pytest.mark.parametrize(("broken", "verdict"), [(60, "diverging"), (30, None)])
def test_a_log_that_ends_in_infinity_is_a_fault_and_one_that_recovers_is_mentioned(broken: int, verdict: str) -> None:
    flags = [1.0 if step == broken else np.nan for step in range(1, 61)]
    found = not_finite(made(series=log(reward=RISING, non_finite=flags)))
    assert found.verdict == verdict
    assert found.evidence[0].first_step == broken


def test_a_log_without_a_break_says_nothing() -> None:
    assert not_finite(made(series=log(reward=RISING, non_finite=[np.nan] * 60))).evidence == ()
    assert not_finite(made()).evidence == ()
