"""Nulls against the independent oracle's exact moments, and calibrated on random updates."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.linalg.decompositions import spectrum
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.measures.alignment import align
from spectra.linalg.nulls.haar_moments import (
    NORMAL_95,
    Null,
    haar_joint_share,
    haar_share,
    isotropic_rho,
    mean_of_independent,
    walk_cosine,
)
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from tests import oracles
from tests.builders import matrix, randn

SPECTRA = ([1.0], [1.0] * 4, [1.0, 0.5, 0.1], list(1 / np.arange(1, 9)))


@pytest.mark.parametrize("sigma", SPECTRA)
@pytest.mark.parametrize(("k", "m", "n"), [(1, 8, 8), (3, 8, 20), (8, 8, 9), (100, 2048, 700), (1, 1, 1), (1, 1, 8)])
def test_moments(sigma: list[float], k: int, m: int, n: int) -> None:
    p = np.square(sigma) / np.sum(np.square(sigma))
    p = p[: min(m, n)] / p[: min(m, n)].sum()
    concentration = float(np.sum(p**2))
    for null, (mean, sd) in (
        (haar_share(k, m, concentration), oracles.haar_null_share(k, m, p)),
        (haar_joint_share(k, m, n, concentration), oracles.haar_null_joint(k, m, n, p)),
    ):
        assert null.mean == pytest.approx(mean, rel=1e-12)
        assert null.sd == pytest.approx(sd, rel=1e-6, abs=1e-9)


def random_update(kind: str, seed: int) -> Operator:
    if kind == "iid":
        return Dense(randn(24, 40, seed=seed))
    return LowRank(randn(24, 3, seed=seed), randn(3, 40, seed=seed + 10_000))


@pytest.mark.parametrize("kind", ["iid", "low rank"])
def test_z_of_random_updates_is_calibrated(kind: str) -> None:
    """An i.i.d. Gaussian update is neither principal nor off-principal: z has mean 0 and variance 1."""
    weight = matrix(24, 40, condition=1e4)
    basis = decompose(weight)
    zs: dict[str, list[float]] = {"left": [], "right": [], "joint": []}
    for seed in range(400):
        aligned = align(basis, weight, random_update(kind, seed))
        concentration = float((spectrum.energy_shares(aligned.sigma) ** 2).sum())
        top = slice(0, 5)
        zs["left"].append(haar_share(5, 24, concentration).z(float(aligned.left_profile[top].sum())))
        zs["right"].append(haar_share(5, 40, concentration).z(float(aligned.right_profile[top].sum())))
        zs["joint"].append(haar_joint_share(5, 24, 40, concentration).z(aligned.joint_share(top)))
    for values in zs.values():
        # 400 draws: four standard errors of the mean, and of the variance of a nearly normal z.
        assert abs(np.mean(values)) < 4 / 20
        assert 0.7 < np.var(values) < 1.4
        assert stats.skew(values) < 2


def test_a_share_that_covers_everything_has_no_z() -> None:
    null = haar_share(8, 8, 0.5)
    assert null == Null(1.0, 0.0)
    assert np.isnan(null.z(1.0))
    assert null.lift(1.0) == 1.0


def test_flat_full_rank_updates_have_no_spread() -> None:
    assert haar_share(3, 10, 1 / 10).sd == pytest.approx(0, abs=1e-9)


def test_mean_of_independent() -> None:
    mean = mean_of_independent([Null(0.1, 0.03), Null(0.3, 0.04)])
    assert (mean.mean, mean.sd) == (pytest.approx(0.2), pytest.approx(0.025))


def test_zero_update_has_nan_spread() -> None:
    assert np.isnan(haar_share(2, 10, float("nan")).sd)
    assert np.isnan(haar_joint_share(2, 10, 10, float("nan")).sd)
    assert torch.isnan(spectrum.energy_shares(torch.zeros(3, dtype=torch.float64))).all()


def test_the_normal_quantile() -> None:
    assert pytest.approx(stats.norm.ppf(0.975), rel=1e-15) == NORMAL_95


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_small_updates_in_random_directions_have_the_isotropic_rho(shape: tuple[int, int]) -> None:
    weight = matrix(*shape, condition=3.0)
    before = torch.linalg.svdvals(weight)
    energy = [
        float(
            ((torch.linalg.svdvals(weight + 1e-7 * delta) - before) / torch.linalg.vector_norm(1e-7 * delta))
            .square()
            .sum()
        )
        for delta in (randn(*shape, seed=seed) for seed in range(60))
    ]
    assert math.sqrt(np.mean(energy)) == pytest.approx(isotropic_rho(*shape), rel=0.1)


def test_the_cosine_of_a_random_walk_to_its_end() -> None:
    walks = np.random.default_rng(2).standard_normal((8, 40, 3000)).cumsum(axis=1)
    for step in (10, 20, 40):
        here, end = walks[:, step - 1], walks[:, -1]
        cosine = (here * end).sum(1) / np.linalg.norm(here, axis=1) / np.linalg.norm(end, axis=1)
        assert cosine.mean() == pytest.approx(walk_cosine(step, 40), abs=0.02)
    assert math.isnan(walk_cosine(0, 0))
