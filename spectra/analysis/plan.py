"""What an analysis has to do: which base, which modules at which snapshots, and what is skipped and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from spectra.analysis.bases import ALGORITHM
from spectra.analysis.digests import FileDigests, content_key
from spectra.analysis.measure import BINS, FRACTIONS
from spectra.analysis.tasks import ModuleTask
from spectra.errors import BaseModelError
from spectra.runs.directory import RunDirectory
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_PICKLE
from spectra.weights.base import resolve_base
from spectra.weights.tensors import TensorStore
from spectra.weights.updates import open_updates, parameter_name

# Raise it when a number in the tables changes its meaning or its value.
VERSION = "1"


@dataclass(frozen=True)
class Plan:
    """The work of one analysis.

    Attributes
    ----------
    run
        The run as recognised.
    base
        Directory of the base model.
    modules
        For each step, the modules that its snapshot changes.
    matrices
        How many of all modules are matrices; the rest are vectors.
    skipped
        What is not analysed, with the reason.
    method
        The run's method.
    trainable_parameters, total_parameters
        Numbers that train, and numbers in the base.
    """

    run: RunDirectory
    base: Path
    modules: Mapping[int, frozenset[str]]
    matrices: frozenset[str]
    skipped: Mapping[str, str]
    method: str
    trainable_parameters: int
    total_parameters: int

    @property
    def pairs(self) -> set[tuple[int, str]]:
        """Every (step, module) that the tables must hold."""
        return {(step, module) for step, modules in self.modules.items() for module in modules}

    def tasks(self, missing: Iterable[tuple[int, str]], cache: Path | None, device: str) -> list[ModuleTask]:
        """Return one task a module that has missing steps."""
        steps: dict[str, set[int]] = {}
        for step, module in missing:
            steps.setdefault(module, set()).add(step)
        store = TensorStore.open_model(self.base)
        return [self._task(module, wanted, store, cache, device) for module, wanted in sorted(steps.items())]

    def _task(self, module: str, steps: set[int], store: TensorStore, cache: Path | None, device: str) -> ModuleTask:
        parameter = parameter_name(module, store.files) or module
        manifest = self.run.manifest
        return ModuleTask(
            module=module,
            base=self.base,
            snapshots=tuple(s for s in self.run.snapshots if s.step in steps),
            initial=self.run.initial,
            method=self.method,
            expected_digest=None if manifest is None else manifest.base.fingerprints.get(parameter),
            cache=cache,
            device=device,
            size=prod(store.shapes[parameter]),
        )


def make_plan(run: RunDirectory, base: str | None) -> Plan:
    """Plan the analysis of a run. Reads headers only.

    Parameters
    ----------
    run
        The run as recognised.
    base
        The base that the user named, or None to take the run's own.

    Raises
    ------
    BaseModelError
        If no base is known, or nothing in the run matches it.
    """
    base_dir = _find_base(run, base)
    store = TensorStore.open_model(base_dir)
    opened = {s.step: open_updates(s, store, run.initial) for s in run.snapshots}
    last = opened[run.snapshots[-1].step]
    return Plan(
        run=run,
        base=base_dir,
        modules={step: frozenset(updates.matrices) | frozenset(updates.vectors) for step, updates in opened.items()},
        matrices=frozenset(module for updates in opened.values() for module in updates.matrices),
        skipped={module: why for updates in opened.values() for module, why in updates.skipped.items()},
        method=last.method if run.manifest is None else run.manifest.method,
        trainable_parameters=last.size if run.manifest is None else sum(map(prod, run.manifest.trainable.values())),
        total_parameters=sum(map(prod, store.shapes.values())),
    )


def content_keys(plan: Plan, digests: FileDigests) -> dict[int, str]:
    """Return, for each step, the key of the content that its rows depend on: weights, base, start and settings."""
    base = [digests.of(path) for path in sorted(set(TensorStore.open_model(plan.base).files.values()))]
    start = [] if plan.run.initial is None else _contents(plan.run.initial, digests)
    settings = [VERSION, ALGORITHM, str(FRACTIONS), str(BINS), *base, *start]
    return {s.step: content_key(*settings, *_contents(s.path, digests)) for s in plan.run.snapshots}


def _find_base(run: RunDirectory, base: str | None) -> Path:
    if base is not None:
        return resolve_base(base)
    if run.base_name is None:
        raise BaseModelError(
            "does not say which base it was trained on", where=run.path, cure="give it with --base DIR_OR_HUB_ID"
        )
    beside = [run.path / run.base_name, run.path.parent / run.base_name]  # a relative path, as seen from the run
    found = next((path for path in beside if not Path(run.base_name).is_dir() and path.is_dir()), None)
    try:
        return resolve_base(run.base_name if found is None else str(found), run.base_revision)
    except BaseModelError as error:
        raise BaseModelError(
            f"its base {run.base_name!r} cannot be had ({error.what})", where=run.path, cure="give it with --base"
        ) from error


def _contents(directory: Path, digests: FileDigests) -> list[str]:
    config = directory / ADAPTER_CONFIG
    weights = sorted([*directory.glob("*.safetensors"), *directory.glob(ADAPTER_PICKLE)])
    return [digests.of(path) for path in [*([config] if config.exists() else []), *weights]]
