"""The run in the output directory of somebody's trainer: begun, gone on with, or refused before anything is lost."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from spectra.errors import RunExistsError
from spectra.runs.atomic import read_json, sweep
from spectra.runs.layout import RunLayout, parse_step
from spectra.runs.manifest import Manifest
from spectra.runs.series import append_metrics, truncate_metrics


def begin(layout: RunLayout, manifest: Manifest, *, overwrite: bool = False) -> None:
    """Begin a run where none is; what the trainer keeps there, such as its checkpoints, is left alone.

    Parameters
    ----------
    layout
        The run.
    manifest
        What it is, written last.
    overwrite
        Remove what a run of ours left there: snapshots, log, evaluations and analysis.

    Raises
    ------
    RunExistsError
        If a run is there (unless ``overwrite``), or files of the same names that are no run's of ours (always).
    """
    _refuse_foreign(layout)
    if layout.manifest.exists():
        if not overwrite:
            hint = "choose another output_dir, resume that run, or remove it by SpectraCallback(overwrite=True)"
            fault = f"holds a run already, with {len(_snapshots(layout))} snapshots"
            raise RunExistsError(fault, where=layout.root, hint=hint)
        _clear(layout)
    manifest.write(layout.manifest)


def go_on(layout: RunLayout, manifest: Manifest, step: int) -> None:
    """Take a run back to the step that the trainer goes on from; one that has no record yet begins there.

    Parameters
    ----------
    layout
        The run.
    manifest
        What goes on.
    step
        Optimizer steps done. Snapshots and log records after it are removed: the resumed run makes those again.

    Raises
    ------
    RunExistsError
        If another run is there, or files of the same names that are no run's of ours.
    """
    _refuse_foreign(layout)
    if not layout.manifest.exists():
        manifest.write(layout.manifest)
        return
    _require_same(layout, manifest)
    for number, directory in _snapshots(layout).items():
        if number > step:
            shutil.rmtree(directory)
    sweep(layout.snapshots)
    truncate_metrics(layout.metrics, step)


def append_whole(path: Path, record: Mapping[str, float | int]) -> None:
    """Append a record to the log, or leave the log as it was: half a line would spoil the next one.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        append_metrics(path, record)
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def _refuse_foreign(layout: RunLayout) -> None:
    """Refuse a directory in which our names are somebody else's, or a run of ``spectra train``."""
    fault = None
    if layout.recipe.exists():
        fault = "holds a run of `spectra train`"
    elif layout.manifest.exists():
        fault = None if "schema_version" in read_json(layout.manifest) else "holds a manifest.json of something else"
    elif found := [path for path in (layout.metrics, *_snapshots(layout).values()) if path.exists()]:
        fault = f"holds {found[0].relative_to(layout.root)}, and no manifest.json that says whose it is"
    if fault is not None:
        raise RunExistsError(fault, where=layout.root, hint="choose another directory: SpectraCallback(out=DIR)")


def _require_same(layout: RunLayout, manifest: Manifest) -> None:
    there = Manifest.read(layout.manifest)
    pairs = {
        "method": (there.method, manifest.method),
        "base": (there.base.fingerprints, manifest.base.fingerprints),
        "set of weights that train": (there.trainable, manifest.trainable),
    }
    changed = next((name for name, (then, today) in pairs.items() if then != today), None)
    if changed is not None:
        hint = "resume in that run's own directory, or give another: SpectraCallback(out=DIR)"
        raise RunExistsError(f"holds a run with another {changed}", where=layout.root, hint=hint)


def _clear(layout: RunLayout) -> None:
    """Remove what was written of a run; the manifest goes last, so that a half-cleared run is still known as one."""
    for directory in (*_snapshots(layout).values(), layout.evaluations, layout.analysis.root):
        if directory.exists():
            shutil.rmtree(directory)
    sweep(layout.snapshots)
    layout.metrics.unlink(missing_ok=True)
    layout.manifest.unlink()


def _snapshots(layout: RunLayout) -> dict[int, Path]:
    children = sorted(layout.snapshots.iterdir()) if layout.snapshots.is_dir() else []
    return {step: child for child in children if (step := parse_step(child.name)) is not None}
