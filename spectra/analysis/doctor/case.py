"""The subject of an examination: a run as far as it can be opened, and what prevented the rest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spectra.errors import CorruptFileError, SpectraError, UnsupportedMethodError
from spectra.linalg.operators.basic import Operator
from spectra.runs.directory import RunDirectory, Snapshot, read_recipe
from spectra.runs.layout import ADAPTER_CONFIG, RunLayout, parse_checkpoint, parse_step
from spectra.runs.snapshots import adapter_base, snapshot_kind
from spectra.weights.opened_run import OpenedRun
from spectra.weights.readers.adapter import Adapter, Changes
from spectra.weights.readers.families.lora_options import MAGNITUDE
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.rank_patterns import by_pattern, rank_and_alpha
from spectra.weights.readers.registry import READERS
from spectra.weights.storage.quantized import require_full_precision
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import parameter_name, read_changes

# Number of matrices in a check with the base, spread over layers and module types.
SAMPLE = 12
# Arithmetic that a check may spend on decompositions: the cubes of some matrices of 1024² to 2048².
_BUDGET = 1e10
_FEWEST = 3
# Exceptions that invalid values in a configuration cause in the code that reads them.
MISREAD = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError)
_FACTORS = (frozenset({"lora_A", "lora_B"}), frozenset({"lora_embedding_A", "lora_embedding_B"}))
_INITIALIZATION = re.compile(r"(?!pissa_niter_).+|pissa_niter_\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """A path under examination; whatever could not be opened is None, with the reason in ``obstacles``.

    Attributes
    ----------
    path
        What the user named.
    opened
        The run with its base and initialization, up to that snapshot; the adapters in it if it is not a run.
    run
        The run, as recognized.
    snapshot
        Its newest snapshot that can be read.
    adapter
        The adapter of that snapshot, its tensors still on disk.
    base_dir, base
        The base model.
    start
        What initialization took out of the base, for methods that move it.
    changes
        What the adapter changes.
    obstacles
        What could not be opened, by what was tried: ``run``, ``adapter``, ``base``, ``start``, ``changes``.
    """

    path: Path
    opened: OpenedRun
    run: RunDirectory | None = None
    snapshot: Snapshot | None = None
    adapter: Adapter | None = None
    base_dir: Path | None = None
    base: TensorStore | None = None
    start: InitialOffset | None = None
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
        return read_recipe(self.root)

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
        return self.adapter is not None and all(is_finite(t) for t in self.adapter.store.values())

    def weight(self, module: str) -> Tensor:
        """Return a base weight in its stored dtype, O × I.

        Raises
        ------
        CorruptFileError
            If the base has no such matrix.
        """
        name = None if self.base is None else parameter_name(module, self.base.files)
        if self.base is None or name is None:
            raise CorruptFileError(
                "the base model has no such parameter", where=module, hint="pass the base model of this run with --base"
            )
        return self.base[name]

    def update(self, module: str) -> Operator:
        """Return ΔW of a module."""
        if self.changes is None:
            raise CorruptFileError("contains no readable update", where=self.path, hint="see the other checks")
        return self.changes.matrices[module](self.weight(module).double())

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """The modules whose base weight is a matrix, by name; not those that lack a factor."""
        if self.base is None or self.adapter is None:
            return ()
        shapes, broken = self.base.shapes, set(unpaired(self.adapter))
        found = []
        for module in self.adapter.parts.keys() - broken:
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
        return afforded({module: self.weight_shape(module) for module in self.matrices})

    def weight_shape(self, module: str) -> tuple[int, ...]:
        """Return the shape of a base weight, O × I, from headers alone."""
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


def afforded(shapes: Mapping[str, tuple[int, ...]], most: int = SAMPLE, decompositions: int = 1) -> tuple[str, ...]:
    """Return some matrices, the smallest first, whose decompositions take seconds together; a few in any case.

    Parameters
    ----------
    shapes
        Shapes of the matrices, by name.
    most
        How many at most.
    decompositions
        How many each of them needs.
    """
    cost = {name: float(decompositions * min(shape) ** 2 * max(shape)) for name, shape in shapes.items()}
    chosen: list[str] = []
    spent = 0.0
    for name in sorted(spread(sorted(shapes), 4 * SAMPLE), key=lambda one: (cost[one], one)):
        if len(chosen) >= most or (len(chosen) >= _FEWEST and spent + cost[name] > _BUDGET):
            break
        chosen, spent = [*chosen, name], spent + cost[name]
    return tuple(chosen)


def is_finite(tensor: Tensor) -> bool:
    """Return whether every number is finite, of any dtype: torch cannot ask float8 tensors."""
    return bool((tensor if tensor.element_size() > 1 else tensor.float()).isfinite().all())


def unpaired(adapter: Adapter) -> tuple[str, ...]:
    """Return the modules of a LoRA that have a part of an update and lack one of its two factors."""
    if adapter.config.get("peft_type") != "LORA":
        return ()
    parts_of_updates = frozenset({MAGNITUDE}).union(*_FACTORS)
    return tuple(
        sorted(
            module
            for module, parts in adapter.parts.items()
            if parts_of_updates & set(parts) and not any(pair <= set(parts) for pair in _FACTORS)
        )
    )


def misread(error: Exception, where: Path) -> CorruptFileError:
    """Return the error for an invalid value in a configuration."""
    return CorruptFileError(
        f"its configuration cannot be read ({type(error).__name__}: {error})",
        where=where,
        hint=f"restore the {ADAPTER_CONFIG} and config.json that the trainer wrote",
    )


def open_case(path: Path, base: str | None = None, initial: Path | None = None) -> Case:
    """Open as much as possible; never raises for faulty data.

    Parameters
    ----------
    path
        A run directory, an adapter, or a full checkpoint.
    base
        The base as the user names it; None takes the run's own.
    initial
        The step-0 adapter or residual base as the user names it.
    """
    opening = _Opening(path)
    opened = opening.attempt("run", lambda: OpenedRun.open(path, base, initial))
    if opened is not None:
        return _open(opened, opened.run, opening)
    return _open(OpenedRun(RunDirectory(path, "adapter", _scattered(path)), base, initial), None, opening)


def case_of(opened: OpenedRun) -> Case:
    """Return the case of a run that is open already; never raises for faulty data."""
    return _open(opened, opened.run, _Opening(opened.run.path))


def _open(opened: OpenedRun, run: RunDirectory | None, opening: "_Opening") -> Case:
    snapshot, adapter = _newest(opened, opening)
    known = opened if snapshot is None else _until(snapshot, opened)
    base_dir = opening.attempt("base", lambda: known.base_dir)
    base = None if base_dir is None else opening.attempt("base", lambda: _full_precision(known.base))
    start = changes = None
    if adapter is not None and base is not None:
        start = opening.attempt("start", lambda: known.initialization)
        changes = opening.attempt("changes", lambda: read_changes(adapter, start, base))
    return Case(opened.run.path, known, run, snapshot, adapter, base_dir, base, start, changes, opening.obstacles)


class _Opening:
    """Keeps what went wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.obstacles: dict[str, SpectraError] = {}

    def attempt(self, what: str, action: Any) -> Any:
        """Return what an action gives, or None where it fails for a reason that has words."""
        try:
            return action()
        except SpectraError as error:
            self.obstacles.setdefault(what, error)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not declare it
            self.obstacles.setdefault(what, CorruptFileError("holds numbers that are not finite", hint="see label"))
        except MISREAD as error:
            self.obstacles.setdefault(what, misread(error, self.path))
        return None


def _newest(opened: OpenedRun, opening: _Opening) -> tuple[Snapshot | None, Adapter | None]:
    """Return the newest snapshot that can be read, with its adapter."""
    for snapshot in reversed(opened.run.snapshots):
        if snapshot.kind == "full":
            return snapshot, None
        adapter = opening.attempt("adapter", lambda snapshot=snapshot: _open_adapter(snapshot, opened))
        if adapter is not None:
            return snapshot, adapter
    return None, None


def _open_adapter(snapshot: Snapshot, opened: OpenedRun) -> Adapter:
    kind = str(snapshot.config.get("peft_type"))
    if kind not in READERS:
        raise UnsupportedMethodError(f"adapters of type {kind} are not supported", where=snapshot.path)
    adapter = Adapter.open(snapshot, READERS[kind], opened.open_files)
    if kind == "LORA":
        _require_readable(adapter)
    return adapter


def _require_readable(adapter: Adapter) -> None:
    """Check the values of a configuration that every check reads: ranks, scales, the start and the base."""
    config = adapter.config
    init, base, blocks = (config.get(key) for key in ("init_lora_weights", "base_model_name_or_path", "use_bdlora"))
    readable = {
        "init_lora_weights": init is None
        or isinstance(init, bool)
        or (isinstance(init, str) and _INITIALIZATION.fullmatch(init) is not None),
        "base_model_name_or_path": base is None or isinstance(base, str),
        "use_bdlora": not blocks or isinstance(blocks, Mapping),
    }
    odd = next((key for key, fine in readable.items() if not fine), None)
    if odd is not None:
        raise _odd(adapter, f"{odd} is {config[odd]!r}")
    try:
        for module in adapter.parts:
            rank_and_alpha(config, module)
        for key, held in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
            for pattern, value in (config.get(key) or {}).items():
                by_pattern({pattern: value}, "", None)
                rank_and_alpha({held: value}, f"the pattern {pattern!r}")
    except CorruptFileError as error:
        raise _odd(adapter, error.what) from error


def _odd(adapter: Adapter, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"{what} in {ADAPTER_CONFIG}", where=adapter.path, hint="restore the value used in training"
    )


def _scattered(path: Path) -> tuple[Snapshot, ...]:
    """Return the adapters in a directory that is no run as a whole, by step where their names say one."""
    places = [path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))] if path.is_dir() else []
    found = [place for place in places if snapshot_kind(place) == "adapter"]
    steps = {place: parse_checkpoint(place.name) or parse_step(place.name) or 0 for place in found}
    return tuple(Snapshot(steps[place], place, "adapter") for place in sorted(found, key=lambda one: steps[one]))


def _until(snapshot: Snapshot, opened: OpenedRun) -> OpenedRun:
    """Return the run up to a snapshot, on the base that the run names, or else that snapshot."""
    run = opened.run
    name, revision = (run.base_name, run.base_revision) if run.base_name is not None else adapter_base(snapshot)
    if snapshot is run.snapshots[-1] and name == run.base_name:
        return opened
    snapshots = run.snapshots[: run.snapshots.index(snapshot) + 1]
    known = replace(run, snapshots=snapshots, base_name=name, base_revision=revision)
    return OpenedRun(known, opened.given_base, opened.given_initial)


def _full_precision(base: TensorStore) -> TensorStore:
    require_full_precision(base)
    return base
