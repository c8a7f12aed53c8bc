"""``spectra analyze``: what it prints, writes and reuses."""

import json
from pathlib import Path

import pytest

from spectra.runs.layout import RunLayout
from tests.builders import own_run, trainer_run
from tests.commands.conftest import Call


def test_analyze_prints_coverage_verdict_and_report_and_then_reuse(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    code, out, err = call("analyze", run)
    assert (code, err) == (0, "")
    assert "6/6 matrices, 0 skipped" in out
    assert "0 of 18 module snapshots reused, 18 computed; bases: 0 reused, 6 decomposed" in out
    assert "Healthy" in out
    analysis = RunLayout(run).analysis
    assert analysis.report_html.exists() and analysis.report_markdown.exists()
    assert {p.suffix for p in analysis.figures.iterdir()} == {".pdf", ".svg"}
    stamp = analysis.report_html.stat().st_mtime_ns
    code, out, _ = call("analyze", run)
    assert "18 of 18 module snapshots reused, 0 computed; bases: 0 reused, 0 decomposed" in out
    assert analysis.report_html.stat().st_mtime_ns == stamp


def test_the_verdict_is_printed_before_anything_is_drawn(
    tmp_path: Path, base: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []
    monkeypatch.setattr("spectra.figures.write_report", lambda *_, **__: printed.append(capsys.readouterr().out) or [])
    run = own_run(tmp_path / "run", base)
    assert call("analyze", run)[0] == 0
    assert len(printed) == 1 and "Healthy" in printed[0] and "18 computed" in printed[0]
    assert RunLayout(run).analysis.verdict.exists()


def test_how_much_is_drawn(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    analysis = RunLayout(run).analysis
    code, out, _ = call("analyze", run, "--figures", "none")
    assert code == 0 and "Healthy" in out and "report:" not in out
    assert not analysis.report_html.exists() and not analysis.figures.exists()
    assert json.loads(call("analyze", run, "--figures", "none", "--json")[1])["report"] is None
    assert f"report: {analysis.report_html}" in call("analyze", run, "--figures", "report")[1]
    assert {p.suffix for p in analysis.figures.iterdir()} == {".svg"}
    figure = analysis.figures / "trajectory.svg"
    figure.unlink()
    call("analyze", run, "--figures", "report")
    assert figure.exists()


def test_json_out_and_quiet(tmp_path: Path, base: Path, call: Call) -> None:
    run = trainer_run(tmp_path / "trl", base)
    code, out, _ = call("analyze", run, "--json", "--deep", "none", "--out", tmp_path / "there")
    found = json.loads(out)
    assert (code, found["coverage"]["analysed"]) == (0, 6)
    assert (tmp_path / "there" / "tables" / "modules.parquet").exists()
    assert not (run / "spectra").exists()
    assert call("analyze", run, "--quiet", "--deep", "none") == (0, "", "")


def test_one_bad_run_does_not_stop_the_others(tmp_path: Path, base: Path, call: Call) -> None:
    one, two = own_run(tmp_path / "a" / "run", base), own_run(tmp_path / "b" / "run", base)
    code, out, err = call(
        "analyze", tmp_path / "absent", one, two, "--out", tmp_path / "out", "--json", "--deep", "none"
    )
    assert code == 1 and "absent: no such directory" in err
    assert [row["run"] for row in json.loads(out)] == [str(one), str(two)]
    # Runs of the same name do not overwrite each other.
    assert {p.parent.name for p in (tmp_path / "out").rglob("verdict.json")} == {"run"}
    assert len(list((tmp_path / "out").rglob("verdict.json"))) == 2
