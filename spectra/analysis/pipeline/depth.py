"""Choice of the snapshots with the expensive tables: motion needs an SVD of W + ΔW, sampled nulls need many.

All other tables only need products with the factors of the update and are computed at every snapshot.
"""

import math
from dataclasses import dataclass

from spectra.analysis.options import Depth
from spectra.analysis.pipeline.plan import Plan
from spectra.analysis.pipeline.row_store import RowStore
from spectra.analysis.tables.matrix import Work
from spectra.analysis.tables.null_draws import BUDGET

# Operations that `auto` spends on sampled nulls: in total, and per entry of a matrix. Half a minute at most.
_AUTO_NULLS, _AUTO_NULLS_AN_ENTRY = 3e11, 4e4

# Float64 operations that `auto` spends on the motion of the matrices at every snapshot: half a minute.
_AUTO_OPERATIONS = 5e11


@dataclass(frozen=True)
class DeepSteps:
    """The steps with expensive tables.

    Attributes
    ----------
    motion
        Steps of ``drift`` and ``coordinates``.
    nulls
        Steps of ``nulls``.
    thrifty
        Whether to draw few samples per null, as ``auto`` does.
    """

    motion: frozenset[int]
    nulls: frozenset[int]
    thrifty: bool = False

    def complete(self, plan: Plan) -> dict[str, set[int]]:
        """Return, for each table, the steps that are complete once the work is done."""
        every = set(plan.modules)
        rows = dict.fromkeys(("modules", "projection", "profile", "spectrum", "map", "trajectory"), every)
        return {**rows, **dict.fromkeys(("drift", "coordinates"), set(self.motion)), "nulls": set(self.nulls)}


def deep_steps(plan: Plan, depth: Depth) -> DeepSteps:
    """Return the steps with the expensive tables.

    Parameters
    ----------
    plan
        The analysis.
    depth
        ``all`` snapshots, the ``last``, or ``none``. ``auto`` is the last, with few samples per null; small matrices
        get the motion at every snapshot.
    """
    every = frozenset(plan.modules)
    last = frozenset({max(every)})
    if depth == "none":
        return DeepSteps(frozenset(), frozenset(), thrifty=True)
    if depth == "all":
        return DeepSteps(every, every)
    cheap = depth == "auto" and _operations(plan) <= _AUTO_OPERATIONS
    return DeepSteps(every if cheap else last, last, thrifty=depth == "auto")


def missing_work(plan: Plan, store: RowStore, deep: DeepSteps) -> dict[str, Work]:
    """Return the missing work for each module."""
    basic = store.missing("modules", plan.pairs)
    motion = store.missing("drift", plan.matrix_pairs(deep.motion))
    nulls = store.missing("nulls", plan.matrix_pairs(deep.nulls))
    # The rows of a module are written together, and a snapshot that is not finite has none.
    known = {module for _, module in store.done("trajectory")}
    whole = {module for _, module in store.missing("trajectory", plan.matrix_pairs(plan.modules))} - known
    modules = {module for pairs in (basic, motion, nulls) for _, module in pairs} | whole
    return {
        m: Work(_steps(basic, m), _steps(motion, m), _steps(nulls, m), m in whole, _budget(plan, m, deep.thrifty))
        for m in modules
    }


def _budget(plan: Plan, module: str, thrifty: bool) -> float:
    """Return how many operations the draws of nulls may cost for one module."""
    if not thrifty:
        return BUDGET
    return min(BUDGET, _AUTO_NULLS / max(1, len(plan.matrices)), _AUTO_NULLS_AN_ENTRY * plan.sizes.get(module, 0))


def _steps(pairs: set[tuple[int, str]], module: str) -> frozenset[int]:
    return frozenset(step for step, name in pairs if name == module)


def _operations(plan: Plan) -> float:
    # An SVD of an O × I matrix with its vectors is about 20·O·I·min(O, I) operations; min ≤ √(O·I).
    return math.fsum(20 * plan.sizes[module] ** 1.5 for _, module in plan.matrix_pairs(plan.modules))
