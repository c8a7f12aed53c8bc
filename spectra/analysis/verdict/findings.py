"""What the rules of a verdict and the checks of a doctor say: one measured fact each, with what chance would give."""

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
        What was measured.
    value, null, threshold
        The number, what chance or no change would give, and where the verdict turns.
    first_step
        First step at which it held.
    says
        The fact in words.
    """

    metric: str
    value: float | None
    null: float | None
    threshold: float | None
    first_step: int | None
    says: str


@dataclass(frozen=True)
class Check:
    """What one bookkeeping check of the doctor found.

    Attributes
    ----------
    name
        The check, such as ``wrong_base``.
    status
        ``fault``: wrong. ``note``: worth knowing. ``ok``: looked at and right. ``skipped``: could not be looked at, and
        why.
    evidence
        The measured fact.
    action
        One sentence of what to do; empty where there is nothing to do.
    verdict
        The verdict that a fault of this check gives the run, None where it gives none.
    where
        The file or directory that is concerned; empty for the whole.
    """

    name: str
    status: Status
    evidence: Evidence
    action: str = ""
    verdict: Verdict | None = None
    where: str = ""


def plain(evidence: Evidence) -> dict[str, Any]:
    """Return evidence for JSON, which has neither NaN nor infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(evidence).items()
    }


def record(check: Check) -> dict[str, Any]:
    """Return a check for JSON."""
    return {**asdict(check), "evidence": plain(check.evidence)}
