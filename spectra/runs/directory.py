"""Recognise a run directory, ours or another tool's, and say what was found.

Nothing here reads a tensor. The reader names what it recognised; where it cannot, what it looked for and what would
mend it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from spectra.errors import CorruptFileError, RunNotFoundError
from spectra.runs.atomic import read_json
from spectra.runs.layout import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    TRAINER_STATE,
    AnalysisLayout,
    RunLayout,
    parse_checkpoint,
    parse_step,
)
from spectra.runs.manifest import Manifest
from spectra.runs.series import read_metrics, read_trainer_state

Layout = Literal["spectra", "trainer", "adapter", "checkpoint"]
SnapshotKind = Literal["adapter", "full"]

LAYOUTS: Mapping[Layout, str] = {
    "spectra": "spectra run",
    "trainer": "HF Trainer or TRL run",
    "adapter": "one PEFT adapter",
    "checkpoint": "one full checkpoint",
}
if set(LAYOUTS) != set(get_args(Layout)):  # a new layout needs its words
    raise AssertionError("every layout has a description")


@dataclass(frozen=True)
class Snapshot:
    """A saved state of the weights.

    Attributes
    ----------
    step
        Optimizer step.
    path
        Directory that holds it.
    kind
        ``adapter`` for a PEFT adapter, ``full`` for whole weights.
    """

    step: int
    path: Path
    kind: SnapshotKind


@dataclass(frozen=True)
class RunDirectory:
    """What a directory holds, as recognised.

    Attributes
    ----------
    path
        The directory.
    layout
        Which tool's layout it is.
    snapshots
        By step, ascending; at least one.
    ignored
        Snapshot-like directories that are not complete, with the reason.
    base_name, base_revision
        The base model as the run names it; None where it does not.
    manifest
        Our own runs' manifest.
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
        """Where analysis goes unless told otherwise."""
        return RunLayout(self.path).analysis

    @property
    def initial(self) -> Path | None:
        """The step-0 snapshot, which methods that move the base cannot do without.

        A single adapter or checkpoint is nobody's start, whatever step it is given.
        """
        if self.layout in ("adapter", "checkpoint"):
            return None
        return next((s.path for s in self.snapshots if s.step == 0), None)

    def describe(self) -> str:
        """Return one line for people: layout, snapshots, steps."""
        steps = [s.step for s in self.snapshots]
        span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"
        return f"{LAYOUTS[self.layout]}, {len(steps)} snapshot{'s' * (len(steps) > 1)}, {span}"

    def series(self) -> pd.DataFrame:
        """Return the training curves, one row a logged step; only ``step`` where nothing was logged."""
        if self.layout == "spectra":
            return read_metrics(RunLayout(self.path).metrics)
        # The newest trainer state holds the whole history.
        states = [s.path / TRAINER_STATE for s in reversed(self.snapshots)] + [self.path / TRAINER_STATE]
        found = next((state for state in states if state.exists()), None)
        return pd.DataFrame({"step": pd.Series(dtype="int64")}) if found is None else read_trainer_state(found)


def open_run(path: Path) -> RunDirectory:
    """Recognise a run directory.

    Raises
    ------
    RunNotFoundError
        If the path does not exist, or holds no snapshot of a known layout.
    CorruptFileError
        If a file that describes the run is broken.
    """
    if not path.is_dir():
        raise RunNotFoundError("no such directory", where=path, cure="give the directory of a run")
    if RunLayout(path).manifest.exists():
        return _open_own(path)
    found, ignored = _collect(path, parse_checkpoint)
    if found:
        base_name, revision = _adapter_base(found[-1])
        return RunDirectory(path, "trainer", found, ignored, base_name, revision)
    return _open_single(path, ignored)


def snapshot_kind(path: Path) -> SnapshotKind | None:
    """Return what a snapshot directory holds, or None. An adapter wins: merged weights beside it are rounded."""
    if (path / ADAPTER_CONFIG).exists() and any((path / name).exists() for name in (ADAPTER_WEIGHTS, ADAPTER_PICKLE)):
        return "adapter"
    if (path / MODEL_CONFIG).exists() and any((path / name).exists() for name in (MODEL_WEIGHTS, MODEL_INDEX)):
        return "full"
    return None


def adapter_config(snapshot: Snapshot) -> dict[str, Any]:
    """Return the adapter's configuration."""
    return read_json(snapshot.path / ADAPTER_CONFIG)


def _open_own(path: Path) -> RunDirectory:
    layout = RunLayout(path)
    manifest = Manifest.read(layout.manifest)
    found, ignored = _collect(layout.snapshots, parse_step)
    if not found:
        raise RunNotFoundError(
            "is a spectra run without snapshots", where=path, cure="let `spectra train` reach its first snapshot"
        )
    return RunDirectory(path, "spectra", found, ignored, manifest.base.name, manifest.base.revision, manifest)


def _open_single(path: Path, ignored: Mapping[str, str]) -> RunDirectory:
    kind = snapshot_kind(path)
    if kind is None:
        looked = f"manifest.json, checkpoint-N/, {ADAPTER_CONFIG} with {ADAPTER_WEIGHTS}, {MODEL_CONFIG} with weights"
        incomplete = "".join(f" ({name}: {reason})" for name, reason in list(ignored.items())[:1])
        raise RunNotFoundError(
            f"no run recognised: looked for {looked}{incomplete}",
            where=path,
            cure="give a run directory, an adapter, or a full checkpoint with --base",
        )
    single = Snapshot(_trainer_step(path), path, kind)
    base_name, revision = _adapter_base(single)
    return RunDirectory(path, "adapter" if kind == "adapter" else "checkpoint", (single,), ignored, base_name, revision)


def _collect(parent: Path, parse: Any) -> tuple[tuple[Snapshot, ...], dict[str, str]]:
    """Return complete snapshots under ``parent`` sorted by step as a number, and the incomplete ones."""
    found: list[Snapshot] = []
    ignored: dict[str, str] = {}
    for child in sorted(parent.iterdir()) if parent.is_dir() else []:
        step = parse(child.name)
        if step is None or not child.is_dir():
            continue
        kind = snapshot_kind(child)
        if kind is None:
            ignored[child.name] = "holds neither an adapter nor model weights"
        else:
            found.append(Snapshot(step, child, kind))
    return tuple(sorted(found, key=lambda s: s.step)), ignored


def _adapter_base(snapshot: Snapshot) -> tuple[str | None, str | None]:
    if snapshot.kind == "full":
        return None, None
    config = adapter_config(snapshot)
    return config.get("base_model_name_or_path") or None, config.get("revision") or None


def _trainer_step(path: Path) -> int:
    named = parse_checkpoint(path.name) or parse_step(path.name)
    if named is not None:
        return named
    state = path / TRAINER_STATE
    if not state.exists():
        return 0
    step = read_json(state).get("global_step")
    if not isinstance(step, int):
        raise CorruptFileError("has no global_step", where=state, cure="restore the file")
    return step
