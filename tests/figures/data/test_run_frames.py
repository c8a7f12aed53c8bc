"""What is prepared of one run is prepared once, and is what plain tables give."""

from collections.abc import Callable

import pandas as pd
import pytest

from spectra.figures.data import profiles, snapshots, summaries
from spectra.figures.data.run_frames import RunFrames, once_per_run
from spectra.figures.report.gallery import run_figures
from spectra.runs.tables import SCHEMAS, Tables
from tests.figures.synthetic_tables import verdict

PREPARED: dict[str, Callable[[Tables], object]] = {
    "by_step": lambda tables: summaries.by_step(tables, "relative_fro"),
    "lifts": lambda tables: summaries.lifts(tables, ["kind"], step=64),
    "grid": lambda tables: summaries.grid(tables, "minor_lift", step=32, side="right"),
    "kinds": lambda tables: summaries.kinds(tables, step=64),
    "curve": lambda tables: summaries.curve(tables, "reward"),
    "cells": lambda tables: snapshots.cells(tables, "drift", "nss", 64),
    "drift": snapshots.drift_rows,
    "masks": lambda tables: snapshots.mask_rows(tables, 64),
    "nulls": lambda tables: snapshots.null_rows(tables, 64),
    "profile": lambda tables: profiles.profile_curve(tables, "left"),
    "cumulative": lambda tables: profiles.cumulative_curve(tables, "right", 32),
}


def test_they_are_the_tables(whole: Tables) -> None:
    frames = RunFrames.of(whole)
    assert RunFrames.of(frames) is frames
    assert all(frames[name] is whole[name] for name in SCHEMAS)
    pd.testing.assert_frame_equal(frames.resolved_modules(), whole.resolved_modules())
    assert frames.resolved_modules() is frames.resolved_modules()


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_frames_are_those_of_plain_tables_and_stay_so(name: str, whole: Tables) -> None:
    frames = RunFrames(whole)
    for _ in range(2):
        found, expected = PREPARED[name](frames), PREPARED[name](whole)
        assert isinstance(found, pd.DataFrame) and isinstance(expected, pd.DataFrame)
        pd.testing.assert_frame_equal(found, expected)


def test_each_combination_of_arguments_is_prepared_once(whole: Tables, lora: Tables) -> None:
    asked: list[tuple[str, int]] = []

    @once_per_run
    def prepare(tables: Tables, name: str, *, step: int = 0) -> str:
        asked.append((name, step))
        return f"{len(tables.modules)} {name} {step}"

    one, other = RunFrames(whole), RunFrames(lora)
    assert prepare(one, "a") == prepare(one, "a")
    assert prepare(one, "a", step=1) != prepare(one, "b", step=1)
    prepare(other, "a")
    assert asked == [("a", 0), ("a", 1), ("b", 1), ("a", 0)]
    prepare(lora, "a")
    prepare(lora, "a")
    assert len(asked) == 6


def test_a_whole_report_resolves_the_modules_once(whole: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tables] = []
    resolve = Tables.resolved_modules

    def count(tables: Tables) -> pd.DataFrame:
        calls.append(tables)
        return resolve(tables)

    monkeypatch.setattr(Tables, "resolved_modules", count)
    for figure in run_figures(whole, verdict()):
        figure.draw()
    assert len(calls) == 1
