"""Relations between the updates of runs on one base: cosine, shared directions, entries that both change visibly."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spectra.analysis.pipeline.basis_cache import BasisCache
from spectra.analysis.pipeline.plan import Plan
from spectra.analysis.tables.columns import Row
from spectra.analysis.tables.coordinates import BaseCoordinates
from spectra.analysis.tables.spectral import layer_of
from spectra.analysis.tables.trajectory import DIRECTIONS
from spectra.linalg.decompositions.basis import Factors
from spectra.linalg.measures.leading import cosine, first, inner_product, is_factored, leading, nonzero, shared_spaces
from spectra.linalg.measures.masks import density, expected_jaccard, jaccard
from spectra.linalg.nulls.haar_moments import Null, haar_share
from spectra.linalg.operators.basic import Operator
from spectra.statistics.intervals import layer_interval
from spectra.weights.storage.base import fingerprint
from spectra.weights.storage.tensors import TensorStore, digest
from spectra.weights.updates import Updates, parameter_name

# Each comes with its expectation and z.
METRICS = ("cosine", "subspace_left", "subspace_right", "jaccard")
COLUMNS = (
    *("run_a", "run_b", "module"),
    *(f"{part}{metric}" for metric in METRICS for part in ("", "expected_", "z_")),
    *("expected_jaccard_noise", "z_jaccard_noise"),
)


@dataclass(frozen=True)
class _Seen:
    """Parts of one run's update of a module that are held while it is compared with the others."""

    whole: Factors | None  # the SVD of a factored update
    leading: Factors
    norm: float
    visible: Tensor | None

    @classmethod
    def of(cls, update: Operator, coordinates: BaseCoordinates | None) -> "_Seen":
        visible = None if coordinates is None else coordinates.visible(update)
        if is_factored(update):
            whole = nonzero(update.svd())
            return cls(whole, first(whole, DIRECTIONS), float(torch.linalg.vector_norm(whole.s)), visible)
        dense = update.dense()
        return cls(None, leading(dense, DIRECTIONS), float(torch.linalg.vector_norm(dense)), visible)


def pair_rows(updates: Mapping[str, Callable[[], Operator]], coordinates: BaseCoordinates | None = None) -> list[Row]:
    """Return the rows of one module, one per pair of runs with finite ΔW.

    - ``cosine`` ⟨ΔW, ΔW'⟩/(‖ΔW‖‖ΔW'‖). For updates of any spectra and random orientation its mean is 0 and its
      variance exactly 1/(O·I).
    - ``subspace_*`` ‖X_KᵀX'_K‖²/K over the first K = min(16, ranks) singular vectors of a side. For random spaces the
      mean is K/d and the variance 2(d − K)²/(d²(d − 1)(d + 2)).
    - ``jaccard`` |A ∩ B|/|A ∪ B| of the entries that change visibly in bfloat16. ``expected_jaccard`` is that of random
      masks of the same densities; ``expected_jaccard_noise`` that of Gaussian updates of the same norms through the
      same cast, which overlap more often: both are visible where the weights are small.

    NaN if one of the updates is zero.

    Parameters
    ----------
    updates
        For each run, a function that returns ΔW; for a run of full rank, called once per pair. Two dense matrices are
        held at a time.
    coordinates
        Entries of the base matrix; None leaves ``jaccard`` NaN.
    """
    seen = {name: _Seen.of(made, coordinates) for name, make in updates.items() if (made := make()).is_finite()}
    rows: list[Row] = []
    for number, (a, one) in enumerate(seen.items()):
        held = None  # one dense matrix for all pairs of this run
        for b, other in list(seen.items())[number + 1 :]:
            if one.whole is not None and other.whole is not None:
                inner = inner_product(one.whole, other.whole)
            else:
                held = updates[a]().dense() if held is None else held
                inner = float(torch.dot(held.reshape(-1), updates[b]().dense().reshape(-1)))
            shape = (len(one.leading.u), len(one.leading.v))
            row = {**_cosine(inner, one, other, shape), **_subspaces(one.leading, other.leading, shape)}
            rows.append({"run_a": a, "run_b": b, **row, **_jaccard(one, other, coordinates)})
    return rows


def _cosine(inner: float, one: _Seen, other: _Seen, shape: tuple[int, int]) -> Row:
    value = cosine(inner, one.norm * other.norm)
    return _beside("cosine", value, Null(0.0, 1 / math.sqrt(shape[0] * shape[1])))


def _subspaces(one: Factors, other: Factors, shape: tuple[int, int]) -> Row:
    left, right, count = shared_spaces(one, other)
    row: Row = {}
    for side, dim, value in (("left", shape[0], left), ("right", shape[1], right)):
        # A space of K directions is an update of K equal singular values.
        null = haar_share(count, dim, 1 / count) if count else Null(math.nan, math.nan)
        row |= _beside(f"subspace_{side}", value, null)
    return row


def _jaccard(one: _Seen, other: _Seen, coordinates: BaseCoordinates | None) -> Row:
    unknown = Null(math.nan, math.nan)
    if coordinates is None or one.visible is None or other.visible is None:
        return {
            **_beside("jaccard", math.nan, unknown),
            "expected_jaccard_noise": math.nan,
            "z_jaccard_noise": math.nan,
        }
    value = jaccard(one.visible, other.visible)
    anywhere = expected_jaccard(density(one.visible), density(other.visible), one.visible.numel())
    noise = coordinates.jaccard_null(one.norm, other.norm)
    found = _beside("jaccard", value, anywhere)
    return {**found, "expected_jaccard_noise": noise.mean, "z_jaccard_noise": noise.z(value)}


def _beside(metric: str, value: float, null: Null) -> Row:
    return {metric: value, f"expected_{metric}": null.mean, f"z_{metric}": null.z(value)}


@dataclass(frozen=True)
class ComparedUpdates:
    """Relations between the updates of runs.

    Attributes
    ----------
    pairs
        A row is a pair of runs × module: ``COLUMNS``.
    notes
        Which runs could not be compared, and why.
    """

    pairs: pd.DataFrame
    notes: tuple[str, ...]


def compare_updates(plans: Mapping[str, Plan], cache: Path | None) -> ComparedUpdates:
    """Compare the last updates of runs, module by module; only runs on the same base are comparable.

    Parameters
    ----------
    plans
        The runs by name, as analyzed.
    cache
        Directory of decomposed bases; None disables the cache.
    """
    groups = _by_base(plans)
    rows = [row for group in groups if len(group) > 1 for row in _group_rows({n: plans[n] for n in group}, cache)]
    notes = [
        f"{' and '.join(one)} and {' and '.join(other)} have different base models: their updates are not compared"
        for one, other in combinations(groups, 2)
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["run_a", "run_b"], kind="stable", ignore_index=True)
    return ComparedUpdates(frame, tuple(notes))


def _by_base(plans: Mapping[str, Plan]) -> list[list[str]]:
    """Group the runs by base: the same directory, or the same tensors in different directories."""
    groups: dict[Path, list[str]] = {}
    stores = {plan.base.resolve(): plan.opened.base for plan in plans.values()}
    for name, plan in plans.items():
        groups.setdefault(plan.base.resolve(), []).append(name)
    if len(groups) == 1:
        return list(groups.values())
    same: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for base, names in groups.items():
        same.setdefault(tuple(sorted(fingerprint(stores[base]).items())), []).extend(names)
    return list(same.values())


def _group_rows(plans: Mapping[str, Plan], cache: Path | None) -> list[Row]:
    store = next(iter(plans.values())).opened.base
    opened = {name: plan.opened.updates(plan.run.snapshots[-1].step) for name, plan in plans.items()}
    modules = sorted({module for updates in opened.values() for module in updates.matrices})
    rows: list[Row] = []
    for module in modules:
        runs = {name: updates for name, updates in opened.items() if module in updates.matrices}
        if len(runs) > 1:
            rows += [{"module": module, **row} for row in _module_rows(module, runs, store, cache)]
    return rows


def _module_rows(module: str, runs: Mapping[str, Updates], store: TensorStore, cache: Path | None) -> list[Row]:
    stored = store[parameter_name(module, store.files) or module]
    weight = stored.to(torch.float64).flatten(1)
    basis, _ = BasisCache(cache).get(digest(stored), weight)
    made = {name: (lambda updates=updates: updates.matrices[module](weight)) for name, updates in runs.items()}
    return pair_rows(made, BaseCoordinates(weight, basis))


def summarize_pairs(pairs: pd.DataFrame, at_initialization: Mapping[str, frozenset[str]]) -> pd.DataFrame:
    """Return, for each pair of runs and metric, the mean over modules with a 95 % interval over layers.

    Parameters
    ----------
    pairs
        Rows of :func:`compare_updates`.
    at_initialization
        For each run, the sides that have not left their initial subspace: two such runs may share their initialization
        there.

    Returns
    -------
    pd.DataFrame
        Columns: run_a, run_b, metric, value, lo, hi, expected, expected_noise (of the Jaccard index), matrices, note.
    """
    rows = [
        {
            "run_a": a,
            "run_b": b,
            **_mean(group, metric),
            "note": _note(metric, at_initialization[str(a)] & at_initialization[str(b)]),
        }
        for (a, b), group in pairs.groupby(["run_a", "run_b"], sort=False)
        for metric in METRICS
        if group[metric].notna().any()
    ]
    columns = ["run_a", "run_b", "metric", "value", "lo", "hi", "expected", "expected_noise", "matrices", "note"]
    return pd.DataFrame(rows, columns=columns)


def _mean(group: pd.DataFrame, metric: str) -> dict[str, Any]:
    known = group[group[metric].notna()]
    layers = [module if (layer := layer_of(module)) is None else layer for module in known["module"]]
    found = layer_interval(known[metric].to_numpy("float64"), layers)
    value, lo, hi = found.within(-1.0 if metric == "cosine" else 0.0, 1.0)
    noise = known[f"expected_{metric}_noise"].mean() if metric == "jaccard" else math.nan
    expected = {"expected": float(known[f"expected_{metric}"].mean()), "expected_noise": float(noise)}
    return {"metric": metric, "value": value, "lo": lo, "hi": hi, **expected, "matrices": len(known)}


def _note(metric: str, sides: frozenset[str]) -> str:
    shown = sides if metric == "cosine" else {side for side in sides if metric == f"subspace_{side}"}
    if not shown:
        return ""
    sides_at_start = " and ".join(sorted(shown))
    return (
        f"the {sides_at_start} side of both runs has not left its initial subspace: they may share the initialization"
    )
