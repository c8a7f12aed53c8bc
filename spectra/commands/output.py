"""What a command prints: lines and tables for people, or one JSON value for programs, and how far it is."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True)
class Output:
    """Where the results of a command go; ``--quiet`` and ``--json`` of every command that has both."""

    quiet: Quiet = False
    as_json: AsJson = False

    @property
    def is_silent(self) -> bool:
        """Whether people see nothing but errors: JSON stands alone on standard output."""
        return self.quiet or self.as_json

    def lines(self, *lines: str) -> None:
        """Print lines for people."""
        if lines and not self.is_silent:
            print("\n".join(lines), flush=True)

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
        """Print rows for people: one column per key, missing values as a dash, three significant digits."""
        if self.is_silent:
            return
        from rich.console import Console
        from rich.table import Table

        columns = list(columns)
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        # A log has no width: the table then takes what it needs.
        console = Console(highlight=False) if sys.stdout.isatty() else Console(width=200, highlight=False)
        console.print(table, markup=False)

    def json(self, value: Any) -> None:
        """Print a value for programs, if that is wanted."""
        if self.as_json:
            print(json.dumps(value, indent=2, allow_nan=False, default=str))

    @contextmanager
    def progress(self, unit: str = "modules") -> Iterator[Callable[[int, int, str], None] | None]:
        """Give a progress bar on a terminal, and a plain line now and then in a log.

        What is given is called with units done, units in all, and the name of the current one.
        """
        if self.is_silent:
            yield None
            return
        if not sys.stderr.isatty():
            yield _PlainProgress(unit)
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(unit, total=None)
            yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


class _PlainProgress:
    """Prints progress at most every 30 seconds, so that a short command prints none."""

    _PAUSE = 30.0

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._next = time.monotonic() + self._PAUSE

    def __call__(self, done: int, total: int, name: str) -> None:
        if time.monotonic() >= self._next:
            print(f"{done}/{total} {self._unit}: {name}", file=sys.stderr, flush=True)
            self._next = time.monotonic() + self._PAUSE


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
