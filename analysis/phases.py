"""Where the CPU of one analysis goes, phase by phase, in a process of its own.

    python analysis/phases.py RUN OUT PHASES.json

Functions are wrapped with a clock of this process's CPU; time inside a phase that is inside another counts to the inner
one. What no phase holds is "other".
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

# The functions of each phase, by module and name.
PHASES = {
    "plan and digests of files": ("spectra.analysis.analyze:make_plan", "spectra.analysis.analyze:content_keys"),
    "base decompositions": ("spectra.analysis.pipeline.tasks:BasisCache.get",),
    "tables of every snapshot": ("spectra.analysis.tables.matrix:MatrixWork.basic",),
    "motion of W": ("spectra.analysis.tables.matrix:drift_row",),
    "bfloat16 coordinates": ("spectra.analysis.tables.coordinates:BaseCoordinates.row",),
    "sampled nulls": ("spectra.analysis.tables.matrix:null_rows",),
    "trajectory": ("spectra.analysis.tables.matrix:trajectory_rows",),
    "tables to disk": (
        "spectra.analysis.pipeline.row_store:RowStore.flush",
        "spectra.analysis.pipeline.row_store:RowStore.finish",
    ),
    "summary and verdict": ("spectra.analysis.analyze:summarize", "spectra.analysis.analyze:judge"),
    "doctor": ("spectra.analysis.analyze:bookkeeping",),
    "figures and report": ("spectra.commands.draw:draw",),
}


class Clock:
    """CPU seconds of nested phases, each without what is inside it.

    Attributes
    ----------
    spent
        Seconds of each phase.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0  # the process began

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self._settle()
        self._open.append(phase)

    def leave(self) -> None:
        """End the phase that began last."""
        self._settle()
        self._open.pop()

    def watch(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is that phase's."""

        def watched(*given: Any, **named: Any) -> Any:
            self.enter(phase)
            try:
                return function(*given, **named)
            finally:
                self.leave()

        return watched

    def _settle(self) -> None:
        now = time.process_time()
        phase = self._open[-1] if self._open else "other"
        self.spent[phase] = self.spent.get(phase, 0.0) + now - self._since
        self._since = now


def main(run: Path, out: Path, found: Path) -> None:
    """Analyse a run, and write the seconds of each phase."""
    clock = Clock()
    clock.enter("imports")
    watched = [(phase, *target.split(":")) for phase, targets in PHASES.items() for target in targets]
    for _, module, _ in watched:
        import_module(module)
    from spectra.analysis.analyze import Options
    from spectra.commands.analyze import analyze

    clock.leave()
    with ExitStack() as stack:
        for phase, module, name in watched:
            owner: Any = import_module(module)
            *outer, attribute = name.split(".")
            for part in outer:
                owner = getattr(owner, part)
            stack.enter_context(patch.object(owner, attribute, clock.watch(phase, getattr(owner, attribute))))
        analyze(run, Options(out=out / "tables", cache=out / "cache", jobs=1))
    clock.enter("other")
    order = ["imports", *PHASES, "other"]
    found.write_text(json.dumps({name: clock.spent.get(name, 0.0) for name in order}), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
