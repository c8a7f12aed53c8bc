"""``spectra export``: a snapshot as a plain LoRA adapter for the original base model, or as a full model."""

from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.runs.directory import RunDirectory
    from spectra.runs.snapshots import Snapshot
    from spectra.weights.export.lora import Exported, Target


def export(
    run: Path,
    out: Path,
    *,
    step: int | None = None,
    rank: int | None = None,
    energy: float | None = None,
    base: str | None = None,
    initial: Path | None = None,
) -> "Exported":
    """Write a snapshot as a plain LoRA adapter that peft loads on the original base model.

    Parameters
    ----------
    run
        A run directory, an adapter, or a full checkpoint.
    out
        Output directory; must be new or empty.
    step
        Step of the snapshot; None is the last.
    rank
        Maximum rank per matrix; None keeps all of ΔW.
    energy
        Keep the smallest rank that holds this fraction of ‖ΔW‖²_F, in (0, 1].
    base
        Base model to use and to name in the adapter, instead of the one that the run names.
    initial
        Step-0 adapter or residual base of a method whose initialization changes the base, if the run does not
        contain it.

    Raises
    ------
    UsageError
        If there is no such step, or rank or energy is out of range.
    SpectraError
        If the run, its base or its update cannot be read exactly, or does not fit a plain LoRA.
    """
    from spectra.runs.directory import open_run
    from spectra.weights.export.lora import Truncation, export_lora
    from spectra.weights.initialization.find import find_start
    from spectra.weights.storage.base import find_base
    from spectra.weights.storage.tensors import TensorStore
    from spectra.weights.updates import open_updates

    _check(rank, energy)
    opened = open_run(run)
    snapshot = _snapshot(opened, step)
    directory = find_base(run, opened.base_name, opened.base_revision, base)
    store = TensorStore.open_model(directory)
    updates = open_updates(snapshot, store, find_start(snapshot, opened, store, initial))
    target = _target(opened, base, directory)
    return export_lora(updates, store, out, step=snapshot.step, target=target, truncation=Truncation(rank, energy))


def export_model(
    run: Path, out: Path, *, step: int | None = None, base: str | None = None, initial: Path | None = None
) -> Path:
    """Write a snapshot as a full float32 model that transformers loads; parameters as in :func:`export`."""
    import torch

    from spectra.runs.directory import open_run
    from spectra.weights.export import model as whole
    from spectra.weights.initialization.find import find_start
    from spectra.weights.storage.base import find_base
    from spectra.weights.storage.tensors import TensorStore
    from spectra.weights.updates import open_updates

    opened = open_run(run)
    snapshot = _snapshot(opened, step)
    directory = find_base(run, opened.base_name, opened.base_revision, base)
    store = TensorStore.open_model(directory)
    updates = open_updates(snapshot, store, find_start(snapshot, opened, store, initial))
    return whole.export_model(updates, store, directory, out, torch.float32)


def _check(rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise UsageError("--rank and --energy cannot be combined", hint="pass one of them")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank must be at least 1, got {rank}", hint="pass a larger rank")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"--energy must be in (0, 1], got {energy}", hint="pass a fraction such as 0.99")


def _snapshot(opened: "RunDirectory", step: int | None) -> "Snapshot":
    found = {snapshot.step: snapshot for snapshot in opened.snapshots}
    wanted = opened.snapshots[-1].step if step is None else step
    if wanted not in found:
        raise UsageError(f"there is no snapshot of step {wanted}", where=opened.path, hint=f"steps: {sorted(found)}")
    return found[wanted]


def _target(opened: "RunDirectory", given: str | None, directory: Path) -> "Target":
    from spectra.runs.atomic import read_json
    from spectra.runs.layout import MODEL_CONFIG
    from spectra.weights.export.lora import Target

    name = given or opened.base_name or ""
    if directory in (opened.path / name, opened.path.parent / name):  # peft looks from the working directory alone
        name = str(directory)
    tied = bool(read_json(directory / MODEL_CONFIG).get("tie_word_embeddings"))
    return Target(name, None if given else opened.base_revision, tied)
