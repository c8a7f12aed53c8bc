"""Progress output of a run: a bar on a terminal, plain lines in a log, nothing when quiet."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_REMEMBERED_SECONDS = 6 * 3600.0
LINES = 12  # approximate number of progress lines per run in a log


class Reporter:
    """Reporter that prints nothing; base class of the others."""

    def say(self, line: str) -> None:
        """Report a message about the run."""

    def step(self, step: int, last: int, metrics: Mapping[str, float]) -> None:
        """Report the progress of the run."""


class PlainReporter(Reporter):
    """Prints lines to standard error; standard output is for results."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=sys.stderr, flush=True)

    def step(self, step: int, last: int, metrics: Mapping[str, float]) -> None:
        """Print a line at regular intervals, at every evaluation, and at the end."""
        now = time.monotonic()
        began, first = self._first = self._first or (now, step)
        if step % max(1, last // LINES) == 0 or step == last or "eval_accuracy" in metrics:
            seconds = (now - began) / max(1, step - first) * (last - step)
            self.say(f"step {step}/{last} {describe(metrics)}{remaining(seconds)}")


class BarReporter(Reporter):
    """Shows a progress bar."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: Any = None

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        self._bar.console.print(line, highlight=False, markup=False)

    def step(self, step: int, last: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task("training", total=last, note="")
        self._bar.update(self._task, completed=step, note=describe(metrics))


def describe(metrics: Mapping[str, float]) -> str:
    """Return the metrics that show whether a run learns.

    >>> describe({"reward": 0.4125, "loss": 0.1, "eval_accuracy": 0.5})
    'reward 0.41 accuracy 0.50'
    """
    shown = {"reward": "reward", "eval_accuracy": "accuracy"}
    return " ".join(f"{label} {metrics[key]:.2f}" for key, label in shown.items() if key in metrics)


def remaining(seconds: float) -> str:
    """Return the remaining time, if it is a minute or more.

    >>> remaining(20.0), remaining(200.0), remaining(20000.0)
    ('', ', 3 min left', ', 5.6 h left')
    """
    if seconds < 60:
        return ""
    return f", {seconds / 60:.0f} min left" if seconds < 5400 else f", {seconds / 3600:.1f} h left"


def log_reporter(quiet: bool) -> Reporter:
    """Return a reporter that prints lines, for several concurrent runs."""
    return Reporter() if quiet else PlainReporter()


@contextmanager
def reporting(quiet: bool) -> Iterator[Reporter]:
    """Yield a bar if standard error is a terminal, otherwise lines."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield log_reporter(quiet)
    else:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        # Steps of a large model take minutes; by default rich uses only the last 30 s.
        with Progress(*columns, console=console, speed_estimate_period=_REMEMBERED_SECONDS) as bar:
            yield BarReporter(bar)
