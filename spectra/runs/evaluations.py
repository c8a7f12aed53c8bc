"""Evaluations of a run: one JSON object a generation, under ``evals/<benchmark>/step_XXXXXX.jsonl``.

``spectra eval`` writes a summary beside it, ``step_XXXXXX.json``, and collects generations in
``step_XXXXXX.partial.jsonl`` while it is at work: its first line holds the settings, every other one a generation.
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
    scores = {problem: sum(marks) / len(marks) for problem, marks in problem_outcomes(file).items()}
    return pd.Series(scores, dtype="float64")


def problem_outcomes(file: Path) -> dict[str, list[bool]]:
    """Return whether each generation of each problem is correct; raises as :func:`problem_scores`."""
    outcomes: dict[str, list[bool]] = {}
    # Not splitlines: a completion may hold other characters that end a line.
    for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            record = json.loads(line)
            outcomes.setdefault(str(record["problem"]), []).append(bool(record["correct"]))
        except (ValueError, TypeError, KeyError) as error:
            what = "holds no generation" if not line and number == 1 else "is no generation with problem and correct"
            where = file if not line and number == 1 else f"{file}:{number}"
            raise CorruptFileError(what, where=where, hint="evaluate again") from error
    return outcomes


def summary_file(file: Path) -> Path:
    """Return where the summary of an evaluation is."""
    return file.with_suffix(".json")


def read_summary(file: Path) -> dict[str, Any] | None:
    """Return the summary of an evaluation; None where there is none, as for those made while training."""
    path = summary_file(file)
    return read_json(path) if path.exists() else None


@dataclass
class OpenEvaluation:
    """An evaluation that is being made, safe against being killed at any moment.

    Attributes
    ----------
    file
        Where the finished one goes.
    settings
        What decides the generations. Work that was done under others is not gone on with.
    samples
        Generations that a problem has when it is done.
    done
        Rows of the problems that are done, by problem.
    """

    file: Path
    settings: Mapping[str, Any]
    samples: int
    done: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """Where the rows are until it is finished."""
        return self.file.with_name(f"{self.file.stem}.partial.jsonl")

    @property
    def lock(self) -> Path:
        """Held by the process that evaluates."""
        return self.file.with_name(f".{self.file.stem}.lock")

    def finished(self) -> dict[str, Any] | None:
        """Return the summary where these very settings are finished.

        Raises
        ------
        RunExistsError
            If an evaluation of other settings is there.
        """
        if not self.file.exists():
            return None
        summary = read_summary(self.file)
        there = None if summary is None else summary.get("settings")
        if there == self.settings:
            return summary
        raise RunExistsError(
            f"holds an evaluation {_difference(there, self.settings)}",
            where=self.file,
            hint="evaluate it again with --overwrite, or choose another --out",
        )

    def resume(self) -> None:
        """Take up what is done under the same settings, and drop everything else: torn lines and problems half done."""
        self.done = _complete(self.partial, self.settings, self.samples)
        lines = [{"settings": self.settings}, *(row for rows in self.done.values() for row in rows)]
        write_text(self.partial, "".join(map(_line, lines)))

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of one problem, flushed to disk before this returns."""
        with self.partial.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))
            file.flush()
            os.fsync(file.fileno())
        self.done[str(rows[0]["problem"])] = list(rows)

    def finish(self, order: Sequence[str], summary: Mapping[str, Any]) -> None:
        """Write the rows in the order of the problems, then the summary, and remove what was partial."""
        write_text(self.file, "".join(_line(row) for problem in order for row in self.done[problem]))
        write_json(summary_file(self.file), {"settings": self.settings, **summary})
        self.partial.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove an evaluation that is there, finished or not."""
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
        except ValueError:  # torn, or the empty text after the last line's end
            continue
        if number == 0:
            if row.get("settings") != settings:
                return {}
        else:
            rows.setdefault(str(row["problem"]), []).append(row)
    return {problem: found for problem, found in rows.items() if len(found) == samples}


def _difference(there: Mapping[str, Any] | None, here: Mapping[str, Any]) -> str:
    if there is None:
        return "that `spectra eval` did not make"
    key = next(key for key in {**here, **there} if there.get(key) != here.get(key))
    return f"with {key} = {there.get(key)!r}, and {here.get(key)!r} is asked for"
