"""Atomic writes, series, manifest, tables: what a crash or a stray byte may do to them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from spectra.errors import CorruptFileError, RunNotFoundError
from spectra.runs.atomic import atomic_directory, atomic_path, read_json, sweep, write_json
from spectra.runs.evaluations import evaluations, problem_scores
from spectra.runs.layout import AnalysisLayout, RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, describe_environment, now
from spectra.runs.series import append_metrics, read_metrics, read_trainer_state, truncate_metrics
from spectra.runs.tables import SCHEMAS, Tables, conform, empty, read_table, write_table


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(target) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "step_000001"
    for content in ("one", "two"):
        with atomic_directory(target) as temporary:
            (temporary / "file").write_text(content)
    with pytest.raises(ZeroDivisionError), atomic_directory(target) as temporary:
        (temporary / "file").write_text("half")
        raise ZeroDivisionError
    assert (target / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]


def test_what_killed_writers_left_is_swept_away(tmp_path: Path) -> None:
    directory, file = (
        atomic_directory(tmp_path / "runs" / "step_000001"),
        atomic_path(tmp_path / "runs" / "table.parquet"),
    )
    (directory.__enter__() / "half").write_text("x")
    file.__enter__().write_text("x")
    (tmp_path / "runs" / "step_000000").mkdir()
    (tmp_path / "runs" / ".lock").write_text("")
    assert len(list((tmp_path / "runs").iterdir())) == 4
    sweep(tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".lock", "step_000000"]
    sweep(tmp_path / "nothing")


def test_json_refuses_nan_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"b\.json: cannot be read as JSON"):
        read_json(tmp_path / "b.json")


def test_metrics_round_trip_in_floats_with_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"step": 1, "reward": 0.25, "loss": float("nan")})
    append_metrics(path, {"step": 2, "reward": 0.5, "frac_reward_zero_std": 1.0})
    append_metrics(path, {"step": 2, "eval_accuracy": 0.75})
    with path.open("a") as file:
        file.write('{"step": 3, "rew')
    frame = read_metrics(path)
    assert frame["step"].tolist() == [1, 2]
    assert frame["reward"].tolist() == [0.25, 0.5]
    assert frame["zero_advantage_share"].tolist()[1] == 1.0
    assert frame["eval_accuracy"].tolist()[1] == 0.75
    assert pd.isna(frame["loss"].iloc[0])
    assert frame["reward"].dtype == "float64"


def test_a_corrupt_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(CorruptFileError, match=r"metrics\.jsonl:2: is not a JSON object with a step"):
        read_metrics(path)


def test_truncating_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        append_metrics(path, {"step": step, "loss": float("inf") if step == 1 else 0.0})
    with path.open("a") as file:
        file.write('{"st')
    truncate_metrics(path, 2)
    append_metrics(path, {"step": 3})
    frame = read_metrics(path)
    assert frame["step"].tolist() == [1, 2, 3]
    assert frame["loss"].iloc[0] == float("inf")
    truncate_metrics(tmp_path / "absent.jsonl", 2)
    assert len(read_metrics(tmp_path / "absent.jsonl")) == 0


def test_trainer_state(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    log = [{"step": 1, "reward": 0.1, "completions/mean_length": 5}, {"step": 1, "train_loss": 3}, {"epoch": 2}]
    path.write_text(json.dumps({"global_step": 1, "log_history": log}))
    frame = read_trainer_state(path)
    assert frame.to_dict("records") == [{"step": 1, "reward": 0.1, "completion_length": 5.0, "train_loss": 3.0}]


def test_manifest_round_trip_and_versions(tmp_path: Path) -> None:
    versions, _, hardware = describe_environment()
    assert {"python", "torch"} <= set(versions)
    base = BaseIdentity("embedded", None, {"w": "ab"})
    manifest = Manifest(now(), versions, None, base, "lora", "dapo", 0, hardware, {"w": [2, 3]})
    manifest.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    write_json(tmp_path / "manifest.json", {**read_json(tmp_path / "manifest.json"), "schema_version": 99})
    with pytest.raises(CorruptFileError, match="schema version 99"):
        Manifest.read(tmp_path / "manifest.json")


def test_tables_are_read_strictly(tmp_path: Path) -> None:
    where = AnalysisLayout(tmp_path)
    with pytest.raises(RunNotFoundError, match="run `spectra analyze`"):
        Tables.read(where)
    Tables(**{name: empty(name) for name in SCHEMAS}).write(where)
    assert list(Tables.read(where)) == list(SCHEMAS)
    write_table(empty("modules").drop(columns="delta_fro"), where.table("modules"))
    with pytest.raises(CorruptFileError, match="lacks column 'delta_fro'"):
        Tables.read(where)
    where.table("modules").write_bytes(b"PAR1 nonsense")
    with pytest.raises(CorruptFileError, match=r"modules\.parquet: cannot be read"):
        read_table("modules", where.table("modules"))


def test_tables_keep_their_types(tmp_path: Path) -> None:
    row = dict.fromkeys(SCHEMAS["modules"], 1) | {"module": "m", "kind": "k", "method": "lora", "layer": None}
    frame = conform("modules", pd.DataFrame([row]))
    write_table(frame, tmp_path / "modules.parquet")
    back = read_table("modules", tmp_path / "modules.parquet")
    assert back["layer"].isna().all()
    assert str(back["layer"].dtype) == "Int64"
    assert back["delta_fro"].dtype == "float64"


def test_evaluations(tmp_path: Path) -> None:
    file = RunLayout(tmp_path).evaluation("carry", 20)
    file.parent.mkdir(parents=True)
    rows = [
        {"problem": "a", "correct": True},
        {"problem": "a", "correct": False},
        {"problem": 7, "correct": True},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluations(tmp_path) == {"carry": {20: file}}
    assert problem_scores(file).to_dict() == {"a": 0.5, "7": 1.0}
    file.write_text('{"problem": "a"}\n')
    with pytest.raises(CorruptFileError, match=r"step_000020\.jsonl:1"):
        problem_scores(file)
