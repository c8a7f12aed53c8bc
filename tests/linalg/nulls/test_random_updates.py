"""Families of null updates keep what they say, destroy the rest, and are drawn again from the same seed."""

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.linalg.nulls.random_updates import FAMILIES, Original, gaussian_sigma, haar
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from tests.builders import randn

SHAPES = [(24, 24), (18, 30), (30, 18)]
UPDATES = {
    "low rank": lambda shape: LowRank(randn(shape[0], 3), 1e-3 * randn(3, shape[1], seed=1)),
    "dense": lambda shape: Dense(1e-3 * randn(*shape, seed=2)),
}


def original(kind: str, shape: tuple[int, int]) -> Original:
    update: Operator = UPDATES[kind](shape)
    return Original(update, update.svdvals())


def draw(family: str, of: Original, seed: int = 0) -> torch.Tensor:
    return FAMILIES[family](of, torch.Generator().manual_seed(seed)).dense()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_norm_and_seed(shape: tuple[int, int], kind: str, family: str) -> None:
    of = original(kind, shape)
    drawn = draw(family, of)
    assert tuple(drawn.shape) == shape
    assert float(torch.linalg.vector_norm(drawn)) == pytest.approx(of.norm, rel=1e-12)
    assert torch.equal(drawn, draw(family, of))
    assert not torch.equal(drawn, draw(family, of, seed=1))
    state = torch.get_rng_state()
    draw(family, of)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_each_family_keeps(shape: tuple[int, int], kind: str) -> None:
    of = original(kind, shape)
    torch.testing.assert_close(torch.linalg.svdvals(draw("spectrum_matched", of))[: of.rank], of.sigma[: of.rank])
    assert int(torch.linalg.matrix_rank(draw("low_rank", of))) == of.rank == (3 if kind == "low rank" else min(shape))
    assert torch.equal(draw("sign_flipped", of).abs(), of.dense.abs())
    assert torch.equal(draw("permuted", of).flatten().sort().values, of.dense.flatten().sort().values)
    sizes = draw("adam_like", of).abs()
    assert float(sizes.min()) == float(sizes.max())


def test_what_each_family_destroys() -> None:
    """A planted first row and a planted direction are gone, or stay where the family keeps them."""
    row = torch.zeros(24, 40, dtype=torch.float64)
    row[0] = 1
    of = Original(Dense(row), torch.linalg.svdvals(row))
    for family in ("gaussian", "low_rank", "spectrum_matched", "permuted", "adam_like"):
        assert float((draw(family, of)[0] ** 2).sum()) < 0.3 * of.norm**2
    assert float((draw("sign_flipped", of)[0] ** 2).sum()) == pytest.approx(of.norm**2)
    flat = Original(Dense(torch.ones(24, 40, dtype=torch.float64)), of.sigma)
    assert float(torch.linalg.matrix_norm(draw("sign_flipped", flat), 2)) < 0.5 * 960**0.5


def test_orientation_is_uniform() -> None:
    """‖P_k a‖² of a uniform direction is Beta; QR without signs is not Haar and its first entry is never positive."""
    generator = torch.Generator().manual_seed(5)
    entries = np.array([haar(6, 2, generator)[0, 0].item() for _ in range(2000)])
    assert stats.kstest(entries**2, stats.beta(0.5, 2.5).cdf).pvalue > 1e-3
    assert abs((entries > 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9), (1, 5)])
def test_gaussian_sigma_has_the_law_of_a_gaussian_matrix(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    quick = np.array([gaussian_sigma(*shape, rng) for _ in range(1500)])
    dense = np.linalg.svd(rng.standard_normal((1500, *shape)), compute_uv=False)
    assert quick.shape == dense.shape
    assert (np.diff(quick, axis=1) <= 0).all()
    for index in {0, quick.shape[1] // 2, quick.shape[1] - 1}:
        assert stats.ks_2samp(quick[:, index], dense[:, index]).pvalue > 1e-3
