"""A run in somebody's output directory: what is taken for one, what is refused, and what is never touched."""

import dataclasses
import json
import resource
from pathlib import Path

import pytest

from spectra.errors import RunExistsError
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest
from spectra.runs.series import append_metrics, read_records
from spectra.training.monitor.output_dir import append_atomically, create_run, resume_run

MANIFEST = Manifest("now", {}, None, BaseIdentity("base", None, {"w": "1"}), "lora", "grpo", 0, {}, {"a": [2, 2]})


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    """A run of steps 0, 2 and 4, analysed, in a directory with files of the trainer and of the user."""
    layout = RunLayout(tmp_path / "out")
    create_run(layout, MANIFEST)
    for step in (0, 2, 4):
        layout.snapshot(step).mkdir(parents=True)
        append_metrics(layout.metrics, {"step": step, "loss": 1.0})
    layout.analysis.tables.mkdir(parents=True)
    layout.evaluation("aime24", 4).parent.mkdir(parents=True)
    (layout.root / "checkpoint-4").mkdir()
    (layout.snapshots / "notes.txt").write_text("mine")
    return layout


def files(layout: RunLayout) -> set[str]:
    return {str(path.relative_to(layout.root)) for path in layout.root.rglob("*")}


def test_overwriting_removes_the_run_and_nothing_else(run: RunLayout) -> None:
    before = files(run)
    with pytest.raises(RunExistsError, match="already holds a run, with 3 snapshots"):
        create_run(run, MANIFEST)
    assert files(run) == before
    create_run(run, dataclasses.replace(MANIFEST, created="later"), overwrite=True)
    assert files(run) == {"manifest.json", "checkpoint-4", "snapshots", "snapshots/notes.txt"}
    assert Manifest.read(run.manifest).created == "later"


def test_going_on_takes_the_run_back(run: RunLayout) -> None:
    half_written = run.snapshots / ".step_000004.1234.tmp"
    half_written.mkdir()
    resume_run(run, dataclasses.replace(MANIFEST, created="later"), 3)
    assert not run.snapshot(4).exists() and run.snapshot(2).exists() and not half_written.exists()
    assert [record["step"] for record in read_records(run.metrics)] == [0, 2]
    assert Manifest.read(run.manifest).created == "now"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "full"}, "method"),
        ({"base": BaseIdentity("base", None, {"w": "2"})}, "base"),
        ({"trainable": {"a": [2, 3]}}, "set of trainable weights"),
    ],
)
def test_going_on_with_another_run_is_refused(change: dict[str, object], named: str, run: RunLayout) -> None:
    before = files(run)
    with pytest.raises(RunExistsError, match=f"holds a run with a different {named}"):
        resume_run(run, dataclasses.replace(MANIFEST, **change), 3)  # type: ignore[arg-type]
    assert files(run) == before


@pytest.mark.parametrize("name", ["recipe.yaml", "manifest.json", "metrics.jsonl", "snapshots/step_000001"])
def test_files_of_others_are_never_touched(name: str, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"step": 1}))
    for overwrite in (False, True):
        with pytest.raises(RunExistsError, match="choose another directory"):
            create_run(layout, MANIFEST, overwrite=overwrite)
    with pytest.raises(RunExistsError, match="choose another directory"):
        resume_run(layout, MANIFEST, 3)
    assert path.read_text() == json.dumps({"step": 1})


def test_a_record_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_atomically(path, {"step": 1, "loss": 1.0})
    before, limits = path.read_text(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 8, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append_atomically(path, {"step": 2, "loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before
    append_atomically(path, {"step": 3, "loss": 1.0})
    assert [record["step"] for record in read_records(path)] == [1, 3]
