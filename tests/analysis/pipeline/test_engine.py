"""Engines: how many processes, and that Ray gives the same tables where it is installed."""

import importlib.util
import os
from pathlib import Path

import pandas as pd
import pytest

from spectra.analysis.analyze import Options, analyze
from spectra.analysis.pipeline.engine import choose_jobs, run_tasks
from spectra.analysis.pipeline.tasks import ModuleTask, TaskRunner
from spectra.analysis.tables.matrix import Work
from spectra.errors import BaseModelError, MissingDependencyError, UsageError
from spectra.runs.tables import SCHEMAS
from spectra.weights.opened_run import OpenedRun
from tests.builders import own_run, small_base
from tests.requirements import needs

HAS_RAY = importlib.util.find_spec("ray") is not None


def task(size: int) -> ModuleTask:
    return ModuleTask("m", (1,), Work(frozenset({1})), None, size)


def test_small_work_stays_in_this_process_and_large_work_takes_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert choose_jobs([task(128 * 128)] * 28, None) == 1
    assert choose_jobs([task(3584 * 18944)] * 28, None) == 8
    assert choose_jobs([task(3584 * 18944)] * 3, None) == 3
    assert choose_jobs([], None) == 1
    assert choose_jobs([task(9)] * 3, 2) == 2
    with pytest.raises(UsageError, match="--jobs must be at least 1, got 0"):
        choose_jobs([task(9)], 0)


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_cure_is_said(tmp_path: Path) -> None:
    opened = OpenedRun.open(own_run(tmp_path / "run", small_base(tmp_path / "base")))
    with pytest.raises(MissingDependencyError, match=r"pip install 'spectra-rlvr\[ray\]'"):
        list(run_tasks(TaskRunner(opened, "lora", None, "cpu"), [task(9)], jobs=1, engine="ray"))


@needs("ray")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_gives_the_same_tables_and_the_same_errors(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    cache = tmp_path / "cache"
    local = analyze(run, Options(out=tmp_path / "local", cache=cache)).tables
    ray = analyze(run, Options(out=tmp_path / "ray", cache=cache, jobs=2, engine="ray")).tables
    for name in SCHEMAS:
        pd.testing.assert_frame_equal(local[name], ray[name])
    other = str(small_base(tmp_path / "other", seed=9))
    with pytest.raises(BaseModelError, match="is not the tensor"):
        analyze(run, Options(out=tmp_path / "bad", cache=cache, base=other, jobs=2, engine="ray"))
