"""An update that runs away, and since when."""

import math

import pytest

from spectra.analysis.verdict.rules.magnitude import diverging
from spectra.runs.tables import Tables
from tests.analysis.verdict.rules.rule_tables import MODULE_NAMES, made

STEPS = (10, 20, 30, 40, 50, 60)


def grown(size: float, start: float = 1e-3) -> Tables:
    """Linear growth to step 30, then exponential to ``size`` at step 60."""

    def level(step: int) -> float:
        return start * step if step <= 30 else start * 30 * math.exp(math.log(size / (start * 30)) * (step - 30) / 30)

    return made(STEPS, relative_spectral=level, relative_fro=level)


def test_it_is_dated_by_the_step_where_it_began_to_accelerate() -> None:
    found = diverging(grown(3.0))
    assert found.verdict == "diverging"
    assert (found.earliest, found.onset) == (31, 40)
    assert "faster than linearly since step 30" in found.evidence[0].says


def test_a_large_update_under_the_base_is_no_fault() -> None:
    found = diverging(grown(0.8))
    assert found.verdict is None
    assert found.evidence[0].value == pytest.approx(0.8)


def test_linear_growth_is_dated_where_it_crosses_the_base() -> None:
    found = diverging(made(STEPS, relative_spectral=lambda step: step / 34.5, relative_fro=lambda step: step / 34.5))
    assert (found.verdict, found.earliest, found.onset) == ("diverging", 35, 40)


def test_too_large_from_the_first_snapshot_on() -> None:
    found = diverging(made(STEPS, relative_spectral=2.0, relative_fro=2.0))
    assert (found.verdict, found.earliest, found.onset) == ("diverging", 5, 10)


def test_one_matrix_in_six_is_more_than_a_tenth() -> None:
    tables = made(STEPS)
    frame = tables.modules
    frame.loc[(frame["module"] == MODULE_NAMES[0]) & (frame["step"] >= 50), "relative_spectral"] = 1.5
    assert diverging(tables).verdict == "diverging"


def test_an_update_that_came_back_is_no_fault() -> None:
    assert diverging(made(STEPS, relative_spectral=lambda step: 1.5 if step == 30 else 0.1)).verdict is None
