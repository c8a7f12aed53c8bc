"""Evidence of the verdict rules and results of the doctor's checks: measured facts, each with its null."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Verdict = Literal[
    "healthy",
    "not_learning",
    "principal_locked",
    "rank_collapsed",
    "diverging",
    "wrong_base",
    "merge_drift",
    "entropy_collapsed",
    "reward_collapsed",
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Status = Literal["ok", "note", "fault", "skipped"]


@dataclass(frozen=True)
class Evidence:
    """One measured fact.

    Attributes
    ----------
    metric
        Name of the metric.
    value, null, threshold
        The value, its expectation under chance or no change, and the threshold of the verdict.
    first_step
        First step at which the fact held.
    says
        The fact as a sentence.
    """

    metric: str
    value: float | None
    null: float | None
    threshold: float | None
    first_step: int | None
    says: str


@dataclass(frozen=True)
class Check:
    """Result of one check of the doctor.

    Attributes
    ----------
    name
        The check, such as ``wrong_base``.
    status
        ``fault``: wrong. ``note``: worth knowing. ``ok``: checked, no problem. ``skipped``: could not be checked; the
        evidence says why.
    evidence
        The measured fact.
    action
        One sentence on what to do; empty if there is nothing to do.
    verdict
        The verdict of the run if this check finds a fault, None if the check has no verdict.
    where
        The file or directory concerned; empty for the whole path.
    """

    name: str
    status: Status
    evidence: Evidence
    action: str = ""
    verdict: Verdict | None = None
    where: str = ""


def plain(evidence: Evidence) -> dict[str, Any]:
    """Return evidence as JSON values: NaN and infinity become null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(evidence).items()
    }


def record(check: Check) -> dict[str, Any]:
    """Return a check as JSON values."""
    return {**asdict(check), "evidence": plain(check.evidence)}
