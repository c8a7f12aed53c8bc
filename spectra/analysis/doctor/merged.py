"""Whether merged checkpoints equal the base plus the update of the adapter next to them.

A model merged on the wrong base is off by a block of low rank; one whose frozen weights drifted is off by noise of full
rank above one rounding. Other models may lie next to an adapter, such as a copy of the base or an earlier fine-tuned
model: only one that contains ΔW, or a block of the base twice, counts as a merge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok
from spectra.analysis.doctor.files import fault
from spectra.analysis.doctor.offsets import SYMMETRIC, Block, agreed, block, symmetry
from spectra.analysis.verdict.findings import Check, Verdict
from spectra.errors import SpectraError
from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import Dense
from spectra.runs.directory import Snapshot
from spectra.runs.layout import MODEL_CONFIG, RunLayout
from spectra.runs.snapshots import snapshot_kind
from spectra.weights.readers.rank_patterns import rank_and_alpha
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates, parameter_name

NAME = "merged"
# ‖error‖ up to this many roundings of the stored dtype counts as a merge: residual and sum are each rounded once.
_ROUNDINGS = 2.0
# ‖error‖/‖W‖ of a merge in float32 with another order of operations.
_FLOAT32 = 1e-6
# Fraction of ‖error‖² in 2r triplets above which the error has low rank.
_LOW_RANK = 0.9
_DEPTH = 3

Kind = Literal["merge", "base", "offset", "drawn_again", "low_rank", "noise"]


@dataclass(frozen=True)
class Error:
    """Difference of one matrix of a merged checkpoint from W + ΔW, relative to ‖W‖.

    Attributes
    ----------
    size
        ‖error‖.
    rounding
        Error of rounding W + ΔW to the stored dtype.
    update
        ‖ΔW‖.
    concentrated
        Share of ‖error‖² in its first 2r singular triplets.
    base
        ‖stored − W‖.
    blocks
        Overlap of the error with the first and the last singular block of W.
    symmetric
        To what degree the error is W times a symmetric matrix: ``spectra.analysis.doctor.offsets.symmetry``.
    """

    size: float
    rounding: float
    update: float
    concentrated: float
    base: float
    blocks: tuple[Block, Block]
    symmetric: float


def check(case: Case) -> list[Check]:
    """Compare every full checkpoint inside the run directory with the base plus the newest adapter."""
    if case.adapter is None or case.base is None or case.changes is None or case.snapshot is None or not case.finite:
        return []
    checks = []
    for directory in _full_models(case):
        try:
            checks.append(_compared(case, directory))
        except SpectraError as error:
            checks.append(fault(NAME, error))
    return checks


def _full_models(case: Case) -> Iterator[Path]:
    """Yield the directories of full models below the path, except its base and its snapshots."""
    layout = RunLayout(case.path)
    residuals = set() if case.start is None else {file.parent.resolve() for file in case.start.files}
    skip = {layout.snapshots.resolve(), layout.checkpoints.resolve(), *residuals}
    skip |= set() if case.base_dir is None else {case.base_dir.resolve()}
    for depth in range(1, _DEPTH + 1):
        for file in sorted(case.path.glob("/".join(["*"] * depth + [MODEL_CONFIG]))):
            place = file.parent
            if not skip & {place.resolve(), *place.resolve().parents} and snapshot_kind(place) == "full":
                yield place


def _compared(case: Case, place: Path) -> Check:
    store = TensorStore.open_model(place)
    snapshots = [case.snapshot] if case.run is None else list(reversed(case.run.snapshots))
    first: list[Error] | None = None
    for snapshot in snapshots:
        if snapshot is None or snapshot.kind != "adapter":
            continue
        errors = list(_errors(case, snapshot, store))
        if errors and kind(errors) == "merge":
            return _merge(place, snapshot, errors)
        first = first or errors
    if not first:
        return ok(NAME, f"{place.name} contains none of the adapter's matrices")
    return _different(place, first, kind(first))


def _errors(case: Case, snapshot: Snapshot, store: TensorStore) -> Iterator[Error]:
    assert case.base is not None
    updates = open_updates(snapshot, case.base, case.start).matrices
    for module in case.affordable:
        name = parameter_name(module, store.files)
        if name is None or module not in updates or store.shapes[name] != case.weight_shape(module):
            continue
        weight, stored = case.weight(module).double(), store[name]
        if not bool(weight.any()):  # no scale for a difference
            continue
        change = updates[module](weight).dense()
        yield measure(weight, change, stored, rank_and_alpha(case.config, module)[0])


def measure(weight: Tensor, change: Tensor, stored: Tensor, rank: int) -> Error:
    """Return the difference of a stored matrix from W + ΔW.

    Parameters
    ----------
    weight, change
        W ≠ 0 and ΔW in float64, O × I.
    stored
        The matrix of the merged checkpoint, in its dtype.
    rank
        r of the adapter.
    """
    expected, norm, basis = weight + change, float(torch.linalg.vector_norm(weight)), thin_svd(weight)
    error = Dense(stored.double() - expected)
    sigma, size = error.svdvals(), error.frobenius()
    return Error(
        size / norm,
        float(torch.linalg.vector_norm(expected.to(stored.dtype).double() - expected)) / norm,
        float(torch.linalg.vector_norm(change)) / norm,
        float((sigma[: 2 * rank] ** 2).sum()) / size**2 if size > 0 else float("nan"),
        float(torch.linalg.vector_norm(stored.double() - weight)) / norm,
        (block(error, basis, "first"), block(error, basis, "last")),
        symmetry(error, weight, basis),
    )


def kind(errors: list[Error]) -> Kind:
    """Classify the differences of some matrices by their medians."""
    size, rounding = median(e.size for e in errors), median(e.rounding for e in errors)
    if size <= _ROUNDINGS * rounding + _FLOAT32:
        return "merge"
    if median(e.base for e in errors) <= _ROUNDINGS * rounding + _FLOAT32:
        return "base"
    if _block(errors) is not None:
        return "offset"
    if median(e.symmetric for e in errors) >= SYMMETRIC:
        return "drawn_again"
    return "low_rank" if median(e.concentrated for e in errors) > _LOW_RANK else "noise"


def _block(errors: list[Error]) -> Block | None:
    return agreed(e.blocks[1] for e in errors) or agreed(e.blocks[0] for e in errors)


def _merge(place: Path, snapshot: Snapshot, errors: list[Error]) -> Check:
    rounding, update = median(e.rounding for e in errors), median(e.update for e in errors)
    says = f"{place.name} is the base plus the update of step {snapshot.step}, up to rounding ({rounding:.2g}·‖W‖)"
    if rounding <= 0.1 * update:
        return ok(NAME, says, rounding, 0.1 * update)
    says += f", which is {rounding / update:.2g} times the update" if update > 0 else ""
    action = "analyze the adapter, not the merged weights: their difference from the base is rounding"
    return Check(NAME, "note", fact("rounding", says, rounding, 0.1 * update), action, where=str(place))


def _block_name(errors: list[Error]) -> str:
    found = _block(errors)
    return "no" if found is None else f"the {found.end} {found.rank}"


def _different(place: Path, errors: list[Error], what: Kind) -> Check:
    size, update = median(e.size for e in errors), median(e.update for e in errors)
    rounding = median(e.rounding for e in errors)
    limit = _ROUNDINGS * rounding + _FLOAT32
    if what == "base":
        return ok(NAME, f"{place.name} is the base itself, without the update")
    if what not in ("offset", "drawn_again") and not all(e.size < e.base for e in errors):
        says = (
            f"{place.name} is no nearer to W + ΔW than to W ({size:.3g} and {median(e.base for e in errors):.3g}·‖W‖): "
            "it is another model, or another adapter was merged"
        )
        return Check(NAME, "note", fact("merge_error", says, size, limit, rounding), where=str(place))
    findings: dict[Kind, tuple[str, str, Verdict]] = {
        "offset": (
            f"has {_block_name(errors)} singular directions of its base twice: it was merged on the pristine base",
            "merge on W − s·B₀A₀, or export the equal plain LoRA with `spectra export` and merge that",
            "wrong_base",
        ),
        "drawn_again": (
            "differs from W + ΔW by W times a symmetric matrix, as if the randomized SVD of its initialization was "
            "drawn again",
            "merge this adapter on the frozen weights it was trained with, and evaluate again",
            "wrong_base",
        ),
        "low_rank": (
            "differs from W + ΔW by a matrix of low rank: another initialization, base or adapter was merged",
            "merge this adapter on the frozen weights it was trained with, and evaluate again",
            "wrong_base",
        ),
        "noise": (
            "differs from W + ΔW by noise of full rank, more than rounding explains",
            "merge once, in float32, from the original base; do not use repeatedly merged and unmerged weights",
            "merge_drift",
        ),
    }
    says, action, verdict = findings[what]
    text = f"{place.name} {says}; error {size:.3g}·‖W‖, update {update:.3g}·‖W‖, rounding {rounding:.2g}·‖W‖"
    return Check(NAME, "fault", fact("merge_error", text, size, limit, rounding), action, verdict, str(place))
