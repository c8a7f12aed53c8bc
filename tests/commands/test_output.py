"""What people and programs see of a command."""

import json
import math

import pytest

from spectra.commands.output import Output


def test_a_long_job_in_a_log_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 31.0, 31.0, 40.0])
    monkeypatch.setattr("spectra.commands.output.time.monotonic", lambda: next(clock))
    with Output().progress() as progress:
        assert progress is not None
        for done in range(1, 4):
            progress(done, 9, "q_proj")
    assert capsys.readouterr().err == "2/9 modules: q_proj\n"


@pytest.mark.parametrize("output", [Output(quiet=True), Output(as_json=True), Output(quiet=True, as_json=True)])
def test_silence_is_for_people_alone(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    output.lines("a line")
    output.table([{"name": "lora"}], ["name"])
    with output.progress() as progress:
        assert progress is None
    output.json({"path": "run"})
    out, err = capsys.readouterr()
    assert err == ""
    assert (json.loads(out) if output.as_json else out) == ({"path": "run"} if output.as_json else "")


def test_people_see_lines_and_tables_and_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.lines("one", "two")
    output.json({"path": "run"})
    output.table([{"run_name": "[a]", "lift": 1.23456}, {"run_name": "b", "lift": None}], ["run_name", "lift"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [["one"], ["two"], ["run", "name", "lift"], ["[a]", "1.23"], ["b", "–"]]


def test_json_refuses_what_json_has_no_word_for() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Output(as_json=True).json(math.nan)
