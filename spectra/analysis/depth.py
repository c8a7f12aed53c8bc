"""Which snapshots get the costly tables: the motion of the whole matrix needs an SVD of W + ΔW, sampled nulls need many.

Everything else costs products with the update's rank and is measured at every snapshot.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

from spectra.analysis.matrix import Work
from spectra.analysis.plan import Plan
from spectra.analysis.store import RowStore
from spectra.errors import UsageError

Depth = Literal["auto", "all", "last", "none"]

# Float64 operations that `auto` spends on the motion of the matrices at every snapshot: minutes on two cores.
_AUTO_OPERATIONS = 2e12


@dataclass(frozen=True)
class DeepSteps:
    """The chosen steps.

    Attributes
    ----------
    motion
        Steps of ``drift`` and ``coordinates``.
    nulls
        Steps of ``nulls``.
    """

    motion: frozenset[int]
    nulls: frozenset[int]

    def complete(self, plan: Plan) -> dict[str, set[int]]:
        """Return, for each table, the steps at which nothing is missing once the work is done."""
        every = set(plan.modules)
        rows = dict.fromkeys(("modules", "projection", "profile", "spectrum", "map", "trajectory"), every)
        return {**rows, **dict.fromkeys(("drift", "coordinates"), set(self.motion)), "nulls": set(self.nulls)}


def deep_steps(plan: Plan, depth: Depth) -> DeepSteps:
    """Return the steps that get the costly tables.

    Parameters
    ----------
    plan
        The analysis.
    depth
        ``all`` snapshots, the ``last``, or ``none``; ``auto`` is the last, and every one for the motion where the
        matrices are small.

    Raises
    ------
    UsageError
        If the depth is none of these.
    """
    if depth not in get_args(Depth):
        raise UsageError(f"--deep is {depth!r}", cure=f"choose {', '.join(get_args(Depth))}")
    every = frozenset(plan.modules)
    last = frozenset({max(every)})
    if depth == "none":
        return DeepSteps(frozenset(), frozenset())
    if depth == "all":
        return DeepSteps(every, every)
    cheap = depth == "auto" and _operations(plan) <= _AUTO_OPERATIONS
    return DeepSteps(every if cheap else last, last)


def missing_work(plan: Plan, store: RowStore, deep: DeepSteps) -> dict[str, Work]:
    """Return what is missing in the tables, for each module."""
    basic = store.missing("modules", plan.pairs)
    motion = store.missing("drift", plan.matrix_pairs(deep.motion))
    nulls = store.missing("nulls", plan.matrix_pairs(deep.nulls))
    whole = {module for _, module in store.missing("trajectory", plan.matrix_pairs(plan.modules))}
    modules = {module for pairs in (basic, motion, nulls) for _, module in pairs} | whole
    return {m: Work(_steps(basic, m), _steps(motion, m), _steps(nulls, m), m in whole) for m in modules}


def _steps(pairs: set[tuple[int, str]], module: str) -> frozenset[int]:
    return frozenset(step for step, name in pairs if name == module)


def _operations(plan: Plan) -> float:
    # An SVD of an O × I matrix with its vectors is about 20·O·I·min(O, I) operations; min ≤ √(O·I).
    return sum(20 * plan.sizes[module] * sqrt(plan.sizes[module]) for _, module in plan.matrix_pairs(plan.modules))
