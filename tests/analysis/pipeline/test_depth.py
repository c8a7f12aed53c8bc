"""Which snapshots get the costly tables, what each of them holds, and that nothing is computed twice."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from spectra.analysis.analyze import Analysis, Options, analyze
from spectra.analysis.pipeline import depth
from spectra.runs.tables import Tables
from tests.builders import lora_config, own_run, small_base, small_factors, write_adapter, write_model

DEEP = ("drift", "coordinates", "nulls")
MATRICES = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Path:
    return own_run(tmp_path / "run", base, steps=(0, 2, 4))


def done(run: Path, **options: object) -> Analysis:
    return analyze(run, replace(Options(jobs=1, cache=run.parent / "cache"), **options))


@pytest.fixture(scope="module")
def first(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Analysis]:
    """Return a function that analyzes a run once per depth; a test that goes on from there takes a copy."""

    @cache
    def analyzed(depth: str) -> Analysis:
        with pytest.MonkeyPatch.context() as patch:
            draw_few(patch)
            return done(own_run(tmp_path_factory.mktemp(depth) / "run", base, steps=(0, 2, 4)), deep=depth)

    return analyzed


def copy_of(analysis: Analysis, where: Path) -> Path:
    """Copy an analyzed run and its cache of bases; return the run."""
    shutil.copytree(analysis.run.path.parent, where, dirs_exist_ok=True)
    return where / analysis.run.path.name


def draw_few(patch: pytest.MonkeyPatch) -> None:
    """Draw as few null updates where many are asked for as ``auto`` draws: fifteen seconds less per snapshot."""
    patch.setattr(depth, "BUDGET", 5e7)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few null updates, in tests that look at other tables."""
    draw_few(monkeypatch)


def steps(tables: Tables) -> dict[str, list[int]]:
    return {name: sorted(set(tables[name]["step"])) for name in DEEP}


@pytest.mark.parametrize(
    ("chosen", "motion", "nulls"),
    [("all", [0, 2, 4], [2, 4]), ("last", [4], [4]), ("none", [], []), ("auto", [0, 2, 4], [4])],
)
def test_the_chosen_snapshots(
    chosen: str, motion: list[int], nulls: list[int], first: Callable[[str], Analysis]
) -> None:
    tables = first(chosen).tables
    # ΔW of step 0 is zero: what chance would have put in its place is nothing.
    assert steps(tables) == {"drift": motion, "coordinates": motion, "nulls": nulls}
    assert sorted(set(tables.trajectory["step"])) == [0, 2, 4]
    assert len(tables.drift) == len(motion) * MATRICES
    assert len(tables.map) == len(tables.map.drop_duplicates(["step", "module", "bin_left", "bin_right"]))


def test_large_matrices_are_moved_at_the_last_snapshot_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "_AUTO_OPERATIONS", 1.0)
    assert steps(done(run).tables)["drift"] == [4]


@pytest.mark.parametrize("chosen", ["auto", "all", "none"])
def test_a_second_analysis_computes_nothing(chosen: str, first: Callable[[str], Analysis], tmp_path: Path) -> None:
    before = first(chosen)
    second = done(copy_of(before, tmp_path), deep=chosen)
    assert (second.rows_computed, second.changed) == (0, False)
    for name in before.tables:
        assert before.tables[name].equals(second.tables[name]), name


@pytest.mark.usefixtures("few_draws")
def test_deeper_adds_and_keeps_what_is_there(first: Callable[[str], Analysis], tmp_path: Path) -> None:
    shallow, run = first("none").tables, copy_of(first("none"), tmp_path)
    deeper = done(run, deep="last")
    assert deeper.rows_computed == MATRICES
    assert deeper.tables.modules.equals(shallow.modules)
    assert steps(deeper.tables) == {name: [4] for name in DEEP}
    # Asked for less, what is known stays.
    assert steps(done(run, deep="none").tables) == {name: [4] for name in DEEP}


@pytest.mark.usefixtures("few_draws")
def test_a_new_snapshot_compares_all_with_it_again(
    first: Callable[[str], Analysis], base: Path, tmp_path: Path
) -> None:
    before, run = first("last").tables.trajectory, copy_of(first("last"), tmp_path)
    write_adapter(run / "snapshots" / "step_000006", lora_config(str(base)), small_factors(scale=6e-3, seed=1))
    after = done(run, deep="last")
    assert after.rows_computed == MATRICES  # only the new step is measured
    trajectory = after.tables.trajectory
    assert sorted(set(trajectory["step"])) == [0, 2, 4, 6]
    same = before.merge(trajectory, on=["step", "module"], suffixes=("", "_new")).query("step == 4")
    assert np.allclose(same["cos_final"], 1)
    assert (same["cos_final_new"].abs() < 0.9).all()


def test_what_half_precision_storage_puts_into_an_update_is_said(tmp_path: Path, base: Path) -> None:
    stored = {dtype: tmp_path / str(dtype) / "checkpoint-3" for dtype in (torch.bfloat16, torch.float32)}
    from spectra.weights.storage.tensors import TensorStore

    weights = TensorStore.open_model(base)
    for dtype, directory in stored.items():
        write_model(directory, {name: weights[name].to(dtype) for name in weights})
    rounded, exact = (
        analyze(path, Options(base=str(base), jobs=1, cache=tmp_path / "cache", deep="none")).tables.modules
        for path in stored.values()
    )
    matrices = rounded.query("in_features.notna()")
    # The update is nothing but the rounding here, and the floor says how large that is.
    assert np.allclose(matrices["rounding_fro"], matrices["delta_fro"], rtol=0.1)
    assert (exact["rounding_fro"].fillna(0) == 0).all()


def test_a_run_that_trains_vectors_alone(tmp_path: Path, base: Path) -> None:
    from spectra.weights.storage.tensors import TensorStore

    weights = TensorStore.open_model(base)
    moved = {name: weights[name] + 0.1 for name in weights if weights[name].ndim == 1}
    tables = analyze(
        write_model(tmp_path / "checkpoint-3", moved), Options(base=str(base), jobs=1, cache=tmp_path / "cache")
    ).tables
    assert len(tables.modules) == len(moved)
    assert all(tables[name].empty for name in DEEP)


def test_equal_shapes_get_different_draws(first: Callable[[str], Analysis]) -> None:
    nulls = first("last").tables.nulls
    drawn = nulls[(nulls["metric"] == "stable_rank") & (nulls["null"] == "gaussian")]
    assert drawn["expected"].nunique() == len(drawn)


def test_few_draws_are_replaced_when_many_are_asked_for(first: Callable[[str], Analysis], tmp_path: Path) -> None:
    few, run = first("auto").tables.nulls, copy_of(first("auto"), tmp_path)
    many = done(run, deep="last").tables.nulls
    assert many["draws"].sum() > 2 * few["draws"].sum()
    # What came from many draws is kept when few would do.
    assert done(run, deep="auto").tables.nulls.equals(many)


@pytest.mark.parametrize("file", ["tables/summary.parquet", "verdict.json", "state.json"])
def test_a_damaged_file_is_made_again(file: str, first: Callable[[str], Analysis], tmp_path: Path) -> None:
    run = copy_of(first("auto"), tmp_path)
    where = done(run).where.root / file
    before = where.read_bytes()
    where.unlink() if file.endswith("parquet") else where.write_text('{"steps": {"4": "x"}, "complete": 3}')
    done(run)
    assert where.read_bytes() == before


@pytest.mark.usefixtures("few_draws")
def test_a_snapshot_that_is_not_finite_does_not_double_the_others(run: Path, base: Path) -> None:
    broken = small_factors(scale=1e-3)
    for b, _ in broken.values():
        b[0, 0] = float("nan")
    write_adapter(run / "snapshots" / "step_000003", lora_config(str(base)), broken)
    done(run, deep="none")
    again = done(run, deep="last").tables.trajectory
    assert not again.duplicated(["step", "module"]).any()
