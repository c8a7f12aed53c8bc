"""Spectrum shape: known values, bounds, scale invariance, and ΔW = 0."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra.linalg.decompositions import spectrum

SHAPE = (
    spectrum.stable_rank,
    spectrum.effective_rank,
    spectrum.effective_rank_energy,
    spectrum.participation_ratio,
    spectrum.nuclear_ratio,
)


def sigma(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("metric", SHAPE)
def test_a_flat_spectrum_has_its_rank(metric: Callable[[torch.Tensor], float]) -> None:
    assert metric(sigma(2, 2, 2, 2)) == pytest.approx(4)
    assert metric(sigma(3, 0, 0)) == pytest.approx(1)


def test_by_hand() -> None:
    values = sigma(2, 1)
    assert spectrum.stable_rank(values) == pytest.approx(5 / 4)
    assert spectrum.participation_ratio(values) == pytest.approx(25 / 17)
    assert spectrum.nuclear_ratio(values) == pytest.approx(9 / 5)
    assert spectrum.top1_energy(values) == pytest.approx(4 / 5)
    assert spectrum.effective_rank(values) == pytest.approx(math.exp(-(2 / 3) * math.log(2 / 3) - math.log(1 / 3) / 3))
    assert spectrum.effective_rank_energy(values) == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.sampled_from([1e-200, 1e-6, 1.0, 1e150]))
def test_bounds_and_scale_invariance(values: list[float], scale: float) -> None:
    ordered = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    for metric in SHAPE:
        value = metric(ordered)
        assert 1 - 1e-9 <= value <= len(values) + 1e-9
        assert metric(ordered * scale) == pytest.approx(value, rel=1e-9)
    assert 1 / len(values) - 1e-9 <= spectrum.top1_energy(ordered) <= 1


def test_zero_has_no_shape() -> None:
    for metric in (*SHAPE, spectrum.top1_energy):
        assert math.isnan(metric(sigma(0, 0)))
    assert spectrum.numerical_rank(sigma(0, 0), 5, 2) == 0


def test_numerical_rank_ignores_rounding() -> None:
    assert spectrum.numerical_rank(sigma(1, 1e-3, 1e-13, 1e-17), 100, 100) == 3
    assert spectrum.numerical_rank(sigma(1, 1e-3, 1e-17), 100, 100) == 2
