"""Rows of table ``nulls``: the contract, the same on a second run, and right about planted and about null updates."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from spectra.analysis.tables.coordinates import BaseCoordinates
from spectra.analysis.tables.drift import drift_row
from spectra.analysis.tables.null_draws import BUDGET, FEWEST, MOST, null_rows
from spectra.linalg.decompositions import spectrum
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.nulls.random_updates import FAMILIES
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from spectra.runs.tables import NULLS
from tests.builders import matrix, randn

FEW = 2e8
SHAPES = [(40, 40), (32, 56), (56, 32)]
SHAPE_METRICS = ("stable_rank", "effective_rank", "effective_rank_energy", "participation_ratio", "top1_energy")

Rows = Mapping[tuple[str, str], dict[str, Any]]


def base(rows: int, columns: int, *, condition: float = 50.0) -> torch.Tensor:
    return matrix(rows, columns, condition=condition).to(torch.bfloat16).to(torch.float64)


def measured(weight: torch.Tensor, update: Operator, *, seed: int = 1, budget: float = FEW) -> Rows:
    basis = decompose(weight)
    rows = null_rows(weight, basis, update, BaseCoordinates(weight, basis), seed=seed, budget=budget)
    return {(row["metric"], row["null"]): row for row in rows}


def noise(weight: torch.Tensor, size: float = 3e-3) -> Operator:
    return Dense(size * float(torch.linalg.vector_norm(weight)) * randn(*weight.shape, seed=9) / weight.numel() ** 0.5)


@pytest.mark.parametrize("condition", [50.0, 1e7])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_keep_the_contract_and_values_are_those_of_the_other_tables(
    shape: tuple[int, int], condition: float
) -> None:
    weight = base(*shape, condition=condition)
    update = LowRank(1e-3 * randn(shape[0], 3), 1e-1 * randn(3, shape[1], seed=1))
    rows = measured(weight, update)
    assert {null for _, null in rows} == set(FAMILIES)
    basis = decompose(weight)
    coordinates, drift = BaseCoordinates(weight, basis).row(update), drift_row(weight, basis, update)
    for (metric, _), row in rows.items():
        assert set(row) == set(NULLS) - {"step", "module"}
        assert 0 < row["p"] <= 1
        assert row["draws"] == 0 or FEWEST <= row["draws"] <= MOST
        value = {**coordinates, **drift}.get(metric)
        if value is None:
            value = getattr(spectrum, metric)(update.svdvals())
        assert row["value"] == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_a_second_run_gives_the_same() -> None:
    weight = base(32, 56)
    first, again = measured(weight, noise(weight)), measured(weight, noise(weight))
    assert first == again
    other = measured(weight, noise(weight), seed=2)
    assert other["row_gini", "gaussian"]["expected"] != first["row_gini", "gaussian"]["expected"]


def test_noise_looks_like_noise() -> None:
    weight = base(48, 64)
    rows = measured(weight, noise(weight))
    gaussian = [row["p"] for (_, null), row in rows.items() if null in ("gaussian", "permuted", "spectrum_matched")]
    assert len(gaussian) > 20
    assert min(gaussian) > 1e-3


def test_what_is_planted_is_found_by_the_families_that_destroy_it() -> None:
    weight = base(48, 64)
    size = 3e-3 * float(torch.linalg.vector_norm(weight))
    direction = LowRank(size * randn(48, 1) / 48**0.5, randn(1, 64, seed=1) / 8)
    rows = measured(weight, direction)
    for family in ("gaussian", "sign_flipped"):
        assert rows["stable_rank", family]["value"] == pytest.approx(1)
        assert rows["stable_rank", family]["z"] < -5
        assert rows["stable_rank", family]["p"] < 0.02
    assert rows["stable_rank", "low_rank"]["sd"] == 0  # every update of rank 1 has it

    stripe = torch.zeros(48, 64, dtype=torch.float64)
    stripe[:6] = size * randn(6, 64) / 20
    rows = measured(weight, Dense(stripe))
    for family in ("gaussian", "permuted", "spectrum_matched"):
        assert rows["row_gini", family]["p"] < 1e-3
        assert rows["row_gini", family]["z"] > 5

    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    stretch = LowRank(u * size / 7, vh)
    rows = measured(weight, stretch)
    for family in ("gaussian", "spectrum_matched"):
        assert rows["rho_sigma", family]["value"] == pytest.approx(1, rel=0.01)
        assert rows["rho_sigma", family]["p"] < 1e-3
        assert rows["kappa_spec", family]["expected"] == pytest.approx(1, abs=0.6)


def test_a_turn_of_the_leading_spaces_is_found_where_it_happens() -> None:
    weight = base(32, 56, condition=300.0)
    size = 3e-3 * float(torch.linalg.vector_norm(weight))
    u, sigma, vh = torch.linalg.svd(weight, full_matrices=False)
    rows = measured(weight, LowRank(size * u[:, 5:6], vh[:1]), budget=BUDGET)
    turn = math.degrees(size * sigma[0] / (sigma[0] ** 2 - sigma[5] ** 2))  # of u_1 to u_6, to first order
    for family in ("gaussian", "spectrum_matched"):
        for k in (1, 4):
            row = rows[f"angle_max_k{k}", family]
            assert row["value"] == pytest.approx(turn, rel=0.02)
            assert row["value"] > row["hi"]
            assert row["p"] < 0.03
        # Within the first 16 directions, and leaving nothing outside.
        assert rows["angle_max_k16", family]["value"] < 1e-6 * rows["angle_max_k16", family]["expected"]
        assert rows["angle_mean_k16", family]["p"] < 0.03
    assert not {name for name, _ in rows if name.endswith("k64")}  # there are no 64 directions


def test_spaces_that_span_both_sides_have_no_null() -> None:
    square, wide = base(16, 16), base(16, 20)
    angles = {name for name, _ in measured(square, noise(square)) if name.startswith("angle_max")}
    assert angles == {"angle_max_k1", "angle_max_k4"}
    assert ("angle_max_k16", "gaussian") in measured(wide, noise(wide))


def test_large_random_directions_are_intruders_under_their_null_too() -> None:
    weight = base(200, 220)
    update = LowRank(randn(200, 2), 0.01 * randn(2, 220, seed=1))
    row = measured(weight, update, budget=BUDGET / 8)["intruders", "spectrum_matched"]
    assert row["value"] == row["expected"] == 2
    assert math.isnan(row["z"])
    assert row["p"] == 1


def test_draws_follow_the_budget() -> None:
    weight = base(32, 56)
    few, many = measured(weight, noise(weight), budget=FEW), measured(weight, noise(weight), budget=BUDGET)
    key = ("row_gini", "gaussian")
    assert few[key]["draws"] < 99 <= many[key]["draws"] <= MOST
    assert few[key]["expected"] == pytest.approx(many[key]["expected"], rel=0.05)
    poor = measured(weight, noise(weight), budget=1e4)
    assert {row["draws"] for row in poor.values()} == {0}


def test_a_zero_update_has_no_rows() -> None:
    weight = base(32, 56)
    assert measured(weight, LowRank(torch.zeros(32, 2), randn(2, 56))) == {}
