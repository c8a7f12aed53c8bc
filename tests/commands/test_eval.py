"""``spectra eval``: its progress, and its options."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from spectra.commands.eval import EvalOptions, Evaluated
from tests.commands.conftest import Call


def test_a_long_evaluation_counts_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    def slow(run: Path, options: object, progress: Callable[[int, int, str], None]) -> Evaluated:
        monkeypatch.setattr("spectra.commands.output.time.monotonic", lambda: math.inf)
        progress(12, 30, "aime24")
        return Evaluated([])

    monkeypatch.setattr("spectra.commands.eval.evaluate", slow)
    assert call("eval", tmp_path)[::2] == (0, "12/30 problems: aime24\n")


def test_the_options_of_eval_are_the_fields_of_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    given: list[EvalOptions] = []

    def record(run: Path, options: EvalOptions, progress: object) -> Evaluated:
        given.append(options)
        return Evaluated([])

    monkeypatch.setattr("spectra.commands.eval.evaluate", record)
    assert call("eval", tmp_path)[0] == 0
    words = [
        "--benchmark",
        "aime24",
        "--benchmark",
        "math500",
        "--step",
        4,
        "--format",
        "think",
        "--prompt-column",
        "q",
    ]
    assert call("eval", tmp_path, *words, "--k", 8, "--overwrite", "--out", tmp_path / "out")[0] == 0
    plain, changed = given
    assert plain == EvalOptions(benchmarks=[], steps=[])
    assert changed == EvalOptions(
        benchmarks=["aime24", "math500"],
        steps=[4],
        style="think",
        prompt="q",
        k=8,
        overwrite=True,
        out=tmp_path / "out",
    )
