"""Store of finished rows, keyed by content, so that nothing is computed twice.

``state.json`` has, for each step, the key of the content that its rows were computed from, and the steps at which a
table is complete: a zero update leaves some tables without rows. A running analysis flushes its results to ``parts/``,
where the next one finds them after a kill. A part has the same format as the final tables.
"""

import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from spectra.analysis.tables.columns import Columns, to_frame
from spectra.errors import CorruptFileError
from spectra.runs.atomic import atomic_directory, read_json, write_json
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import empty, read_table, write_table

NAMES = ("modules", "projection", "profile", "spectrum", "map", "drift", "coordinates", "nulls", "trajectory")
# Its rows compare every snapshot with the last one, so they are only valid for exactly this set of snapshots.
_WHOLE_RUN = "trajectory"

Frames = dict[str, pd.DataFrame]


class RowStore:
    """Rows of the measured tables under one analysis directory.

    Parameters
    ----------
    where
        The analysis directory.
    keys
        For each requested step, the key of its current content. Rows under another key are dropped.
    thrifty
        Whether few samples per null are enough; otherwise rows from few samples are dropped.

    Attributes
    ----------
    dropped
        Number of outdated module snapshots on disk.
    """

    def __init__(self, where: AnalysisLayout, keys: Mapping[int, str], *, thrifty: bool = True) -> None:
        self.where = where
        self.keys = dict(keys)
        self._thrifty = thrifty
        self._thrifty_steps: set[int] = set()
        self.complete: dict[str, set[int]] = {name: set() for name in NAMES}
        self.frames: Frames = {name: empty(name) for name in NAMES}
        self._new: dict[str, list[Columns]] = {name: [] for name in NAMES}
        self.dropped = 0
        for directory in [where, *self._parts()]:
            self._take(directory)

    def done(self, table: str = "modules") -> set[tuple[int, str]]:
        """Return the (step, module) pairs with rows in a table."""
        frame = self.frames[table][["step", "module"]].drop_duplicates()
        return set(zip(frame["step"].tolist(), frame["module"].tolist(), strict=True))

    def missing(self, table: str, wanted: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
        """Return the wanted pairs that a table does not have yet."""
        done = self.done(table)
        return {pair for pair in wanted if pair not in done and pair[0] not in self.complete[table]}

    @property
    def has_parts(self) -> bool:
        """Whether there are parts that are not merged into the final tables yet."""
        return bool(self._parts())

    def add(self, rows: Mapping[str, Sequence[Columns]]) -> None:
        """Add the rows of one finished task."""
        for name, found in rows.items():
            self._new[name] += found

    def flush(self) -> None:
        """Write the rows added since the last flush as a part."""
        if any(self._new.values()):
            added = self._drain()
            with atomic_directory(self.where.parts / uuid.uuid4().hex[:12]) as temporary:
                self._write(AnalysisLayout(temporary), added, {})
            self._merge(added)

    def finish(self, complete: Mapping[str, set[int]]) -> Frames:
        """Write the final tables in a fixed order, delete the parts, and return the tables.

        Parameters
        ----------
        complete
            For each table, the steps that are now complete.
        """
        self._merge(self._drain())
        self.frames = {name: _ordered(frame) for name, frame in self.frames.items()}
        # Tables without a state are ignored: after a crash in between, the parts are still there.
        self.where.state.unlink(missing_ok=True)
        self._write(self.where, self.frames, {name: self.complete[name] | complete.get(name, set()) for name in NAMES})
        shutil.rmtree(self.where.parts, ignore_errors=True)
        return self.frames

    def _parts(self) -> list[AnalysisLayout]:
        found = sorted(self.where.parts.iterdir()) if self.where.parts.is_dir() else []
        return [AnalysisLayout(path) for path in found if not path.name.startswith(".")]

    def _take(self, directory: AnalysisLayout) -> None:
        """Read the rows of a finished directory whose keys match the current content."""
        try:
            content = read_json(directory.state)
            state = {int(step): key for step, key in content["steps"].items()}
            complete = {name: set(content["complete"].get(name, ())) for name in NAMES}
            few = set(content["thrifty"])
            frames = {name: read_table(name, directory.table(name)) for name in NAMES}
        except (CorruptFileError, KeyError, AttributeError, ValueError, TypeError):
            return  # missing or corrupt state: recompute its rows
        current = {step for step, key in state.items() if self.keys.get(step) == key}
        # A crash between writing the tables and deleting the parts leaves rows in both.
        fresh = {name: frame[_fresh(frame, current, self.done(name))] for name, frame in frames.items()}
        if state == self.keys:
            self.complete[_WHOLE_RUN] |= complete[_WHOLE_RUN]
        else:
            fresh[_WHOLE_RUN] = empty(_WHOLE_RUN)
        for name in set(NAMES) - {_WHOLE_RUN}:
            self.complete[name] |= complete[name] & current
        if self._thrifty:
            self._thrifty_steps |= few & current
        else:
            fresh["nulls"] = fresh["nulls"][~fresh["nulls"]["step"].isin(few)]
            self.complete["nulls"] -= few
        self.dropped += len(frames["modules"]) - len(fresh["modules"])
        self._merge(fresh)

    def _merge(self, frames: Frames) -> None:
        for name, frame in frames.items():
            if len(frame):
                known = self.frames[name]
                self.frames[name] = pd.concat([known, frame], ignore_index=True) if len(known) else frame

    def _drain(self) -> Frames:
        frames = {name: to_frame(name, blocks) for name, blocks in self._new.items()}
        if self._thrifty:
            self._thrifty_steps |= set(frames["nulls"]["step"].tolist())
        self._new = {name: [] for name in NAMES}
        return frames

    def _write(self, where: AnalysisLayout, frames: Frames, complete: Mapping[str, set[int]]) -> None:
        for name, frame in frames.items():
            write_table(frame, where.table(name))
        keys = {str(step): key for step, key in sorted(self.keys.items())}
        state = {
            "steps": keys,
            "complete": {name: sorted(steps) for name, steps in complete.items()},
            "thrifty": sorted(self._thrifty_steps),
        }
        write_json(where.state, state)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by step, then by module in model order, keeping the order within a module."""
    names, places = np.unique(frame["module"].to_numpy(dtype=object), return_inverse=True)
    natural = [re.sub(r"\d+", lambda match: match[0].zfill(6), name) for name in names.tolist()]
    ranks = np.argsort(np.argsort(natural, kind="stable"))
    order = np.lexsort([ranks[places], frame["step"].to_numpy()])
    return frame.take(order).reset_index(drop=True)


def _fresh(frame: pd.DataFrame, steps: set[int], known: set[tuple[int, str]]) -> "pd.Series[bool]":
    fresh = frame["step"].isin(list(steps))
    if known:
        pairs = pd.MultiIndex.from_frame(frame[["step", "module"]])
        fresh &= ~pairs.isin(known)
    return fresh
