"""Whether a full checkpoint equals its base with a singular block added, missing, or drawn again.

A merged model of PiSSA or MiLoRA looks like that if it was loaded on the wrong base; the adapter is not needed to see
it.
"""

import math
from statistics import median

import torch

from spectra.analysis.doctor.case import Case, afforded
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.doctor.offsets import SYMMETRIC, Block, agreed, block, symmetry
from spectra.analysis.verdict.findings import Check
from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import Dense
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import FullWeights, module_name, open_full_weights

NAME = "wrong_base"
_MATRICES = 9
_LARGEST = 1536
# ‖W' − W‖/‖W‖ far above any RLVR run, and the concentration of its energy that indicates an adapter.
_LARGE = 0.05
_LOW_RANK = 0.9
# An initialization drawn again is 3 to 30 % of ‖W‖; a smaller offset is harmless, and could come from training.
_DRAWN_AGAIN = 0.02
_TABLES = ("embed", "lm_head", "wte", "wpe")


def check(case: Case) -> list[Check]:
    """Look for a constant offset between a full checkpoint and its base."""
    if case.snapshot is None or case.snapshot.kind != "full":
        return []
    if case.base is None:
        return [skipped(NAME, "no base model to compare the checkpoint with", "pass it with --base DIR_OR_HUB_ID")]
    store, base = open_full_weights(case.snapshot.path, case.base), case.base.as_stored()
    firsts, lasts, sizes, concentrated, symmetries = [], [], [], [], []
    compared = 0
    for name in _names(base, store):
        weight = base[name].double()
        norm = float(torch.linalg.vector_norm(weight))
        if not norm > 0:  # a zero matrix has no singular directions
            continue
        change = Dense(store[name].double() - weight)
        size = change.frobenius() / norm
        compared += math.isfinite(size)
        if size > 0:
            basis = thin_svd(weight)
            sizes.append(size)
            firsts.append(block(change, basis, "first"))
            lasts.append(block(change, basis, "last"))
            concentrated.append(_concentrated(change))
            symmetries.append(symmetry(change, weight, basis))
    if not compared:
        return [
            skipped(
                NAME,
                "no finite matrix of the checkpoint is in the base model",
                "pass the base model it came from with --base",
            )
        ]
    if not sizes:
        return [ok(NAME, f"none of {compared} matrices of the checkpoint differs from its base", 0.0)]
    found = _offset(firsts, lasts)
    if found is not None:
        return [_fault(case, *found, size=median(sizes))]
    if median(sizes) >= _DRAWN_AGAIN and median(symmetries) >= SYMMETRIC:
        return [_drawn_again(case, median(symmetries), median(sizes))]
    return [_plain(median(sizes), median(concentrated))]


def _concentrated(change: Dense) -> float:
    """Return the share of ‖ΔW‖² in the first eighth of its singular triplets."""
    energy = change.svdvals() ** 2
    return float(energy[: max(1, len(energy) // 8)].sum() / energy.sum())


def _plain(size: float, concentrated: float) -> Check:
    says = f"the checkpoint differs from its base by {size:.2g}·‖W‖, but not by a singular block of the base"
    if size < _LARGE or concentrated < _LOW_RANK:
        return ok(NAME, says, size)
    says += "; the difference has low rank, and is larger than any RLVR update"
    action = "if a pissa_niter_N adapter was merged, loading it drew a new initialization: check the adapter, too"
    return Check(NAME, "note", fact("offset", says, size, _LARGE), action)


def _names(base: TensorStore, store: FullWeights) -> tuple[str, ...]:
    """Return the matrices to compare: an affordable set, preferably of matrices that training changed."""
    known = {
        name: shape
        for name, shape in sorted(base.shapes.items())
        if len(shape) == 2
        and min(shape) <= _LARGEST
        and store.shapes.get(name) == shape
        and not any(table in module_name(name) for table in _TABLES)
    }
    chosen = afforded(known, _MATRICES, decompositions=2)  # of W and of ΔW
    if 2 * sum(_differs(name, base, store) for name in chosen) >= len(chosen):
        return chosen
    # Few matrices train: select those; zero differences tell nothing.
    moved = {name: shape for name, shape in known.items() if _differs(name, base, store)}
    return afforded(moved, _MATRICES, decompositions=2) if moved else chosen


def _differs(name: str, base: TensorStore, store: FullWeights) -> bool:
    return not torch.equal(store[name].double(), base[name].double())


def _offset(firsts: list[Block], lasts: list[Block]) -> tuple[Block, bool] | None:
    """Return the block, and whether it was added or is missing."""
    for blocks in (lasts, firsts):
        for added in (True, False):
            found = agreed(blocks, 1.0 if added else -1.0)
            if found is not None:
                return found, added
    return None


def _fault(case: Case, found: Block, added: bool, size: float) -> Check:
    what = "contains twice" if added else "lacks"
    how = "a PiSSA or MiLoRA adapter was merged on the pristine base" if added else "it is a residual base"
    says = (
        f"the checkpoint {what} the {found.end} {found.rank} singular directions of its base (cosine "
        f"{found.cosine:.2f}, {size:.3g}·‖W‖): {how}"
    )
    action = "merge the adapter on W − s·B₀A₀" if added else "load its adapter on it"
    where = "" if case.snapshot is None else str(case.snapshot.path)
    return Check(
        NAME, "fault", fact("offset", says, found.slope, 1.0 if added else -1.0, 0.0), action, "wrong_base", where
    )


def _drawn_again(case: Case, share: float, size: float) -> Check:
    says = (
        f"the checkpoint differs from its base by {size:.2g}·‖W‖, by W times a symmetric matrix (symmetric "
        f"fraction {share:.2f}, chance 0.5), as if a randomized SVD was drawn again: a pissa_niter_N adapter was "
        "merged on a different initialization"
    )
    action = "merge the adapter on its own initialization: W − s·B₀A₀ with A₀ and B₀ of its step-0 adapter"
    where = "" if case.snapshot is None else str(case.snapshot.path)
    return Check(NAME, "fault", fact("offset", says, share, SYMMETRIC, 0.5), action, "wrong_base", where)
