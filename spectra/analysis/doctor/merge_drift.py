"""Whether merging and unmerging moved the frozen weights, and by how much relative to the update.

Measured if the run logged ``frozen_drift``; otherwise predicted, by repeating the merges of the run on a sample of
entries with the growing update.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.verdict.findings import Check
from spectra.errors import SpectraError
from spectra.linalg.measures.merge_drift import drift, simulate
from spectra.weights.updates import open_updates

NAME = "merge_drift"
# ‖drift‖/‖ΔW‖ above which the trained policy is not W + ΔW.
LIMIT = 0.1
# Number of entries per matrix on which merges are repeated; two such samples agree within a few percent.
_ENTRIES = 65_536
_CYCLES = 4096
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Columns (or prefixes) in the log of a trainer that sends the weights to a separate sampler each step.
_SAMPLER = ("sampler_mismatch", "sampling/")


@dataclass(frozen=True)
class Growth:
    """ΔW on a sample of entries at each snapshot.

    Attributes
    ----------
    steps
        Ascending; ΔW is 0 at step 0 unless that is among them.
    updates
        One tensor per step, in float32.
    """

    steps: tuple[int, ...]
    updates: tuple[Tensor, ...]

    def at(self, step: int) -> Tensor:
        """Return ΔW at a step, interpolated linearly between snapshots."""
        for low, high in zip(range(len(self.steps) - 1), range(1, len(self.steps)), strict=True):
            if self.steps[low] <= step <= self.steps[high]:
                part = (step - self.steps[low]) / (self.steps[high] - self.steps[low])
                return torch.lerp(self.updates[low], self.updates[high], part)
        return self.updates[-1]


def check(case: Case) -> list[Check]:
    """Report the measured drift, or predict it."""
    if case.snapshot is None or case.snapshot.kind == "full" or case.run is None:
        return []
    measured = case.series["frozen_drift"].dropna() if "frozen_drift" in case.series else None
    if measured is not None and len(measured):
        steps = case.series.loc[measured.index, "step"]
        return _measured(case, float(measured.iloc[-1]), _first_moved(measured.tolist(), steps.tolist()))
    return _predicted(case)


def _first_moved(values: list[float], steps: list[int]) -> int | None:
    return next((int(step) for value, step in zip(values, steps, strict=True) if value > 0), None)


def _measured(case: Case, value: float, first: int | None) -> list[Check]:
    if value == 0.0:
        return [ok(NAME, "the frozen weights are bit-identical to those at the start of training", 0.0, 0.0)]
    update = _relative_update(case)
    says = f"the frozen weights moved by {value:.3g} of their norm since step {first}"
    if update is None or not update > 0:
        return [Check(NAME, "note", fact("frozen_drift", says, value, None, 0.0, first), _HINT)]
    says += f", {value / update:.2g} times the update"
    fault = value > LIMIT * update
    evidence = fact("frozen_drift", says, value, LIMIT * update, 0.0, first)
    return [Check(NAME, "fault" if fault else "note", evidence, _HINT, "merge_drift" if fault else None)]


_HINT = "keep the base weights in float32 if they are merged and unmerged, or merge into a copy"


def _relative_update(case: Case) -> float | None:
    """Return ‖ΔW‖/‖W_0‖ over some matrices together, as for ``frozen_drift``; None if it cannot be read."""
    updates, frozen = 0.0, 0.0
    try:
        for module in case.sample if case.finite else ():
            weight = case.weight(module).double()
            updates += case.update(module).frobenius() ** 2
            frozen += float(torch.linalg.vector_norm(weight - _removed_by_initialization(case, module, weight))) ** 2
    except SpectraError:
        return None
    return math.sqrt(updates / frozen) if frozen > 0 else None


def _removed_by_initialization(case: Case, module: str, weight: Tensor) -> Tensor:
    """Return what the initialization subtracted from a base weight, 0 if nothing."""
    if case.start is None or case.adapter is None or "lora_A" not in case.adapter.parts.get(module, {}):
        return torch.zeros_like(weight)
    return case.start.removed(module, weight).dense()


def _predicted(case: Case) -> list[Check]:
    if case.changes is None or not case.sample or not case.finite or case.config.get("peft_type") != "LORA":
        return []
    if case.config.get("use_dora"):
        return [skipped(NAME, "peft merges DoRA by scaling rows; its drift is not predicted", _MEASURE)]
    dtype, source = _dtype(case)
    merges = any(str(column).startswith(_SAMPLER) for column in case.series)
    if dtype is None:
        return [ok(NAME, f"the weights are float32 ({source}): merging and unmerging changes them by 1e-7 at most")]
    cycles = min(max(case.snapshot.step if case.snapshot else 0, 1), _CYCLES)
    pairs = [pair for module in case.sample if (pair := predict(case, module, dtype, cycles)) is not None]
    if not pairs:
        return [skipped(NAME, "ΔW is zero in the sampled matrices: there is nothing to compare a drift with")]
    ratio = median(part for part, _ in pairs)
    says = (
        f"{cycles} merges and unmerges in {str(dtype).removeprefix('torch.')} ({source}) would leave "
        f"{median(whole for _, whole in pairs):.2g}·‖W‖ in the frozen weights, {ratio:.2g} times the update (predicted)"
    )
    if ratio <= LIMIT:
        return [ok(NAME, says, ratio, LIMIT)]
    known = merges and source == "the recipe"
    says += "" if merges else "; whether this trainer merges is unknown"
    action = f"{_HINT}; {_MEASURE}"
    evidence = fact("predicted_drift", says, ratio, LIMIT, 0.0)
    return [Check(NAME, "fault" if known else "note", evidence, action, "merge_drift" if known else None)]


_MEASURE = "compare the frozen weights of the trainer with the base model to be sure"


def _dtype(case: Case) -> tuple[torch.dtype | None, str]:
    """Return the half precision of the run's base weights, None for float32, and the source of that information."""
    model = case.recipe.get("model")
    name = model.get("dtype") if isinstance(model, dict) else None
    if isinstance(name, str):
        return _HALF.get(name), "the recipe"
    config = {} if case.base is None else case.base.config
    stored = str(config.get("dtype") or config.get("torch_dtype") or "")
    if not stored:
        stored = str(case.weight(case.sample[0]).dtype).removeprefix("torch.")
    return _HALF.get(stored), "as the base is stored"


def predict(case: Case, module: str, dtype: torch.dtype, cycles: int) -> tuple[float, float] | None:
    """Return ‖drift‖/‖ΔW‖ and ‖drift‖/‖W‖ of one matrix, estimated on some of its rows; None if ΔW or W is 0 there.

    Parameters
    ----------
    case
        An adapter of the LoRA family with its base.
    module
        The matrix.
    dtype
        Data type of the weights during training.
    cycles
        Number of merges, one per step.
    """
    weight = case.weight(module).double()
    rows = sample_rows(weight.shape[0], weight.shape[1])
    growth, frozen = _growth(case, module, weight, rows), weight[rows]
    size, update = float(frozen.norm()), float(torch.linalg.vector_norm(growth.updates[-1].double()))
    if not (size > 0 and update > 0):
        return None
    # The merge adds s·BA to W − s·B₀A₀.
    shift = _removed_by_initialization(case, module, weight)[rows]
    stored = (frozen - shift).to(dtype)
    moved: Callable[[int], Tensor] = lambda cycle: growth.at(cycle) + shift.float()  # noqa: E731
    after = simulate(stored, moved, dtype, [cycles])[cycles]
    norm = drift(stored, after).norm
    return norm / update, norm / size


def sample_rows(rows: int, columns: int) -> Tensor:
    """Return the indices of evenly spaced rows with about 65,000 entries in total."""
    count = min(rows, max(1, _ENTRIES // columns))
    return torch.arange(count) * rows // count


def _growth(case: Case, module: str, weight: Tensor, rows: Tensor) -> Growth:
    assert case.run is not None and case.base is not None
    steps, updates = [0], [torch.zeros(len(rows), weight.shape[1])]
    for snapshot in case.run.snapshots:
        if snapshot.kind == "adapter" and snapshot.step > 0:
            change = open_updates(snapshot, case.base, case.start).matrices[module](weight)
            steps.append(snapshot.step)
            updates.append(change.dense()[rows].float())
    if len(steps) == 1 and case.changes is not None:
        steps.append(1)
        updates.append(case.update(module).dense()[rows].float())
    return Growth(tuple(steps), tuple(updates))
