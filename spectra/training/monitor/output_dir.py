"""Create or resume a spectra run inside a third-party trainer's output directory."""

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


def create_run(layout: RunLayout, manifest: Manifest, *, overwrite: bool = False) -> None:
    """Create a run; files of the trainer, such as its checkpoints, are not changed.

    Parameters
    ----------
    layout
        The run.
    manifest
        Manifest of the run, written last.
    overwrite
        Delete an existing spectra run: snapshots, log, evaluations and analysis.

    Raises
    ------
    RunExistsError
        If there is a run (unless ``overwrite``), or files of the same names that are not from spectra (always).
    """
    _refuse_foreign(layout)
    if layout.manifest.exists():
        if not overwrite:
            hint = "choose another output_dir, resume that run, or delete it with SpectraCallback(overwrite=True)"
            fault = f"already holds a run, with {len(_snapshots(layout))} snapshots"
            raise RunExistsError(fault, where=layout.root, hint=hint)
        _clear(layout)
    manifest.write(layout.manifest)


def resume_run(layout: RunLayout, manifest: Manifest, step: int) -> None:
    """Truncate a run to the step from which the trainer resumes; create it if there is none.

    Parameters
    ----------
    layout
        The run.
    manifest
        Manifest of the resumed run.
    step
        Optimizer steps completed. Later snapshots and log records are removed; the resumed run writes them again.

    Raises
    ------
    RunExistsError
        If there is another run, or files of the same names that are not from spectra.
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


def append_atomically(path: Path, record: Mapping[str, float | int]) -> None:
    """Append a record to the log, or leave the log unchanged: a partial line would corrupt the next one.

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
    """Refuse a directory with foreign files of the same names, or a run of ``spectra train``."""
    fault = None
    if layout.recipe.exists():
        fault = "holds a run of `spectra train`"
    elif layout.manifest.exists():
        fault = None if "schema_version" in read_json(layout.manifest) else "holds a manifest.json of another program"
    elif found := [path for path in (layout.metrics, *_snapshots(layout).values()) if path.exists()]:
        fault = f"holds {found[0].relative_to(layout.root)}, but no manifest.json of spectra"
    if fault is not None:
        raise RunExistsError(fault, where=layout.root, hint="choose another directory: SpectraCallback(out=DIR)")


def _require_same(layout: RunLayout, manifest: Manifest) -> None:
    there = Manifest.read(layout.manifest)
    pairs = {
        "method": (there.method, manifest.method),
        "base": (there.base.fingerprints, manifest.base.fingerprints),
        "set of trainable weights": (there.trainable, manifest.trainable),
    }
    changed = next((name for name, (then, today) in pairs.items() if then != today), None)
    if changed is not None:
        hint = "resume in the directory of that run, or choose another: SpectraCallback(out=DIR)"
        raise RunExistsError(f"holds a run with a different {changed}", where=layout.root, hint=hint)


def _clear(layout: RunLayout) -> None:
    """Remove the files of a run; the manifest last, so that a partly removed run is still recognized."""
    for directory in (*_snapshots(layout).values(), layout.evaluations, layout.analysis.root):
        if directory.exists():
            shutil.rmtree(directory)
    sweep(layout.snapshots)
    layout.metrics.unlink(missing_ok=True)
    layout.manifest.unlink()


def _snapshots(layout: RunLayout) -> dict[int, Path]:
    children = sorted(layout.snapshots.iterdir()) if layout.snapshots.is_dir() else []
    return {step: child for child in children if (step := parse_step(child.name)) is not None}
