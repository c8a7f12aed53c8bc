"""The command compares what finished, says what failed, and is its own launcher."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from spectra import cli
from spectra.errors import StudyError, UsageError
from spectra.training.studies.study import StudyResult
from tests.builders import own_run, small_base


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    base = small_base(tmp_path / "base")
    return [own_run(tmp_path / "runs" / name, base) for name in ("a", "b")]


def call(monkeypatch: pytest.MonkeyPatch, trained: StudyResult, *words: str) -> int:
    monkeypatch.setattr("spectra.commands.study.study", lambda path, **options: trained)
    monkeypatch.setattr(sys, "argv", ["spectra", "study", "s.yaml", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def failed(runs: list[Path], faults: Mapping[str, str]) -> StudyResult:
    return StudyResult(runs, faults, StudyError(f"{len(faults)} runs failed", hint="call again") if faults else None)


def test_what_finished_is_compared_though_others_failed(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: list[Path] = []

    def compare(given: list[Path], **options: Any) -> SimpleNamespace:
        compared.extend(given)
        return SimpleNamespace(
            runs=pd.DataFrame({"run": [run.name for run in given]}), report=options["out"] / "r.html"
        )

    monkeypatch.setattr("spectra.commands.compare.compare", compare)
    assert call(monkeypatch, failed(runs, {"c": "no column"}), "--json") == 1
    assert compared == runs
    out, err = capsys.readouterr()
    found: dict[str, Any] = json.loads(out)
    assert [row["run"] for row in found["runs"]] == ["a", "b"]
    assert (found["failed"], found["report"]) == ({"c": "no column"}, str(runs[0].parent / "r.html"))
    assert err == "spectra: 1 runs failed; call again\n"


@pytest.mark.usefixtures("one_picture")
def test_one_run_that_finished_is_analysed_and_none_is_no_report(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, failed(runs[:1], {"c": "no column"}), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["run"] == str(runs[0]) and "verdict" in found["runs"][0]
    assert call(monkeypatch, failed([], {"c": "no column"}), "--json") == 1
    assert json.loads(capsys.readouterr().out) == {"runs": [], "report": None, "failed": {"c": "no column"}}


def test_under_a_launcher_it_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spectra.commands import study

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="spectra study launches its runs itself, but a launcher started 2 processes"):
        study.study(Path("s.yaml"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(study, "_SPEAKING_SECONDS", 0.0)
    with pytest.raises(SystemExit) as stop:
        study.study(Path("s.yaml"))
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "")
