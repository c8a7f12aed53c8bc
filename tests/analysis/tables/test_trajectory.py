import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from spectra.analysis.tables.trajectory import trajectory_rows
from spectra.linalg.operators.basic import Dense, Difference, LowRank, Operator, RowScaled, Sum, Transposed
from spectra.runs.tables import TRAJECTORY
from tests import oracles_relations as oracle
from tests.builders import matrix, randn

SHAPES = {"square": (40, 40), "tall": (64, 24), "wide": (24, 64)}
STEPS = (0, 2, 7, 12, 20)


def lora(shape: tuple[int, int], step: int, rank: int = 4, drift: float = 0.02) -> LowRank:
    """B grows from zero with some noise; A moves a little from its random start."""
    rows, columns = shape
    b = step * randn(rows, rank, seed=1) + math.sqrt(step) * randn(rows, rank, seed=10 + step)
    return LowRank(b * 1e-5, randn(rank, columns, seed=2) + drift * step * randn(rank, columns, seed=3))


def dora(shape: tuple[int, int], step: int) -> Operator:
    weight = matrix(*shape, condition=1e4, seed=7)
    scales = 1 + 1e-3 * step * randn(shape[0], seed=8)
    return Sum(RowScaled(scales - 1, Dense(weight)), RowScaled(scales, lora(shape, step)))


def pissa(shape: tuple[int, int], step: int) -> Operator:
    b, a, d_b, d_a = pissa_parts(shape, step)
    return Difference(LowRank(b + d_b, a + d_a), LowRank(b, a))


def pissa_parts(shape: tuple[int, int], step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = 1e-3 * step
    moved = size * randn(shape[0], 3, seed=20 + step), size * randn(3, shape[1], seed=6)
    return randn(shape[0], 3, seed=4), randn(3, shape[1], seed=5), *moved


def exactly(make: str, shape: tuple[int, int], step: int) -> Tensor:
    """Return ΔW dense; that of PiSSA without the difference of two large products, whose noise has full rank."""
    if make != "pissa":
        return MAKE[make](shape, step).dense()
    b, a, d_b, d_a = pissa_parts(shape, step)
    return d_b @ a + b @ d_a + d_b @ d_a


def dense(shape: tuple[int, int], step: int) -> Operator:
    # Conditions from well to ill; the direction turns over the run.
    return Dense(
        step * matrix(*shape, condition=1e8, seed=1) + math.sqrt(step) * matrix(*shape, condition=3, seed=step)
    )


def few_directions(shape: tuple[int, int], step: int) -> Operator:
    return Dense(lora(shape, step).dense())


MAKE: dict[str, Callable[[tuple[int, int], int], Operator]] = {
    "lora": lora,
    "pissa": pissa,
    "dora": dora,
    "dense": dense,
    "low rank stored dense": few_directions,
    "embedding": lambda shape, step: Transposed(lora((shape[1], shape[0]), step)),
}


def rows_of(updates: Mapping[int, Operator]) -> list[dict[str, float]]:
    return trajectory_rows({step: (lambda update=update: update) for step, update in updates.items()})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", MAKE)
def test_every_column_is_that_of_the_dense_oracle(make: str, shape: str) -> None:
    updates = {step: MAKE[make](SHAPES[shape], step) for step in STEPS}
    exact = {step: exactly(make, SHAPES[shape], step).numpy() for step in STEPS}
    found = rows_of(updates)
    assert [row["step"] for row in found] == list(STEPS)
    for row in found:
        assert set(row) == set(TRAJECTORY) - {"module"}
        for column, value in oracle.trajectory_row(int(row["step"]), exact).items():
            assert row[column] == pytest.approx(value, rel=1e-8, abs=1e-11, nan_ok=True), (row["step"], column)


def test_factors_and_dense_arithmetic_agree() -> None:
    # Four snapshots of rank 4 fit into factors of 200 × 150; of 24 × 24 they do not.
    big = {step: lora((200, 150), step) for step in STEPS}
    for one, two in zip(rows_of(big), rows_of({s: Dense(u.dense()) for s, u in big.items()}), strict=True):
        for column in ("cos_final", "subspace_final_left", "subspace_final_right", "rank1_cos_final", "linearity"):
            assert one[column] == pytest.approx(two[column], rel=1e-10, nan_ok=True)


def test_lora_is_at_its_start_on_the_right_and_nowhere_on_the_left() -> None:
    updates = {step: lora((48, 96), step, drift=0.01) for step in STEPS}
    a0 = updates[0].a.numpy().T
    found = {row["step"]: row for row in rows_of(updates)}
    assert math.isnan(found[0]["right_at_start"])
    for step in STEPS[1:]:
        assert found[step]["right_at_start"] == pytest.approx(oracle.share_in(a0, updates[step].a.numpy().T), rel=1e-10)
        assert found[step]["expected_right_at_start"] == 4 / 96
        assert math.isnan(found[step]["left_at_start"])  # B started at zero: it has no start to stay at
    assert found[2]["right_at_start"] > 0.99 > found[20]["right_at_start"]


def test_without_step_0_the_first_snapshot_is_the_start_of_both_sides() -> None:
    updates = {step: lora((48, 96), step) for step in STEPS[1:]}
    found = {row["step"]: row for row in rows_of(updates)}
    assert math.isnan(found[2]["right_at_start"]) and math.isnan(found[2]["left_at_start"])
    assert found[20]["right_at_start"] == pytest.approx(
        oracle.share_in(updates[2].a.numpy().T, updates[20].a.numpy().T), rel=1e-10
    )
    assert found[20]["left_at_start"] == pytest.approx(
        oracle.share_in(updates[2].b.numpy(), updates[20].b.numpy()), rel=1e-10
    )


def test_the_start_of_an_embedding_and_of_a_moved_base() -> None:
    flipped = rows_of({step: Transposed(lora((48, 96), step)) for step in STEPS})
    straight = rows_of({step: lora((48, 96), step) for step in STEPS})
    assert [row["left_at_start"] for row in flipped[1:]] == pytest.approx([r["right_at_start"] for r in straight[1:]])
    moved = rows_of({step: pissa((48, 96), step) for step in STEPS})
    # ΔW = B δA + δB A₀: the row space has A₀ and δA, so half of it is the start's.
    assert moved[-1]["right_at_start"] == pytest.approx(0.5, abs=1e-3)


def test_full_rank_has_no_start_to_stay_at() -> None:
    for row in rows_of({step: dense((24, 24), step) for step in STEPS}):
        assert math.isnan(row["left_at_start"]) and math.isnan(row["expected_right_at_start"])


def test_a_straight_path_is_straight() -> None:
    direction = randn(30, 50, seed=1)
    for row in rows_of({step: Dense(1e-6 * step * direction) for step in (0, 5, 6, 30)})[2:]:
        assert row["linearity"] == pytest.approx(1, abs=1e-12)
        assert row["cos_final"] == pytest.approx(1, abs=1e-14)
        assert row["expected_linearity"] < 1


def test_a_random_walk_gives_what_is_expected_of_it() -> None:
    steps = [0, 1, 3, 4, 8, 10, 16]
    at = [torch.zeros(200, 200, dtype=torch.float64)]
    for number, (lo, hi) in enumerate(zip(steps[:-1], steps[1:], strict=True)):
        at.append(at[-1] + math.sqrt(hi - lo) * randn(200, 200, seed=number))
    found = rows_of({step: Dense(update) for step, update in zip(steps, at, strict=True)})
    for row in found[2:]:
        assert row["linearity"] == pytest.approx(row["expected_linearity"], abs=0.02)
        assert row["cos_final"] == pytest.approx(math.sqrt(row["step"] / 16), abs=0.02)


def test_an_update_that_stands_still_has_no_line() -> None:
    still = randn(20, 20, seed=1)
    found = rows_of({step: Dense(still) for step in (1, 2, 3)})
    assert all(math.isnan(row["linearity"]) for row in found)
    zero = rows_of({step: Dense(torch.zeros(20, 20)) for step in (1, 2, 3)})
    undefined = ("linearity", "cos_final", "subspace_final_left", "expected_subspace_left", "rank1_cos_final")
    assert all(math.isnan(row[column]) for row in zero for column in undefined)


def test_random_spaces_overlap_as_expected() -> None:
    found = [rows_of({1: Dense(randn(60, 40, seed=s)), 2: Dense(randn(60, 40, seed=500 + s))})[0] for s in range(100)]
    for side, dim in (("left", 60), ("right", 40)):
        values = np.array([row[f"subspace_final_{side}"] for row in found])
        assert found[0][f"expected_subspace_{side}"] == 16 / dim
        assert abs(values.mean() - 16 / dim) < 4 * values.std() / 10


@pytest.mark.parametrize("broken", [2, 20])
@pytest.mark.parametrize("make", ["lora", "dense"])
def test_snapshots_that_are_not_finite_are_left_out(make: str, broken: int) -> None:
    def spoilt(step: int) -> Operator:
        return Dense(torch.full((200, 150), math.nan)) if step == broken else MAKE[make]((200, 150), step)

    kept = [step for step in STEPS if step != broken]
    found = trajectory_rows({step: (lambda step=step: spoilt(step)) for step in STEPS})
    assert [row["step"] for row in found] == kept
    expected = oracle.trajectory_row(kept[-2], {step: spoilt(step).dense().numpy() for step in kept})
    assert found[-2]["cos_final"] == pytest.approx(expected["cos_final"], rel=1e-10)
    assert found[-1]["cos_final"] == pytest.approx(1)
    assert trajectory_rows({1: lambda: Dense(torch.full((3, 3), math.inf))}) == []


def test_a_factored_update_that_is_not_finite_is_left_out() -> None:
    spoilt = LowRank(torch.full((200, 4), math.nan), randn(4, 150))
    found = rows_of({1: lora((200, 150), 1), 2: spoilt, 3: lora((200, 150), 3)})
    assert [row["step"] for row in found] == [1, 3]


def test_at_most_two_dense_updates_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = 0
    most = 0

    class Counted(Dense):
        def __init__(self, matrix: Tensor) -> None:
            nonlocal alive, most
            super().__init__(matrix)
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    trajectory_rows({step: (lambda step=step: Counted(randn(30, 30, seed=step))) for step in range(8)})
    assert most <= 2
