"""Table ``coordinates`` against a dense oracle and against simulation."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spectra.analysis.tables.coordinates import MASKS, BaseCoordinates
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.measures import masks
from spectra.linalg.measures.rounding import round_to
from spectra.linalg.nulls.counts import CountNull
from spectra.linalg.nulls.haar_moments import Null
from spectra.linalg.operators.basic import Dense, Difference, LowRank, Operator
from spectra.runs.tables import COORDINATES
from tests import oracles_coordinates as oracle
from tests.builders import matrix, randn

SHAPES = [(24, 24), (18, 40), (40, 18)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DRAWS = 1000


def stored(weight: Tensor, dtype: str) -> Tensor:
    return weight.to(DTYPES[dtype]).to(torch.float64)


def base(
    shape: tuple[int, int], dtype: str = "bfloat16", condition: float = 30.0, scale: float = 1.0
) -> BaseCoordinates:
    weight = stored(scale * matrix(*shape, condition=condition), dtype)
    return BaseCoordinates(weight, decompose(weight))


def update(shape: tuple[int, int], size: float, *, factored: bool) -> Operator:
    """Return an update with entries of about that size."""
    if factored:
        return LowRank(randn(shape[0], 4, seed=1), randn(4, shape[1], seed=2), size / 2)
    return Dense(size * randn(*shape, seed=3))


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_column_is_the_oracles(shape: tuple[int, int], dtype: str, factored: bool, size: float) -> None:
    coordinates, delta = base(shape, dtype), update(shape, size, factored=factored)
    row = coordinates.row(delta)
    expected = oracle.row(coordinates.weight.numpy(), delta.dense().numpy())
    assert set(row) == set(COORDINATES) - {"step", "module"}
    assert set(row) == set(expected) | {column for column in row if column.startswith("z_")}
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), column


@pytest.mark.parametrize("condition", [1e4, 1e8])
@pytest.mark.parametrize("shape", SHAPES)
def test_masks_of_ill_conditioned_bases(shape: tuple[int, int], condition: float) -> None:
    coordinates, delta = base(shape, "float32", condition), update(shape, 1e-4, factored=True)
    row, expected = coordinates.row(delta), oracle.row(coordinates.weight.numpy(), delta.dense().numpy())
    for mask in MASKS:
        assert row[f"coverage_{mask}"] == pytest.approx(expected[f"coverage_{mask}"], rel=1e-9)


def test_metrics_of_a_dense_matrix_are_those_of_the_row() -> None:
    coordinates, delta = base((28, 60)), update((28, 60), 1e-3, factored=True)
    row, metrics = coordinates.row(delta), coordinates.metrics(delta.dense())
    assert metrics == pytest.approx({key: row[key] for key in metrics}, rel=1e-12)
    assert set(metrics) == {
        *("unchanged_bf16", "unchanged_relative", "unchanged_atol", "row_gini", "column_gini"),
        *(f"overlap_{mask}" for mask in MASKS),
    }


def test_visible_entries_are_where_the_cast_differs() -> None:
    coordinates, delta = base((28, 60)), update((28, 60), 1e-3, factored=False)
    weight = coordinates.weight.numpy()
    expected = oracle.bfloat16(weight + delta.dense().numpy()) != oracle.bfloat16(weight)
    visible = coordinates.visible(delta)
    assert np.array_equal(visible, expected)
    assert 1 - float(visible.double().mean()) == pytest.approx(coordinates.row(delta)["unchanged_bf16"])


def test_a_cast_through_float32_would_see_other_entries() -> None:
    weight = torch.full((3, 40), 1.0, dtype=torch.float64)
    coordinates = BaseCoordinates(weight, decompose(weight))
    delta = Dense(torch.full((3, 40), 2.0**-8 + 2.0**-40, dtype=torch.float64))
    assert bool((round_to(weight + delta.matrix) == 1 + 2.0**-7).all())
    assert coordinates.row(delta)["unchanged_bf16"] == 0
    assert bool(((weight + delta.matrix).to(torch.bfloat16) == 1).all())


@pytest.mark.parametrize("norm", [None, 0.0])
def test_no_update(norm: float | None) -> None:
    same = LowRank(randn(28, 3), randn(3, 60, seed=1))
    row = base((28, 60)).row(
        LowRank(same.b, torch.zeros_like(same.a)) if norm is None else Difference(same, same), norm
    )
    for column, value in row.items():
        if column.startswith(("unchanged", "expected_unchanged")):
            assert value == 1, column
        elif column.startswith("coverage"):
            assert value == 0, column
        elif column.startswith(("density", "expected_row", "expected_column")):
            assert value > 0, column
        else:
            assert math.isnan(value), column


def test_an_update_too_small_to_show_has_no_overlap() -> None:
    row = base((28, 60)).row(update((28, 60), 1e-12, factored=False))
    assert row["unchanged_bf16"] == row["expected_unchanged_bf16"] == 1
    assert math.isnan(row["overlap_principal"])
    assert math.isnan(row["z_unchanged_bf16"])
    assert row["row_gini"] > 0


def test_scaling_everything_by_a_power_of_two_changes_only_absolute_tolerances() -> None:
    small, large = base((28, 60)), base((28, 60), scale=2.0**10)
    rows = (
        small.row(update((28, 60), 1e-3, factored=False)),
        large.row(update((28, 60), 2.0**10 * 1e-3, factored=False)),
    )
    for column in rows[0].keys() - {"unchanged_atol"}:
        assert rows[0][column] == pytest.approx(rows[1][column], rel=1e-12), column


def test_an_entry_that_overflows_moved() -> None:
    weight = torch.full((5, 40), torch.finfo(torch.bfloat16).max, dtype=torch.float64)
    row = BaseCoordinates(weight, decompose(weight)).row(Dense(torch.full((5, 40), 2.0**121, dtype=torch.float64)))
    assert row["unchanged_bf16"] == row["unchanged_relative"] == row["unchanged_atol"] == 0


def agrees(samples: list[float], null: Null) -> None:
    found = torch.tensor(samples, dtype=torch.float64)
    assert abs(float(found.mean()) - null.mean) < 4 * null.sd / math.sqrt(len(found))
    assert abs(float(found.std()) / null.sd - 1) < 5 / math.sqrt(2 * len(found))


def check_null(null: CountNull, samples: list[dict[str, float]]) -> None:
    agrees([sample["unchanged_bf16"] for sample in samples], null.unchanged())
    for mask, groups in MASKS.items():
        members = torch.tensor(groups, dtype=torch.float64)
        agrees([sample[f"overlap_{mask}"] for sample in samples], null.overlap(members))


@cache
def gaussian_samples(dtype: str) -> list[dict[str, float]]:
    coordinates = base((28, 60), dtype)
    noise = randn(DRAWS, 28, 60, seed=11)
    noise /= torch.linalg.vector_norm(noise, dim=(1, 2), keepdim=True)
    return [coordinates.metrics(0.005 * draw) for draw in noise]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gaussian_null_is_what_sampled_noise_shows(dtype: str) -> None:
    check_null(base((28, 60), dtype).gaussian_null(0.005), gaussian_samples(dtype))


def test_sign_flips_and_constants_are_what_sampled_signs_show() -> None:
    coordinates, delta = base((28, 60)), update((28, 60), 2e-4, factored=True)
    constant = 0.01 / math.sqrt(28 * 60)
    signs = randn(DRAWS, 28, 60, seed=12).sign()
    dense = delta.dense()
    check_null(coordinates.sign_flipped_null(delta), [coordinates.metrics(sign * dense) for sign in signs])
    check_null(coordinates.constant_null(0.01), [coordinates.metrics(sign * constant) for sign in signs])


def test_z_of_noise_is_standard_normal() -> None:
    coordinates = base((28, 60))
    rows = [coordinates.row(Dense(2e-4 * randn(28, 60, seed=seed))) for seed in range(300)]
    for column in ("z_unchanged_bf16", "z_overlap_principal", "z_overlap_low_magnitude", "z_overlap_principal_not_low"):
        z = torch.tensor([row[column] for row in rows], dtype=torch.float64)
        assert abs(float(z.mean())) < 4 / math.sqrt(len(z)), column
        assert float(z.std()) == pytest.approx(1, abs=0.2), column


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_visible_masks_of_independent_noise_meet_more_often_than_placed_ones(dtype: str) -> None:
    coordinates = base((28, 60), dtype)
    noise = randn(2, DRAWS, 28, 60, seed=13)
    noise /= torch.linalg.vector_norm(noise, dim=(2, 3), keepdim=True)
    pairs = [
        (coordinates.visible(Dense(0.005 * a)), coordinates.visible(Dense(0.01 * b)))
        for a, b in zip(*noise, strict=True)
    ]
    null = coordinates.jaccard_null(0.005, 0.01)
    agrees([masks.jaccard(a, b) for a, b in pairs], null)
    placed = masks.expected_jaccard(masks.density(pairs[0][0]), masks.density(pairs[0][1]), 28 * 60)
    assert null.mean > placed.mean + 3 * placed.sd
    assert math.isnan(coordinates.jaccard_null(0.005, 0.0).mean)


@pytest.mark.parametrize(
    ("relative", "unchanged", "low", "principal"),
    [(0.036e-2, 0.915, 0.746, 0.041), (0.073e-2, 0.831, 0.481, 0.043), (0.497e-2, 0.325, 0.144, 0.075)],
)
def test_what_noise_gives_beside_the_published_rows(
    relative: float, unchanged: float, low: float, principal: float
) -> None:
    coordinates = power_law_base()
    norm = relative * float(torch.linalg.vector_norm(coordinates.weight))
    noise = randn(512, 768, seed=21)
    row = coordinates.row(Dense(noise * norm / torch.linalg.vector_norm(noise)))
    assert row["unchanged_bf16"] == pytest.approx(unchanged, abs=0.01)
    assert row["overlap_low_magnitude"] == pytest.approx(low, abs=0.02)
    assert row["overlap_principal"] == pytest.approx(principal, abs=0.005)


@cache
def power_law_base() -> BaseCoordinates:
    """Return a 512 × 768 bfloat16 base with spectrum i^-0.3."""
    u, v = torch.linalg.qr(randn(512, 512, seed=22))[0], torch.linalg.qr(randn(768, 512, seed=23))[0]
    weight = stored((u * torch.arange(1, 513, dtype=torch.float64) ** -0.3) @ v.T, "bfloat16")
    return BaseCoordinates(weight, decompose(weight))


class Made(TorchDispatchMode):
    """Counts the numbers of wide types that operations make and that are as large as the base."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries, self.large = entries, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.element_size() == 8 and out.numel() >= self.entries:
            self.large += 1
        return out


def test_a_row_forms_no_second_matrix_of_the_base_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_BLOCK", 256)
    coordinates, delta = base((60, 28), "float32"), update((60, 28), 1e-3, factored=True)
    with Made(60 * 28) as made:
        masks.principal_mask(coordinates.weight, coordinates.basis)
    assert made.large > 0
    row = coordinates.row(delta)  # makes the masks
    with Made(60 * 28) as made:
        assert coordinates.row(delta) == pytest.approx(row, rel=1e-12)
        coordinates.visible(delta)
        coordinates.sign_flipped_null(delta)
        coordinates.jaccard_null(1e-3, 1e-3)
    assert made.large == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    delta = update((60, 28), 1e-3, factored=True)
    whole = base((60, 28)).row(delta)
    monkeypatch.setattr(masks, "_BLOCK", 100)
    assert base((60, 28)).row(delta) == pytest.approx(whole, rel=1e-12)
