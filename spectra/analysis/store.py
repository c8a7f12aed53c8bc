"""Finished rows on disk: what was computed from which content, so that nothing is computed twice.

``state.json`` names, for each step, the key of the content that its rows were computed from. While an analysis runs,
results are flushed to ``parts/``; a killed analysis finds them there. A part and the final tables have the same form.
"""

import shutil
import uuid
from collections.abc import Mapping, Sequence

import pandas as pd

from spectra.analysis.measure import Row
from spectra.errors import CorruptFileError
from spectra.runs.atomic import atomic_directory, read_json, write_json
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import conform, empty, read_table, write_table

NAMES = ("modules", "projection", "profile", "spectrum")

Frames = dict[str, pd.DataFrame]


class RowStore:
    """Rows of the four measured tables under one analysis directory.

    Parameters
    ----------
    where
        The analysis directory.
    keys
        For each step that is wanted, the key of its content now. Rows under another key are dropped.

    Attributes
    ----------
    dropped
        Module snapshots on disk that are of no use any more.
    """

    def __init__(self, where: AnalysisLayout, keys: Mapping[int, str]) -> None:
        self.where = where
        self.keys = dict(keys)
        self.frames: Frames = {name: empty(name) for name in NAMES}
        self._new: dict[str, list[Row]] = {name: [] for name in NAMES}
        self.dropped = 0
        for directory in [where, *self._parts()]:
            self._take(directory)

    def done(self) -> set[tuple[int, str]]:
        """Return the (step, module) pairs that have their rows."""
        modules = self.frames["modules"]
        return set(zip(modules["step"].tolist(), modules["module"].tolist(), strict=True))

    @property
    def has_parts(self) -> bool:
        """Whether rows wait in parts to be made into the final tables."""
        return bool(self._parts())

    def add(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Take the rows of one finished task."""
        for name in NAMES:
            self._new[name] += rows[name]

    def flush(self) -> None:
        """Write what was added since the last flush as a part."""
        if self._new["modules"]:
            added = self._drain()
            with atomic_directory(self.where.parts / uuid.uuid4().hex[:12]) as temporary:
                _write(AnalysisLayout(temporary), added, self.keys)
            self._merge(added)

    def finish(self) -> Frames:
        """Write the final tables in one order, and drop the parts. Return them."""
        self._merge(self._drain())
        self.frames = {name: _ordered(frame) for name, frame in self.frames.items()}
        # Without a state nobody trusts the tables: a crash in between leaves the parts to start from.
        self.where.state.unlink(missing_ok=True)
        _write(self.where, self.frames, self.keys)
        shutil.rmtree(self.where.parts, ignore_errors=True)
        return self.frames

    def _parts(self) -> list[AnalysisLayout]:
        found = sorted(self.where.parts.iterdir()) if self.where.parts.is_dir() else []
        return [AnalysisLayout(path) for path in found if not path.name.startswith(".")]

    def _take(self, directory: AnalysisLayout) -> None:
        """Take the rows of a finished directory whose keys are still those of the content."""
        try:
            state = {int(step): key for step, key in read_json(directory.state)["steps"].items()}
            frames = {name: read_table(name, directory.table(name)) for name in NAMES}
        except (CorruptFileError, KeyError, AttributeError, ValueError):
            return  # no state, or a broken one: its rows are computed again
        current = {step for step, key in state.items() if self.keys.get(step) == key}
        known = self.done()  # a crash between the final tables and the removal of parts leaves rows in both
        fresh = {name: frame[_fresh(frame, current, known)] for name, frame in frames.items()}
        self.dropped += len(frames["modules"]) - len(fresh["modules"])
        self._merge(fresh)

    def _merge(self, frames: Frames) -> None:
        for name, frame in frames.items():
            if len(frame):
                known = self.frames[name]
                self.frames[name] = pd.concat([known, frame], ignore_index=True) if len(known) else frame

    def _drain(self) -> Frames:
        frames = {name: _frame(name, rows) for name, rows in self._new.items()}
        self._new = {name: [] for name in NAMES}
        return frames


def _frame(name: str, rows: list[Row]) -> pd.DataFrame:
    if not rows:
        return empty(name)
    frame = pd.DataFrame(rows)
    return conform(name, frame.reindex(columns=list(empty(name).columns)))


def _write(where: AnalysisLayout, frames: Frames, keys: Mapping[int, str]) -> None:
    for name, frame in frames.items():
        write_table(frame, where.table(name))
    write_json(where.state, {"steps": {str(step): key for step, key in sorted(keys.items())}})


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows by step, then by module in the model's order, keeping the order within a module."""
    natural = frame["module"].str.replace(r"\d+", lambda match: match[0].zfill(6), regex=True)
    by = frame.assign(_natural=natural).sort_values(["step", "_natural"], kind="stable")
    return by.drop(columns="_natural").reset_index(drop=True)


def _fresh(frame: pd.DataFrame, steps: set[int], known: set[tuple[int, str]]) -> list[bool]:
    pairs = zip(frame["step"].tolist(), frame["module"].tolist(), strict=True)
    return [pair[0] in steps and pair not in known for pair in pairs]
