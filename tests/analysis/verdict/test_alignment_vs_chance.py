from typing import Any

import pytest

from spectra.analysis.verdict.alignment_vs_chance import initial_overlap, locate
from spectra.runs.tables import Tables
from tests.analysis.partial_tables import matrix_row, tables


def run(*, share: float = 0.1, steps: tuple[int, ...] = (0, 2, 4), **at_start: tuple[float, ...]) -> Tables:
    """Two matrices whose trajectory has the given values at the steps after the first."""
    modules = [matrix_row(step, layer) for step in steps for layer in (0, 1)]
    projection: list[dict[str, Any]] = [
        {"step": step, "module": f"model.layers.{layer}.m0", "side": side, "subspace": "principal", "fraction": 0.1,
         "k": 6, "share": share, "expected": 6 / 64, "lift": share * 64 / 6}
        for step in steps for layer in (0, 1) for side in ("left", "right")
    ]  # fmt: skip
    trajectory = [
        {"step": step, "module": f"model.layers.{layer}.m0"}
        | ({name: values[number - 1] for name, values in at_start.items()} if number else {})
        | {"expected_left_at_start": 4 / 64, "expected_right_at_start": 4 / 64}
        for number, step in enumerate(steps)
        for layer in (0, 1)
    ]
    return tables(modules=modules, projection=projection, trajectory=trajectory)


def test_a_side_at_its_start_is_not_read_as_learning() -> None:
    made = run(right_at_start=(0.99996, 0.99984))
    right = locate(made, 4, "right")
    assert right is not None and right.at_initialization
    assert right.describe().endswith(
        "(z +0.4); this side has not left its initial subspace (overlap 0.9998 with step 0): not evidence of learning"
    )
    left = locate(made, 4, "left")
    assert left is not None and left.initial is None and "initial" not in left.describe()


def test_a_side_that_moved_is_read() -> None:
    moved = locate(run(right_at_start=(0.9999, 0.97)), 4, "right")
    assert moved is not None and not moved.at_initialization
    assert moved.initial is not None and moved.initial.share == 0.97
    assert "initial" not in moved.describe()


def test_without_step_0_no_start_is_claimed() -> None:
    found = locate(run(steps=(2, 4, 6), right_at_start=(0.9999, 0.9998)), 6, "right")
    assert found is not None
    assert "has not left the subspace of the first snapshot (overlap 0.9998 with step 2)" in found.describe()
    assert "its initial subspace" not in found.describe()


def test_a_choice_within_the_start_is_told_from_a_turn() -> None:
    found = locate(run(share=0.3, right_at_start=(0.9999, 0.9998)), 4, "right")
    assert found is not None and "more than chance" in found.describe()
    assert found.describe().endswith("selection within the initial subspace, not rotation")


def test_a_start_that_is_nearly_everything_says_nothing() -> None:
    made = run(right_at_start=(1.0, 1.0))
    made.trajectory["expected_right_at_start"] = 0.75
    found = locate(made, 4, "right")
    assert found is not None and not found.at_initialization


def test_no_trajectory_no_start() -> None:
    made = run()
    assert initial_overlap(made, 4, "right") is None
    assert initial_overlap(made, 4, "joint") is None
    assert locate(made, 9, "right") is None
    assert locate(made, 4, "right", "minor") is None


@pytest.mark.parametrize(
    ("share", "words"), [(0.094, "indistinguishable"), (0.9, "more than chance"), (1e-4, "less than chance")]
)
def test_words_against_chance(share: float, words: str) -> None:
    found = locate(run(share=share), 4, "left")
    assert found is not None and words in found.describe()
    assert found.lift == pytest.approx(share * 64 / 6)


def test_the_start_is_named_by_the_snapshot_whose_factors_it_is() -> None:
    """In a warm-up nothing moves for a while: LoRA's A is that of step 0 all along."""
    made = run(steps=(0, 2, 4, 6))
    known = made.trajectory["step"] >= 4
    made.trajectory["right_at_start"] = made.trajectory["step"].where(known) * 0 + 0.9999
    made.modules.loc[made.modules["step"] <= 2, "delta_fro"] = 0.0
    found = initial_overlap(made, 6, "right")
    assert found is not None and found.step == 0
    made.modules.loc[made.modules["step"] == 2, "delta_fro"] = 1.0
    found = initial_overlap(made, 6, "right")
    assert found is not None and found.step == 2
