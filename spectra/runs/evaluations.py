"""Evaluations of a run: one JSON object a generation, under ``evals/<benchmark>/step_XXXXXX.jsonl``."""

import json
from pathlib import Path

import pandas as pd

from spectra.errors import CorruptFileError
from spectra.runs.layout import RunLayout, parse_step


def evaluations(run: Path) -> dict[str, dict[int, Path]]:
    """Return the files of each benchmark by step."""
    parent = RunLayout(run).evaluations
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(parent.glob("*/*.jsonl")):
        step = parse_step(file.stem)
        if step is not None:
            found.setdefault(file.parent.name, {})[step] = file
    return found


def problem_scores(file: Path) -> pd.Series:
    """Return the share of correct generations of each problem, by problem id.

    Raises
    ------
    CorruptFileError
        If a line lacks ``problem`` or ``correct``.
    """
    scores: dict[str, list[bool]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            scores.setdefault(str(record["problem"]), []).append(bool(record["correct"]))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptFileError(
                "is no generation with problem and correct", where=f"{file}:{number}", cure="evaluate again"
            ) from error
    if not scores:
        raise CorruptFileError("holds no generation", where=file, cure="evaluate again")
    return pd.Series({problem: sum(marks) / len(marks) for problem, marks in scores.items()}, dtype="float64")
