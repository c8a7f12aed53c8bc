"""Evaluations of a run: one JSON object per generation, under ``evals/<benchmark>/step_XXXXXX.jsonl``.

``spectra eval`` also writes a summary, ``step_XXXXXX.json``. While it runs, it collects generations in
``step_XXXXXX.partial.jsonl``: the first line holds the settings, every other line a generation.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.errors import CorruptFileError, RunExistsError
from spectra.runs.atomic import read_json, write_json, write_text
from spectra.runs.layout import RunLayout, parse_step

Row = Mapping[str, Any]


def evaluations(run: Path) -> dict[str, dict[int, Path]]:
    """Return the evaluation files by benchmark and step."""
    parent = RunLayout(run).evaluations
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(parent.glob("*/*.jsonl")):
        step = parse_step(file.stem)
        if step is not None:
            found.setdefault(file.parent.name, {})[step] = file
    return found


def problem_scores(file: Path) -> pd.Series:
    """Return the fraction of correct generations per problem, by problem id.

    Raises
    ------
    CorruptFileError
        If a line lacks ``problem`` or ``correct``.
    """
    scores = {problem: sum(marks) / len(marks) for problem, marks in problem_outcomes(file).items()}
    return pd.Series(scores, dtype="float64")


def problem_outcomes(file: Path) -> dict[str, list[bool]]:
    """Return the correctness of each generation, by problem id; raises like :func:`problem_scores`."""
    outcomes: dict[str, list[bool]] = {}
    # Not splitlines: a completion may contain other line-ending characters.
    for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            record = json.loads(line)
            outcomes.setdefault(str(record["problem"]), []).append(bool(record["correct"]))
        except (ValueError, TypeError, KeyError) as error:
            what = (
                "contains no generation" if not line and number == 1 else "is not a generation with problem and correct"
            )
            where = file if not line and number == 1 else f"{file}:{number}"
            raise CorruptFileError(what, where=where, hint="evaluate again") from error
    return outcomes


def summary_file(file: Path) -> Path:
    """Return the path of an evaluation's summary."""
    return file.with_suffix(".json")


def read_summary(file: Path) -> dict[str, Any] | None:
    """Return the summary of an evaluation; None if there is none, as for evaluations during training."""
    path = summary_file(file)
    return read_json(path) if path.exists() else None


@dataclass
class OpenEvaluation:
    """An evaluation in progress; a kill at any moment loses at most the current problem.

    Attributes
    ----------
    file
        Path of the finished evaluation.
    settings
        Everything that determines the generations. Partial results of other settings are not resumed.
    samples
        Generations per problem.
    done
        Rows of the finished problems, by problem.
    """

    file: Path
    settings: Mapping[str, Any]
    samples: int
    done: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """File of the rows until the evaluation is finished."""
        return self.file.with_name(f"{self.file.stem}.partial.jsonl")

    @property
    def lock(self) -> Path:
        """Lock file of the evaluating process."""
        return self.file.with_name(f".{self.file.stem}.lock")

    def finished(self) -> dict[str, Any] | None:
        """Return the summary if an evaluation with the same settings is finished.

        Raises
        ------
        RunExistsError
            If an evaluation with other settings exists.
        """
        if not self.file.exists():
            return None
        summary = read_summary(self.file)
        existing = None if summary is None else summary.get("settings")
        if existing == self.settings:
            return summary
        raise RunExistsError(
            f"contains an evaluation {_difference(existing, self.settings)}",
            where=self.file,
            hint="evaluate it again with --overwrite, or choose another --out",
        )

    def resume(self) -> None:
        """Load the problems finished with the same settings; drop torn lines and unfinished problems."""
        self.done = _complete(self.partial, self.settings, self.samples)
        lines = [{"settings": self.settings}, *(row for rows in self.done.values() for row in rows)]
        write_text(self.partial, "".join(map(_line, lines)))

    def add(self, rows: Sequence[Row]) -> None:
        """Append the rows of one problem and flush them to disk."""
        with self.partial.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))
            file.flush()
            os.fsync(file.fileno())
        self.done[str(rows[0]["problem"])] = list(rows)

    def finish(self, order: Sequence[str], summary: Mapping[str, Any]) -> None:
        """Write the rows in problem order, then the summary, and remove the partial file."""
        write_text(self.file, "".join(_line(row) for problem in order for row in self.done[problem]))
        write_json(summary_file(self.file), {"settings": self.settings, **summary})
        self.partial.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove an existing evaluation, finished or not."""
        for path in (summary_file(self.file), self.file, self.partial):
            path.unlink(missing_ok=True)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _complete(partial: Path, settings: Mapping[str, Any], samples: int) -> dict[str, list[Row]]:
    lines = partial.read_text(encoding="utf-8", errors="replace").split("\n") if partial.exists() else []
    rows: dict[str, list[Row]] = {}
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:  # a torn line, or the empty text after the last newline
            continue
        if number == 0:
            if row.get("settings") != settings:
                return {}
        else:
            rows.setdefault(str(row["problem"]), []).append(row)
    return {problem: found for problem, found in rows.items() if len(found) == samples}


def _difference(existing: Mapping[str, Any] | None, requested: Mapping[str, Any]) -> str:
    if existing is None:
        return "not made by `spectra eval`"
    key = next(key for key in {**requested, **existing} if existing.get(key) != requested.get(key))
    return f"with {key} = {existing.get(key)!r}, but {requested.get(key)!r} was requested"
