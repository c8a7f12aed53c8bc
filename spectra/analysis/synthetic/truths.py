"""Kinds of synthetic runs, and the right verdict for each."""

from collections.abc import Mapping
from typing import Literal, get_args

from spectra.analysis.verdict.findings import Verdict

Truth = Literal[
    "healthy",
    "principal",
    "minor",
    "isotropic",
    "intruder",
    "few_lines",
    "null_learning",
    "null_unlogged",
    "null_flat",
    "not_learning",
    "principal_locked",
    "rank_collapsing",
    "diverging",
    "wrong_base",
    "merge_drift",
    "entropy_collapsing",
    "reward_collapsing",
]
TRUTHS: tuple[Truth, ...] = get_args(Truth)

# The alignment of an update is no fault while the run learns; a random update that learns is healthy as well.
EXPECTED: Mapping[Truth, Verdict] = {
    "healthy": "healthy",
    "principal": "healthy",
    "minor": "healthy",
    "isotropic": "healthy",
    "intruder": "healthy",
    "few_lines": "healthy",
    "null_learning": "healthy",
    "null_unlogged": "healthy",
    "null_flat": "not_learning",
    "not_learning": "not_learning",
    "principal_locked": "principal_locked",
    "rank_collapsing": "rank_collapsed",
    "diverging": "diverging",
    "wrong_base": "wrong_base",
    "merge_drift": "merge_drift",
    "entropy_collapsing": "entropy_collapsed",
    "reward_collapsing": "reward_collapsed",
}
