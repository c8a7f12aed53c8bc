"""Every number of the tables against the dense float64 oracle."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.analysis.tables.spectral import kind_of, layer_of, measure_matrix, measure_vector
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.nulls.haar_moments import haar_centroid, haar_diagonal_share
from spectra.linalg.nulls.share_distributions import joint_share_distribution, share_distribution
from spectra.linalg.operators.basic import Dense, LowRank, Operator, RowScaled, Sum
from tests import oracles, oracles_nulls
from tests.builders import matrix, randn

SHAPES = [(40, 40), (40, 72), (72, 40)]


def dora(weight: torch.Tensor) -> Operator:
    low = LowRank(1e-2 * randn(weight.shape[0], 3, seed=5), randn(3, weight.shape[1], seed=6))
    factors = 1 + 1e-2 * randn(weight.shape[0], seed=7)
    return Sum(RowScaled(factors - 1, Dense(weight)), RowScaled(factors, low))


UPDATES: dict[str, Any] = {
    "low rank": lambda weight: LowRank(randn(weight.shape[0], 4), 1e-4 * randn(4, weight.shape[1], seed=1)),
    "rank one": lambda weight: LowRank(randn(weight.shape[0], 1), 1e-4 * randn(1, weight.shape[1], seed=1)),
    "dense": lambda weight: Dense(1e-5 * randn(*weight.shape, seed=2)),
    "dora": dora,
    "zero": lambda weight: LowRank(torch.zeros(weight.shape[0], 4), randn(4, weight.shape[1])),
}


def assert_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for column, value in theirs.items():
            if isinstance(value, str):
                assert mine[column] == value
            else:
                assert mine[column] == pytest.approx(value, rel=1e-6, abs=1e-12, nan_ok=True), column


@pytest.mark.parametrize("condition", [20.0, 1e5])
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number(shape: tuple[int, int], name: str, condition: float) -> None:
    weight = matrix(*shape, condition=condition)
    update = UPDATES[name](weight)
    dense, base = update.dense().numpy(), weight.numpy()
    found = measure_matrix(weight, decompose(weight), update)
    row = oracles.modules_row(dense, base)
    rank = row.pop("numerical_rank")
    assert_rows(found.modules, [row])
    assert found.modules[0]["numerical_rank"] == min(rank, update.rank_bound)
    by = ("side", "subspace", "fraction")
    theirs = sorted(oracles.projection_rows(dense, base), key=lambda r: [r[c] for c in by])
    assert_rows(sorted(found.projection, key=lambda r: [r[c] for c in by]), theirs)
    assert_rows(found.profile, oracles.profile_rows(dense, base))
    sigma = [r["sigma"] for r in found.spectrum]
    np.testing.assert_allclose(sigma, oracles.spectrum_sigma(dense)[: len(sigma)], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_where_the_energy_lies(shape: tuple[int, int], name: str) -> None:
    weight = matrix(*shape, condition=1e5)
    update = UPDATES[name](weight)
    dense, base = update.dense().numpy(), weight.numpy()
    found = measure_matrix(weight, decompose(weight), update)
    row, cells = found.modules[0], {(c["bin_left"], c["bin_right"]): c for c in found.map}
    assert len(cells) == len(found.map) == 16**2
    if name == "zero":
        assert all(math.isnan(row[c]) for c in row if c.startswith(("centroid", "diagonal", "z_", "p_")))
        assert all(math.isnan(c["share"]) for c in found.map)
        assert (row["tail_values"], row["expected_centroid"]) == (0, 0.5)
        return
    centroids = oracles_nulls.centroids(dense, base)
    assert (39 * row["centroid_left"], 39 * row["centroid_right"]) == pytest.approx(centroids, rel=1e-6)
    for side, inside in zip(("left", "right"), oracles_nulls.inside_concentrations(dense, base), strict=True):
        z = haar_centroid(40, inside).z(39 * row[f"centroid_{side}"])
        assert row[f"z_centroid_{side}"] == pytest.approx(z, rel=1e-4)
    diagonal = oracles_nulls.diagonal_share(dense, base)
    null = haar_diagonal_share(*shape, 1 / row["participation_ratio"])
    assert row["diagonal_share"] == pytest.approx(diagonal, rel=1e-6)
    assert row["expected_diagonal_share"] == pytest.approx(40 / (shape[0] * shape[1]))
    assert row["z_diagonal_share"] == pytest.approx(null.z(diagonal), rel=1e-5, abs=1e-7)
    blocks = oracles_nulls.block_map(dense, base, 16)
    for (i, j), cell in cells.items():
        assert cell["share"] == pytest.approx(blocks[i, j], rel=1e-6, abs=1e-12)
    assert sum(c["expected"] for c in found.map) == pytest.approx(40 * 40 / (shape[0] * shape[1]))


@pytest.mark.parametrize("name", UPDATES)
def test_p_values(name: str) -> None:
    weight = matrix(40, 72)
    update = UPDATES[name](weight)
    shares = oracles.spectrum_sigma(update.dense().numpy()) ** 2
    shares = shares[: update.rank_bound] / shares.sum() if shares.sum() > 0 else np.array([math.nan])
    for row in measure_matrix(weight, decompose(weight), update).projection:
        k = row["k"]
        expected = {"left": share_distribution(k, 40, shares), "right": share_distribution(k, 72, shares)}
        expected["joint"] = joint_share_distribution(k, 40, 72, shares)
        assert row["p"] == pytest.approx(expected[row["side"]].p(row["share"]), rel=1e-4, abs=1e-8, nan_ok=True)
        # A share far from chance on either side has a small p, one beside its expectation a large one.
        if abs(row["z"]) > 6:
            assert row["p"] < 0.02
        if abs(row["z"]) < 0.1:
            assert row["p"] > 0.3


P_COLUMNS = ("p_centroid_left", "p_centroid_right", "p_diagonal_share")


def test_p_values_of_where_the_energy_lies_are_uniform_under_the_null() -> None:
    rng, rows = np.random.default_rng(5), []
    sigma = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    for shape in ((12, 20), (20, 12)):
        weight = matrix(*shape)
        basis = decompose(weight)
        sides = (torch.from_numpy(oracles_nulls.orthonormal(rng, 100, size, 3)) for size in shape)
        rows += [measure_matrix(weight, basis, LowRank(u * sigma, v.T)).modules[0] for u, v in zip(*sides, strict=True)]
    for column in P_COLUMNS:
        assert stats.kstest([row[column] for row in rows], "uniform").pvalue > 1e-3, column


def test_p_values_of_where_the_energy_lies_count_random_orientations() -> None:
    """The share of draws that lie further out, for an update that leans to the first directions."""
    shape, sigma = (12, 12), torch.tensor([2.0, 1.0], dtype=torch.float64)
    weight = matrix(*shape)
    u, _, vh = torch.linalg.svd(weight)
    lean = 4.0 / torch.arange(2, 14, dtype=torch.float64)[:, None] + randn(12, 2, seed=3)
    update = LowRank(u @ torch.linalg.qr(lean)[0] * sigma, (vh.T @ torch.linalg.qr(lean)[0]).T)
    row = measure_matrix(weight, decompose(weight), update).modules[0]
    energy = oracles_nulls.random_coordinates([0.8, 0.2], shape, 20_000, seed=4)
    index = np.arange(12) / 11
    drawn = {
        "centroid_left": energy.sum(2) @ index,
        "centroid_right": energy.sum(1) @ index,
        "diagonal_share": np.trace(energy, axis1=1, axis2=2),
    }
    for name, values in drawn.items():
        below = float((values <= row[name]).mean())
        assert row[f"p_{name}"] == pytest.approx(2 * min(below, 1 - below), abs=0.015), name


def test_tails_come_from_the_spectrum() -> None:
    weight = matrix(64, 80)
    row = measure_matrix(weight, decompose(weight), Dense(randn(64, 80, seed=3))).modules[0]
    assert row["tail_values"] == 64
    assert row["tail_hill"] > 0
    assert row["tail_alpha"] > 1


def test_not_finite() -> None:
    weight = matrix(8, 12)
    a = randn(2, 12)
    a[1, 3] = math.nan
    found = measure_matrix(weight, decompose(weight), LowRank(randn(8, 2), a))
    assert "delta_fro" not in found.modules[0]
    assert [len(table) for table in (found.projection, found.profile, found.spectrum, found.map)] == [0, 0, 0, 0]


def test_vectors() -> None:
    row = measure_vector(2 * torch.ones(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)).modules[0]
    assert row == {"out_features": 4, "in_features": None, "delta_fro": 2.0, "weight_fro": 4.0, "relative_fro": 0.5}
    zero = measure_vector(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)).modules[0]
    assert math.isnan(zero["relative_fro"])


def test_names() -> None:
    assert layer_of("transformer.h.11.attn.c_attn") == 11
    assert layer_of("model.norm") is None
    assert kind_of("lm_head") == "lm_head"
