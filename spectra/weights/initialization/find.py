"""Find the offset that initialization subtracted from the base, or report what is missing.

Searched in this order: the path given by the user, the run's own step 0, an initial adapter next to the checkpoints, a
residual base next to them, and a recomputation if the method is deterministic. The result is checked against the base
on the smallest matrices: the initialization of another run, rank or base would give a ΔW that looks like training.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from spectra.errors import BaseModelError, MissingInitialError, SpectraError
from spectra.runs.directory import RunDirectory
from spectra.runs.snapshots import Snapshot, snapshot_kind
from spectra.weights.facts import Initialization, find_initialization, initialization_value
from spectra.weights.initialization.detect import Factored, Misfit, initial_misfit, residual_misfit, signature
from spectra.weights.initialization.kinds import AdapterOffset, RecomputedOffset, ResidualOffset
from spectra.weights.readers.adapter import Adapter
from spectra.weights.readers.families import lora
from spectra.weights.readers.families.lora_options import product
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore

_INITIAL_NAME = re.compile(r"(.*[_-])?init(ial)?([_-]adapter)?", re.IGNORECASE)
_RESIDUAL_NAME = re.compile(r".*residual.*", re.IGNORECASE)
# Number of matrices that are checked, smallest first.
_CHECKED = 3


@dataclass(frozen=True)
class _Search:
    """Search for the initialization of an adapter.

    Attributes
    ----------
    adapter
        The trained adapter.
    init
        Its initialization, in lower search.
    base
        The original base weights.
    modules
        The matrices to check.
    """

    adapter: Adapter
    init: str
    base: TensorStore
    modules: tuple[str, ...]

    @property
    def facts(self) -> Initialization | None:
        """Facts about its initialization; None if unknown."""
        return find_initialization(self.init)

    @property
    def is_plain(self) -> bool:
        """Whether its initialization, according to the configuration, does not move the base."""
        return self.facts is not None and not self.facts.moves_base

    @property
    def is_quantized(self) -> bool:
        """Whether its frozen weights were quantized, so that W − W_res has full rank."""
        return self.facts is not None and self.facts.quantizes

    def weight(self, module: str) -> Tensor:
        """Return a base weight in float64, O × I."""
        return self.base[f"{module}.weight"].double()


def find_initial_offset(
    snapshot: Snapshot, run: RunDirectory, base: TensorStore, given: Path | None = None
) -> InitialOffset | None:
    """Return the offset that initialization subtracted from the base of a snapshot, or None if there is none.

    Parameters
    ----------
    snapshot
        An adapter or a full checkpoint.
    run
        Its run.
    base
        The original base weights.
    given
        Path of the step-0 adapter or the residual base, if the user gives one.

    Raises
    ------
    MissingInitialError
        If the method moves the base and the initialization is missing, or the adapter's tensors show that it did so
        although its configuration does not. The message names the missing file and how to get it.
    BaseModelError
        If the initialization found does not belong to this base.
    """
    if snapshot.kind == "full" or snapshot.config.get("peft_type") != "LORA":
        return None
    search = _open_search(snapshot, base)
    if given is not None:
        return _from_given(search, given)
    suspected = signature(_factors(search)) if search.is_plain else None
    if search.is_plain and suspected is None:
        return None
    found = _from_run(search, run) or _from_neighbors(search, snapshot, run)
    if found is not None:
        return found
    if suspected is not None:
        raise MissingInitialError(
            f"init_lora_weights is {search.init}, but {suspected}: the base was moved at initialization, so B·A is not "
            "the update",
            where=snapshot.path,
            hint="pass the adapter or the residual base of step 0 with --initial DIR",
        )
    return _recomputed(search)


def _open_search(snapshot: Snapshot, base: TensorStore) -> _Search:
    adapter = Adapter.open(snapshot, lora.LORA, base.open_files)
    init = initialization_value(adapter.config)
    factored = (module for module, parts in adapter.parts.items() if {"lora_A", "lora_B"} <= set(parts))
    known = [module for module in factored if len(base.shapes.get(f"{module}.weight", ())) == 2]
    known.sort(key=lambda module: (prod(base.shapes[f"{module}.weight"]), module))
    return _Search(adapter, init, base, tuple(known[:_CHECKED]))


def _factors(search: _Search) -> Iterator[Factored]:
    for module in search.modules:
        weight = search.weight(module)
        a, b = (search.adapter.tensor(module, part).double() for part in ("lora_A", "lora_B"))
        if not all(bool(part.isfinite().all()) for part in (weight, a, b)):
            continue  # the analysis of the matrix reports it
        yield Factored(weight, b, a, product(search.adapter, module, weight).frobenius())


def _from_given(search: _Search, given: Path) -> InitialOffset:
    kind = snapshot_kind(given) if given.is_dir() else None
    if kind is None:
        raise MissingInitialError(
            "holds neither an adapter nor model weights", where=given, hint="pass the directory of one to --initial"
        )
    start, misfit = _read(search, Snapshot(0, given, kind), "given by --initial")
    if misfit is not None and not misfit.tolerable:
        raise BaseModelError(
            misfit.what,
            where=given,
            hint="pass the step-0 adapter of this run with --initial, and its base with --base",
        )
    return start


def _from_run(search: _Search, run: RunDirectory) -> InitialOffset | None:
    first = next((snapshot for snapshot in run.snapshots if snapshot.path == run.initial), None)
    if first is None or first.kind != "adapter" or search.is_quantized:
        return None
    start, misfit = _read(search, first, "the run's own step 0")
    if misfit is not None and not misfit.tolerable:
        raise BaseModelError(
            f"its step 0 does not fit the base: {misfit.what}",
            where=first.path,
            hint="pass the base it was trained on with --base",
        )
    return start


def _from_neighbors(search: _Search, snapshot: Snapshot, run: RunDirectory) -> InitialOffset | None:
    directories = dict.fromkeys([snapshot.path, snapshot.path.parent, run.path, run.path / "adapters"])
    adapters: list[Snapshot] = []
    residuals: list[Snapshot] = []
    for directory in _directories(directories):
        kind = snapshot_kind(directory)
        if kind == "adapter" and _INITIAL_NAME.fullmatch(directory.name):
            adapters.append(Snapshot(0, directory, kind))
        elif kind == "full" and _RESIDUAL_NAME.fullmatch(directory.name):
            residuals.append(Snapshot(0, directory, kind))
    for found in (adapters, residuals):
        fitting = [start for start, misfit in (_try(search, one) for one in found) if start and misfit is None]
        if len(fitting) > 1:
            raise MissingInitialError(
                f"{found[0].path.name} and {found[1].path.name} could both be its initialization",
                where=snapshot.path,
                hint="choose one with --initial DIR",
            )
        if fitting:
            return fitting[0]
    return None


def _directories(directories: Iterable[Path]) -> list[Path]:
    return sorted(
        {child for directory in directories if directory.is_dir() for child in directory.iterdir() if child.is_dir()}
    )


def _try(search: _Search, initial: Snapshot) -> tuple[InitialOffset | None, Misfit | None]:
    try:
        return _read(search, initial, f"{initial.path.name}, found next to the checkpoints")
    except SpectraError:  # another adapter that happens to have such a name
        return None, None


def _read(search: _Search, found: Snapshot, origin: str) -> tuple[InitialOffset, Misfit | None]:
    """Return the offset stored in a directory, and its mismatch with the base, or None."""
    if found.kind == "full":
        weights = TensorStore.open_model(found.path, search.base.open_files).as_stored()
        residual = ResidualOffset(origin, weights, search.base.transposed)
        differences = (
            (search.weight(m), residual.removed(m, search.weight(m)).dense(), _rank(search, m)) for m in search.modules
        )
        return residual, None if search.is_quantized else residual_misfit(differences)
    if search.is_quantized:
        raise MissingInitialError(
            f"{search.init} froze quantized weights, which no adapter contains",
            where=found.path,
            hint="save those weights in float32 as a model directory and pass it with --initial DIR",
        )
    initial = Adapter.open(found, lora.LORA, search.base.open_files)
    _require_same_tensors(search, initial)
    start = AdapterOffset(origin, initial)
    pairs = (
        (search.weight(m), start.removed(m, search.weight(m)), _is_half_precision(initial, m)) for m in search.modules
    )
    return start, initial_misfit(search.init, pairs)


def _rank(search: _Search, module: str) -> int:
    return int(search.adapter.tensor(module, "lora_A").shape[0])


def _is_half_precision(adapter: Adapter, module: str) -> bool:
    return adapter.tensor(module, "lora_A").element_size() < 4


def _require_same_tensors(search: _Search, initial: Adapter) -> None:
    init = initialization_value(initial.config)
    # peft's recipe for conversion saves the step-0 adapter with init_lora_weights=True, so that it can be loaded again.
    if init not in (search.init, "true"):
        raise MissingInitialError(
            f"was initialized by {init}, the adapter by {search.init}",
            where=initial.path,
            hint="pass the step-0 adapter of this run with --initial",
        )
    for module, parts in search.adapter.parts.items():
        for part, key in parts.items():
            other = initial.parts.get(module, {}).get(part)
            if part in ("lora_A", "lora_B") and (
                other is None or _shape(initial, other) != _shape(search.adapter, key)
            ):
                raise MissingInitialError(
                    f"its {part} of {module} is missing, or its shape differs from the adapter's",
                    where=initial.path,
                    hint="pass the step-0 adapter of this run with --initial",
                )


def _shape(adapter: Adapter, key: str) -> tuple[int, ...]:
    store = adapter.store
    return store.shapes[key] if isinstance(store, TensorStore) else tuple(store[key].shape)


def _recomputed(search: _Search) -> InitialOffset:
    path = search.adapter.path
    if search.facts is None or search.facts.part is None:
        raise MissingInitialError(
            f"{search.init} moves the base at initialization, so ΔW = s(BA − B₀A₀) needs the adapter of step 0, which "
            f"is missing and cannot be recomputed: {_why_not(search.facts)}",
            where=path,
            hint="pass its directory with --initial DIR; next time save it before training "
            "(`model.save_pretrained(run/'checkpoint-0')` right after get_peft_model), or convert the adapter with "
            "peft's path_initial_model_for_weight_conversion",
        )
    start = RecomputedOffset(f"{search.init} recomputed in float64 from the base", search.adapter, search.init)
    for module in search.modules:
        weight = search.weight(module)
        start.subtract(module, weight, product(search.adapter, module, weight))
    return start


def _why_not(facts: Initialization | None) -> str:
    return (None if facts is None else facts.why_unknown) or "spectra does not know how it was computed"
