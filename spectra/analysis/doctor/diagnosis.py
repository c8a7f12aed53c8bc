"""Result of the doctor: its checks, as lines to print and as JSON values."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.analysis.verdict.findings import Check, Evidence, Status, Verdict, record

_ORDER: tuple[Status, ...] = ("fault", "note", "skipped", "ok")


@dataclass(frozen=True)
class Diagnosis:
    """The result of an examination.

    Attributes
    ----------
    path
        The examined path.
    recognized
        Description of what the path contains.
    checks
        Every check, in the order of the families.
    """

    path: Path
    recognized: str
    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks with status ``fault``."""
        return tuple(check for check in self.checks if check.status == "fault")

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the first fault that gives one."""
        return next((check.verdict for check in self.faults if check.verdict is not None), None)

    @property
    def exit_code(self) -> int:
        """1 if there are faults, 0 otherwise."""
        return int(bool(self.faults))

    def lines(self) -> Iterator[str]:
        """Yield one line per check, faults first: status, name, finding, value and threshold, action."""
        yield f"{self.path}: {self.recognized}"
        for status in _ORDER:
            yield from (line(check) for check in self.checks if check.status == status)
        count = len(self.faults)
        yield f"{count} fault{'s' * (count != 1)} in {len(self.checks)} checks"

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, without NaN and infinity."""
        return {
            "path": str(self.path),
            "recognised": self.recognized,
            "verdict": self.verdict,
            "faults": len(self.faults),
            "checks": [record(check) for check in self.checks],
        }


def line(check: Check) -> str:
    """Return a check as one line.

    >>> line(ok("files", "3 snapshots can be read"))
    'ok      files: 3 snapshots can be read'
    """
    numbers = _numbers(check.evidence)
    where = f" ({check.where})" if check.where else ""
    action = f" → {check.action}" if check.action else ""
    return f"{check.status:<8}{check.name}{where}: {check.evidence.says}{numbers}{action}"


def _numbers(evidence: Evidence) -> str:
    value, threshold = evidence.value, evidence.threshold
    if value is None:
        return ""
    return f" [{value:.3g}]" if threshold is None else f" [{value:.3g}, threshold {threshold:.3g}]"


def fact(
    metric: str,
    says: str,
    value: float | None = None,
    threshold: float | None = None,
    null: float | None = None,
    step: int | None = None,
) -> Evidence:
    """Return a measured fact; None means unknown."""
    return Evidence(metric, value, null, threshold, step, says)


def ok(name: str, says: str, value: float | None = None, threshold: float | None = None) -> Check:
    """Return a check without a problem."""
    return Check(name, "ok", fact(name, says, value, threshold))


def skipped(name: str, says: str, action: str = "") -> Check:
    """Return a check that could not be made, with the reason."""
    return Check(name, "skipped", fact(name, says), action)
