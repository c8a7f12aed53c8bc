"""Recognize the layout of a run directory, ours or another tool's, and list its snapshots.

Nothing here reads a tensor. If no layout is recognized, the error names what was searched for and how to fix it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import yaml

from spectra.errors import CorruptFileError, RunNotFoundError
from spectra.runs.atomic import read_json
from spectra.runs.foreign import check_scale, find_openrlhf, find_verl, find_verl_step, read_verl_series
from spectra.runs.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    TRAINER_STATE,
    AnalysisLayout,
    RunLayout,
    parse_checkpoint,
    parse_step,
)
from spectra.runs.manifest import Manifest
from spectra.runs.series import read_metrics, read_trainer_state
from spectra.runs.snapshots import (
    NO_WEIGHTS,
    SnapshotSearch,
    adapter_base,
    collect,
    snapshot_kind,
    why_unreadable,
)
from spectra.runs.snapshots import Snapshot as Snapshot
from spectra.runs.snapshots import SnapshotKind as SnapshotKind

Layout = Literal["spectra", "trainer", "verl", "openrlhf", "adapter", "checkpoint"]

LAYOUTS: Mapping[Layout, str] = {
    "spectra": "spectra run",
    "trainer": "HF Trainer or TRL run",
    "verl": "verl run",
    "openrlhf": "OpenRLHF run",
    "adapter": "one PEFT adapter",
    "checkpoint": "one full checkpoint",
}
if set(LAYOUTS) != set(get_args(Layout)):  # a new layout needs a description
    raise AssertionError("every layout has a description")


@dataclass(frozen=True)
class RunDirectory:
    """Contents of a recognized run directory.

    Attributes
    ----------
    path
        The directory.
    layout
        Layout of the tool that wrote it.
    snapshots
        By step, ascending; at least one.
    ignored
        Directories that look like snapshots but are incomplete, with the reason.
    base_name, base_revision
        The base model that the run names; None if it names none.
    manifest
        Manifest of a spectra run; None for other layouts.
    """

    path: Path
    layout: Layout
    snapshots: tuple[Snapshot, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    base_name: str | None = None
    base_revision: str | None = None
    manifest: Manifest | None = None

    @property
    def analysis(self) -> AnalysisLayout:
        """Default paths of the analysis."""
        return RunLayout(self.path).analysis

    @property
    def initial(self) -> Path | None:
        """The step-0 snapshot, which methods that move the base need.

        None for a single adapter or checkpoint, which is not the initialization of a run, whatever its step number.
        """
        if self.layout in ("adapter", "checkpoint"):
            return None
        return next((s.path for s in self.snapshots if s.step == 0), None)

    def describe(self) -> str:
        """Return a one-line description: layout, snapshots, steps."""
        steps = [s.step for s in self.snapshots]
        span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"
        return f"{LAYOUTS[self.layout]}, {len(steps)} snapshot{'s' * (len(steps) > 1)}, {span}"

    def recipe(self) -> dict[str, Any]:
        """Return the result of :func:`read_recipe`."""
        return read_recipe(self.path)

    def series(self) -> pd.DataFrame:
        """Return the training curves, one row per logged step; only the column ``step`` if nothing was logged."""
        if self.layout == "spectra":
            return read_metrics(RunLayout(self.path).metrics)
        if self.layout == "verl":
            return read_verl_series(self.path)
        # The newest trainer state holds the full history.
        states = [s.path / TRAINER_STATE for s in reversed(self.snapshots)] + [self.path / TRAINER_STATE]
        found = [state for state in states if state.exists()]
        for number, state in enumerate(found, start=1):
            try:
                return read_trainer_state(state)
            except CorruptFileError:  # the newest may be half-written; the previous one lacks only its last steps
                if number == len(found):
                    raise
        return pd.DataFrame({"step": pd.Series(dtype="int64")})


def read_recipe(run: Path) -> dict[str, Any]:
    """Return the recipe of a spectra run as plain values; empty if it is missing or unreadable."""
    return read_mapping(RunLayout(run).recipe)


def read_mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file; empty if the file is missing or unreadable."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def open_run(path: Path) -> RunDirectory:
    """Recognize and open a run directory.

    Raises
    ------
    RunNotFoundError
        If the path does not exist, or holds no snapshot of a known layout.
    CorruptFileError
        If a file that describes the run is broken.
    """
    if not path.is_dir():
        raise RunNotFoundError("no such directory", where=path, hint="give the directory of a run")
    run = _open_own(path) if _is_own(path) else _open_foreign(path)
    for snapshot in run.snapshots:
        if snapshot.kind == "adapter":
            check_scale(snapshot)
    return run


def _is_own(path: Path) -> bool:
    manifest = RunLayout(path).manifest
    # Other tools write a manifest.json too; ours, even a broken one, has schema_version in it or snapshots/ next to it.
    return manifest.exists() and (RunLayout(path).snapshots.is_dir() or "schema_version" in read_json(manifest))


def _open_own(path: Path) -> RunDirectory:
    layout = RunLayout(path)
    manifest = Manifest.read(layout.manifest)
    found = collect(layout.snapshots.iterdir() if layout.snapshots.is_dir() else (), parse_step)
    if not found.snapshots:
        raise RunNotFoundError(
            "is a spectra run without snapshots", where=path, hint="let `spectra train` reach its first snapshot"
        )
    base = manifest.base
    return RunDirectory(path, "spectra", found.snapshots, found.ignored or {}, base.name, base.revision, manifest)


def _open_foreign(path: Path) -> RunDirectory:
    ignored: dict[str, str] = {}
    for layout, find in _SEARCHES.items():
        found = find(path)
        if found.snapshots:
            name, revision = adapter_base(found.snapshots[-1])
            return RunDirectory(path, layout, found.snapshots, found.ignored or {}, name or found.base_name, revision)
        ignored |= found.ignored or {}
    return _open_single(path, ignored)


def _find_trainer(path: Path) -> SnapshotSearch:
    return collect(path.iterdir(), parse_checkpoint)


_SEARCHES: Mapping[Layout, Callable[[Path], SnapshotSearch]] = {
    "trainer": _find_trainer,
    "verl": find_verl,
    "openrlhf": find_openrlhf,
}


def _open_single(path: Path, ignored: Mapping[str, str]) -> RunDirectory:
    verl = find_verl_step(path)
    kind = snapshot_kind(path)
    if verl.snapshots:
        single = verl.snapshots[0]
    elif kind is not None:
        single = Snapshot(_trainer_step(path), path, kind)
    else:
        raise _not_recognized(path, {**ignored, **(verl.ignored or {})})
    name, revision = adapter_base(single)
    layout: Layout = "adapter" if single.kind == "adapter" else "checkpoint"
    return RunDirectory(path, layout, (single,), ignored, name or verl.base_name, revision)


def _not_recognized(path: Path, ignored: Mapping[str, str]) -> RunNotFoundError:
    why = why_unreadable(path)
    if why != NO_WEIGHTS:
        what, hint = _what_and_hint(why)
        return RunNotFoundError(what, where=path, hint=hint)
    for name, why in ignored.items():
        if why != NO_WEIGHTS:
            what, hint = _what_and_hint(why)
            return RunNotFoundError(f"no snapshot can be read: {name} {what}", where=path, hint=hint)
    searched = (
        f"manifest.json, checkpoint-N/, global_step_N/ (verl), global_stepN_hf/ (OpenRLHF), {ADAPTER_CONFIG} with "
        f"{ADAPTER_WEIGHTS}, {MODEL_CONFIG} with weights"
    )
    incomplete = "".join(f" ({name}: {why})" for name, why in list(ignored.items())[:1])
    return RunNotFoundError(
        f"no run recognized: searched for {searched}{incomplete}",
        where=path,
        hint="give a run directory, an adapter, or a full checkpoint with --base",
    )


def _what_and_hint(why: str) -> tuple[str, str | None]:
    what, _, hint = why.partition("; ")
    return what, hint or None


def _trainer_step(path: Path) -> int:
    named = parse_checkpoint(path.name) or parse_step(path.name)
    if named is not None:
        return named
    state = path / TRAINER_STATE
    if not state.exists():
        return 0
    step = read_json(state).get("global_step")
    if not isinstance(step, int):
        raise CorruptFileError("has no global_step", where=state, hint="restore the file")
    return step
