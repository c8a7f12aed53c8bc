"""``spectra export``: a snapshot as a plain LoRA adapter for the original base model, or as a full model."""

from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.weights.export.lora import Exported, Target
    from spectra.weights.opened_run import OpenedRun


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
    from spectra.weights.export.lora import Truncation, export_lora
    from spectra.weights.opened_run import OpenedRun

    _check(rank, energy)
    opened = OpenedRun.open(run, base, initial)
    return export_lora(
        opened.updates(step),
        opened.base,
        out,
        step=opened.snapshot(step).step,
        target=_target(opened),
        truncation=Truncation(rank, energy),
    )


def export_model(
    run: Path, out: Path, *, step: int | None = None, base: str | None = None, initial: Path | None = None
) -> Path:
    """Write a snapshot as a full float32 model that transformers loads; parameters as in :func:`export`."""
    import torch

    from spectra.weights.export import model as whole
    from spectra.weights.opened_run import OpenedRun

    opened = OpenedRun.open(run, base, initial)
    return whole.export_model(opened.updates(step), opened.base, opened.base_dir, out, torch.float32)


def _check(rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise UsageError("--rank and --energy cannot be combined", hint="pass one of them")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank must be at least 1, got {rank}", hint="pass a larger rank")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"--energy must be in (0, 1], got {energy}", hint="pass a fraction such as 0.99")


def _target(opened: "OpenedRun") -> "Target":
    from spectra.weights.export.lora import Target

    path, name = opened.run.path, opened.base_name or ""
    if opened.base_dir in (path / name, path.parent / name):  # peft looks from the working directory alone
        name = str(opened.base_dir)
    return Target(name, opened.base_revision, bool(opened.base.config.get("tie_word_embeddings")))
