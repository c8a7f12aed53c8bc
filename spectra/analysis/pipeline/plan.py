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
from spectra.runs.directory import RunDirectory
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_PICKLE
from spectra.weights.opened_run import OpenedRun
from spectra.weights.updates import Updates

# Raise it when a value in the tables changes its meaning or its result.
VERSION = "3"


@dataclass(frozen=True)
class Plan:
    """The work of one analysis.

    Attributes
    ----------
    opened
        The run with its base and initialization.
    run
        The run as recognized, without a half-written newest snapshot.
    modules
        For each step, the modules that its snapshot changes.
    matrices
        The modules that are matrices; the rest are vectors.
    skipped
        Modules that are not analyzed, with the reason.
    method
        The run's method.
    trainable_parameters, total_parameters
        Number of trainable parameters, and of parameters in the base.
    sizes
        Number of entries of each matrix.
    """

    opened: OpenedRun
    run: RunDirectory
    modules: Mapping[int, frozenset[str]]
    matrices: frozenset[str]
    skipped: Mapping[str, str]
    method: str
    trainable_parameters: int
    total_parameters: int
    sizes: Mapping[str, int]

    @property
    def base(self) -> Path:
        """Directory of the base model."""
        return self.opened.base_dir

    @property
    def pairs(self) -> set[tuple[int, str]]:
        """Every (step, module) pair that the tables must contain."""
        return {(step, module) for step, modules in self.modules.items() for module in modules}

    def matrix_pairs(self, steps: Iterable[int]) -> set[tuple[int, str]]:
        """Return every (step, matrix) pair of some steps."""
        return {(step, module) for step in steps for module in self.modules[step] & self.matrices}

    def tasks(self, work: Mapping[str, Work]) -> list[ModuleTask]:
        """Return one task per module with missing work."""
        return [self._task(module, wanted) for module, wanted in sorted(work.items()) if wanted]

    def _task(self, module: str, work: Work) -> ModuleTask:
        parameter = self.opened.parameter(module)
        manifest = self.run.manifest
        return ModuleTask(
            module=module,
            steps=tuple(step for step in sorted(self.modules) if module in self.modules[step]),
            work=work,
            expected_digest=None if manifest is None else manifest.base.fingerprints.get(parameter),
            size=prod(self.opened.base.shapes[parameter]),
        )


def make_plan(opened: OpenedRun) -> Plan:
    """Plan the analysis of a run. Reads headers only.

    Raises
    ------
    BaseModelError
        If no base is known, or nothing in the run matches it.
    """
    run, updates = _open_all(opened)
    last, shapes = updates[run.snapshots[-1].step], opened.base.shapes
    matrices = frozenset(module for one in updates.values() for module in one.matrices)
    return Plan(
        opened=opened,
        run=run,
        modules={step: frozenset(one.matrices) | frozenset(one.vectors) for step, one in updates.items()},
        matrices=matrices,
        skipped={module: why for one in updates.values() for module, why in one.skipped.items()},
        method=last.method if run.manifest is None else run.manifest.method,
        trainable_parameters=last.num_parameters
        if run.manifest is None
        else sum(map(prod, run.manifest.trainable.values())),
        total_parameters=sum(map(prod, shapes.values())),
        sizes={module: prod(shapes[opened.parameter(module)]) for module in matrices},
    )


def _open_all(opened: OpenedRun) -> tuple[RunDirectory, dict[int, Updates]]:
    """Open every snapshot; an unreadable newest one is skipped with the reason: it may be half-written."""
    run, updates = opened.run, {}
    for snapshot in run.snapshots:
        try:
            updates[snapshot.step] = opened.updates(snapshot.step)
        except CorruptFileError as error:
            if snapshot is not run.snapshots[-1] or not updates:
                raise
            ignored = {**run.ignored, snapshot.path.name: f"{error.what}; still being written?"}
            return replace(run, snapshots=run.snapshots[:-1], ignored=ignored), updates
    return run, updates


def content_keys(plan: Plan, digests: FileDigests) -> dict[int, str]:
    """Return, for each step, the key of what its rows depend on: weights, base, initialization and settings."""
    base = [digests.of(path) for path in sorted(set(plan.opened.base.files.values()))]
    found = plan.opened.initialization
    start = [] if found is None else [found.origin, *map(digests.of, found.files)]
    settings = [VERSION, ALGORITHM, str(FRACTIONS), str(BINS), *base, *start]
    return {s.step: content_key(*settings, *_contents(s.path, digests)) for s in plan.run.snapshots}


def _contents(directory: Path, digests: FileDigests) -> list[str]:
    config = directory / ADAPTER_CONFIG
    weights = sorted([*directory.glob("*.safetensors"), *directory.glob(ADAPTER_PICKLE)])
    return [digests.of(path) for path in [*([config] if config.exists() else []), *weights]]
