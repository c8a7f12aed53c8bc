"""What the doctor looks at: a run as far as it can be opened, and what stood in the way of the rest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor

from spectra.errors import BaseModelError, CorruptFileError, SpectraError, UnsupportedMethodError
from spectra.linalg.operators import Operator
from spectra.runs.atomic import read_json
from spectra.runs.directory import RunDirectory, Snapshot, open_run
from spectra.runs.layout import ADAPTER_CONFIG, RunLayout, parse_checkpoint, parse_step
from spectra.runs.snapshots import adapter_base, snapshot_kind
from spectra.weights.adapters import Adapter, Changes
from spectra.weights.base import resolve_base
from spectra.weights.initial import find_start
from spectra.weights.start import Start
from spectra.weights.tensors import TensorStore
from spectra.weights.updates import READERS, parameter_name

# Matrices that a check with the base looks at, spread over all layers and kinds.
SAMPLE = 12
# Arithmetic that a check may spend on decompositions: the cubes of some matrices of 1024² to 2048².
_BUDGET = 1e10
_FEWEST = 3


@dataclass(frozen=True)
class Case:
    """A path under examination; whatever could not be opened is None, with the reason in ``obstacles``.

    Attributes
    ----------
    path
        What the user named.
    run
        The run, as recognised.
    snapshot
        Its newest snapshot that can be read.
    adapter
        The adapter of that snapshot, its tensors still on disk.
    base_dir, base
        The base model.
    start
        What initialisation took out of the base, for methods that move it.
    changes
        What the adapter changes.
    obstacles
        What could not be opened, by what was tried: ``run``, ``adapter``, ``base``, ``start``, ``changes``.
    """

    path: Path
    run: RunDirectory | None = None
    snapshot: Snapshot | None = None
    adapter: Adapter | None = None
    base_dir: Path | None = None
    base: TensorStore | None = None
    start: Start | None = None
    changes: Changes | None = None
    obstacles: Mapping[str, SpectraError] = field(default_factory=dict)

    @property
    def config(self) -> Mapping[str, Any]:
        """The adapter's configuration; empty where there is none."""
        return {} if self.adapter is None else self.adapter.config

    @property
    def root(self) -> Path:
        """The directory of the run: PATH, or, where that is one snapshot of a run of ours, the run above it."""
        above = self.path.parent.parent
        inside = self.path.parent == RunLayout(above).snapshots
        return above if inside and RunLayout(above).manifest.exists() else self.path

    @property
    def trained(self) -> bool:
        """Whether the snapshot is known to be from after the first step."""
        return self.snapshot is not None and self.snapshot.step > 0

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of a run of ours as plain values; empty where there is none that can be read."""
        file = RunLayout(self.root).recipe
        try:
            value = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def series(self) -> pd.DataFrame:
        """The training curves; only ``step`` where they cannot be read."""
        empty = pd.DataFrame({"step": pd.Series(dtype="int64")})
        try:
            return empty if self.run is None else self.run.series()
        except SpectraError:
            return empty

    @cached_property
    def finite(self) -> bool:
        """Whether every number of the adapter is finite: others are not measured."""
        return self.adapter is not None and all(bool(t.isfinite().all()) for t in self.adapter.store.values())

    def weight(self, module: str) -> Tensor:
        """Return a base weight in its stored dtype.

        Raises
        ------
        CorruptFileError
            If the base has no such matrix.
        """
        name = None if self.base is None else parameter_name(module, self.base.files)
        if self.base is None or name is None:
            raise CorruptFileError("the base has no such parameter", where=module, cure="give its base with --base")
        return self.base[name]

    def update(self, module: str) -> Operator:
        """Return ΔW of a module."""
        if self.changes is None:
            raise CorruptFileError("holds no update that can be read", where=self.path, cure="see the other checks")
        return self.changes.matrices[module](self.weight(module).double())

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """The modules whose base weight is a matrix, by name."""
        if self.base is None or self.adapter is None:
            return ()
        shapes = self.base.shapes
        found = []
        for module in self.adapter.parts:
            name = parameter_name(module, self.base.files)
            if name is not None and len(shapes[name]) == 2:
                found.append(module)
        return tuple(sorted(found))

    @property
    def sample(self) -> tuple[str, ...]:
        """Some of the matrices, evenly spread over their names."""
        return spread(self.matrices, SAMPLE)

    @property
    def affordable(self) -> tuple[str, ...]:
        """Some of the matrices, the smallest shapes first, whose decompositions take seconds together."""
        if self.base is None:
            return ()
        shapes = {module: tuple(self.weight_shape(module)) for module in self.matrices}
        cost = {module: float(min(shape) ** 2 * max(shape)) for module, shape in shapes.items()}
        chosen: list[str] = []
        spent = 0.0
        for module in sorted(spread(self.matrices, 4 * SAMPLE), key=lambda name: (cost[name], name)):
            if len(chosen) >= SAMPLE or (len(chosen) >= _FEWEST and spent + cost[module] > _BUDGET):
                break
            chosen, spent = [*chosen, module], spent + cost[module]
        return tuple(chosen)

    def weight_shape(self, module: str) -> tuple[int, ...]:
        """Return the shape of a base weight, from headers alone."""
        if self.base is None:
            return ()
        return self.base.shapes[parameter_name(module, self.base.files) or f"{module}.weight"]


def spread(items: Iterable[str], count: int) -> tuple[str, ...]:
    """Return at most ``count`` items, evenly spread.

    >>> spread("abcdefghij", 3)
    ('a', 'd', 'g')
    """
    found = list(items)
    return tuple(found[len(found) * at // count] for at in range(count)) if len(found) > count else tuple(found)


def open_case(path: Path, base: str | None = None, initial: Path | None = None) -> Case:
    """Open what can be opened; never raises for faulty data.

    Parameters
    ----------
    path
        A run directory, an adapter, or a full checkpoint.
    base
        The base as the user names it; None takes the run's own.
    initial
        The step-0 adapter or residual base as the user names it.
    """
    opening = _Opening()
    run = opening.attempt("run", lambda: open_run(path))
    snapshot, adapter = _newest(path, run, opening)
    base_dir = opening.attempt("base", lambda: _find_base(path, run, snapshot, base))
    store = None if base_dir is None else opening.attempt("base", lambda: TensorStore.open_model(base_dir))
    start = changes = None
    if adapter is not None and snapshot is not None and store is not None:
        known = run or RunDirectory(path, "adapter", (snapshot,))
        start = opening.attempt("start", lambda: find_start(snapshot, known, store, initial))
        reader = READERS[str(adapter.config.get("peft_type"))]
        changes = opening.attempt("changes", lambda: reader.changes(adapter, start, store))
    return Case(path, run, snapshot, adapter, base_dir, store, start, changes, opening.obstacles)


class _Opening:
    """Keeps what went wrong."""

    def __init__(self) -> None:
        self.obstacles: dict[str, SpectraError] = {}

    def attempt(self, what: str, action: Any) -> Any:
        """Return what an action gives, or None where it fails for a reason that has words."""
        try:
            return action()
        except SpectraError as error:
            self.obstacles.setdefault(what, error)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not declare it
            self.obstacles.setdefault(what, CorruptFileError("holds numbers that are not finite", cure="see label"))
        return None


def _newest(path: Path, run: RunDirectory | None, opening: _Opening) -> tuple[Snapshot | None, Adapter | None]:
    """Return the newest snapshot that can be read, with its adapter."""
    for snapshot in reversed(run.snapshots if run is not None else _scattered(path)):
        if snapshot.kind == "full":
            return snapshot, None
        adapter = opening.attempt("adapter", lambda snapshot=snapshot: _open_adapter(snapshot.path))
        if adapter is not None:
            return snapshot, adapter
    return None, None


def _open_adapter(path: Path) -> Adapter:
    config = read_json(path / ADAPTER_CONFIG)
    kind = str(config.get("peft_type"))
    if kind not in READERS:
        raise UnsupportedMethodError(f"adapters of type {kind} are not looked into", where=path)
    for key in ("r", "lora_alpha") if kind == "LORA" else ():
        if not isinstance(config.get(key, 8), int | float):
            raise CorruptFileError(
                f"{key} is {config[key]!r} in {ADAPTER_CONFIG}",
                where=path,
                cure="write the number of the training there",
            )
    return Adapter.open(path, READERS[kind])


def _scattered(path: Path) -> tuple[Snapshot, ...]:
    """Return the adapters in a directory that is no run as a whole, by step where their names say one."""
    places = [path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))] if path.is_dir() else []
    found = [place for place in places if snapshot_kind(place) == "adapter"]
    steps = {place: parse_checkpoint(place.name) or parse_step(place.name) or 0 for place in found}
    return tuple(Snapshot(steps[place], place, "adapter") for place in sorted(found, key=lambda one: steps[one]))


def _find_base(path: Path, run: RunDirectory | None, snapshot: Snapshot | None, given: str | None) -> Path:
    if given is not None:
        return resolve_base(given)
    name, revision = (None, None) if run is None else (run.base_name, run.base_revision)
    if name is None and snapshot is not None:
        name, revision = adapter_base(snapshot)
    if name is None:
        raise BaseModelError("names no base", where=path, cure="give it with --base DIR_OR_HUB_ID")
    beside = [path / name, path.parent / name]  # a relative path, as seen from the run
    found = next((place for place in beside if not Path(name).is_dir() and place.is_dir()), None)
    return resolve_base(name if found is None else str(found), revision)


def numbers(store: TensorStore) -> int:
    """Return how many numbers a store holds, from headers alone."""
    return sum(map(prod, store.shapes.values()))
