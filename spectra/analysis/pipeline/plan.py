"""Plan of an analysis: the base, the modules at each snapshot, and what is skipped and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from spectra.analysis.pipeline.basis_cache import ALGORITHM
from spectra.analysis.pipeline.digests import FileDigests, content_key
from spectra.analysis.pipeline.tasks import ModuleTask
from spectra.analysis.tables.matrix import Work
from spectra.analysis.tables.spectral import BINS, FRACTIONS
from spectra.errors import CorruptFileError
from spectra.runs.directory import RunDirectory, Snapshot
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS
from spectra.weights.initialization.find import find_start
from spectra.weights.readers.offset import Start
from spectra.weights.storage.base import find_base
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, open_updates, parameter_name

# Raise it when a value in the tables changes its meaning or its result.
VERSION = "3"


@dataclass(frozen=True)
class Plan:
    """The work of one analysis.

    Attributes
    ----------
    run
        The run as recognized.
    base
        Directory of the base model.
    modules
        For each step, the modules that its snapshot changes.
    matrices
        The modules that are matrices; the rest are vectors.
    skipped
        Modules that are not analyzed, with the reason.
    method
        The run's method.
    start
        What the initialization subtracted from the base, for methods that do so.
    trainable_parameters, total_parameters
        Number of trainable parameters, and of parameters in the base.
    sizes
        Number of entries of each matrix.
    """

    run: RunDirectory
    base: Path
    modules: Mapping[int, frozenset[str]]
    matrices: frozenset[str]
    skipped: Mapping[str, str]
    method: str
    start: Start | None
    trainable_parameters: int
    total_parameters: int
    sizes: Mapping[str, int]

    @property
    def pairs(self) -> set[tuple[int, str]]:
        """Every (step, module) pair that the tables must contain."""
        return {(step, module) for step, modules in self.modules.items() for module in modules}

    def matrix_pairs(self, steps: Iterable[int]) -> set[tuple[int, str]]:
        """Return every (step, matrix) pair of some steps."""
        return {(step, module) for step in steps for module in self.modules[step] & self.matrices}

    def tasks(self, work: Mapping[str, Work], cache: Path | None, device: str) -> list[ModuleTask]:
        """Return one task per module with missing work."""
        store = TensorStore.open_model(self.base)
        return [self._task(module, wanted, store, cache, device) for module, wanted in sorted(work.items()) if wanted]

    def _task(self, module: str, work: Work, store: TensorStore, cache: Path | None, device: str) -> ModuleTask:
        parameter = parameter_name(module, store.files) or module
        manifest = self.run.manifest
        return ModuleTask(
            module=module,
            base=self.base,
            snapshots=tuple(s for s in self.run.snapshots if module in self.modules[s.step]),
            work=work,
            start=self.start,
            method=self.method,
            expected_digest=None if manifest is None else manifest.base.fingerprints.get(parameter),
            cache=cache,
            device=device,
            size=prod(store.shapes[parameter]),
        )


def make_plan(run: RunDirectory, base: str | None, initial: Path | None = None) -> Plan:
    """Plan the analysis of a run. Reads headers only.

    Parameters
    ----------
    run
        The run as recognized.
    base
        Base model passed by the user; None uses the one that the run names.
    initial
        Step-0 adapter or residual base passed by the user, for methods whose initialization changes the base; None
        searches for it.

    Raises
    ------
    BaseModelError
        If no base is known, or nothing in the run matches it.
    """
    base_dir = find_base(run.path, run.base_name, run.base_revision, base)
    store = TensorStore.open_model(base_dir)
    start = find_start(_newest_readable(run), run, store, initial)
    run, opened = _open_all(run, store, start)
    last = opened[run.snapshots[-1].step]
    matrices = frozenset(module for updates in opened.values() for module in updates.matrices)
    return Plan(
        run=run,
        base=base_dir,
        modules={step: frozenset(updates.matrices) | frozenset(updates.vectors) for step, updates in opened.items()},
        matrices=matrices,
        skipped={module: why for updates in opened.values() for module, why in updates.skipped.items()},
        start=start,
        method=last.method if run.manifest is None else run.manifest.method,
        trainable_parameters=last.size if run.manifest is None else sum(map(prod, run.manifest.trainable.values())),
        total_parameters=sum(map(prod, store.shapes.values())),
        sizes={module: prod(store.shapes[parameter_name(module, store.files) or module]) for module in matrices},
    )


def _newest_readable(run: RunDirectory) -> Snapshot:
    """Return the newest snapshot, or the one before if the newest is still being written."""
    newest = run.snapshots[-1]
    if len(run.snapshots) > 1 and newest.kind == "adapter" and (newest.path / ADAPTER_WEIGHTS).exists():
        try:
            TensorStore.open_file(newest.path / ADAPTER_WEIGHTS)
        except CorruptFileError:
            return run.snapshots[-2]
    return newest


def _open_all(run: RunDirectory, store: TensorStore, start: Start | None) -> tuple[RunDirectory, dict[int, Updates]]:
    """Open every snapshot; an unreadable newest one is skipped with the reason: it may be half-written."""
    opened: dict[int, Updates] = {}
    for snapshot in run.snapshots:
        try:
            opened[snapshot.step] = open_updates(snapshot, store, start)
        except CorruptFileError as error:
            if snapshot is not run.snapshots[-1] or not opened:
                raise
            ignored = {**run.ignored, snapshot.path.name: f"{error.what}; still being written?"}
            return replace(run, snapshots=run.snapshots[:-1], ignored=ignored), opened
    return run, opened


def content_keys(plan: Plan, digests: FileDigests) -> dict[int, str]:
    """Return, for each step, the key of what its rows depend on: weights, base, initialization and settings."""
    base = [digests.of(path) for path in sorted(set(TensorStore.open_model(plan.base).files.values()))]
    start = [] if plan.start is None else [plan.start.origin, *map(digests.of, plan.start.files)]
    settings = [VERSION, ALGORITHM, str(FRACTIONS), str(BINS), *base, *start]
    return {s.step: content_key(*settings, *_contents(s.path, digests)) for s in plan.run.snapshots}


def _contents(directory: Path, digests: FileDigests) -> list[str]:
    config = directory / ADAPTER_CONFIG
    weights = sorted([*directory.glob("*.safetensors"), *directory.glob(ADAPTER_PICKLE)])
    return [digests.of(path) for path in [*([config] if config.exists() else []), *weights]]
