"""Find the start of an adapter whose method moves the base when it begins, or say what is missing.

In this order: what the user gives, the run's own step 0, an initial adapter beside the checkpoints, a residual base
beside them, and a recomputation where the method is deterministic. Whatever is found is checked against the base on
the smallest matrices: a start of another run, rank or base would give a ΔW that looks like training.
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
from spectra.weights.initialization.kinds import AdapterStart, RecomputedStart, ResidualStart
from spectra.weights.readers.adapter import Adapter
from spectra.weights.readers.families import lora
from spectra.weights.readers.families.lora_options import product
from spectra.weights.readers.offset import Start
from spectra.weights.storage.tensors import TensorStore

_INITIAL_NAME = re.compile(r"(.*[_-])?init(ial)?([_-]adapter)?", re.IGNORECASE)
_RESIDUAL_NAME = re.compile(r".*residual.*", re.IGNORECASE)
# Matrices that are looked at before the others, smallest first.
_SPOT = 3


@dataclass(frozen=True)
class _Case:
    """An adapter whose start is sought.

    Attributes
    ----------
    adapter
        The trained adapter.
    init
        Its initialisation, in lower case.
    base
        The original base weights.
    modules
        The matrices to look at.
    """

    adapter: Adapter
    init: str
    base: TensorStore
    modules: tuple[str, ...]

    @property
    def facts(self) -> Initialization | None:
        """What holds of its initialization; None for one that is not known."""
        return find_initialization(self.init)

    @property
    def is_plain(self) -> bool:
        """Whether its configuration says that it leaves the base as it is."""
        return self.facts is not None and not self.facts.moves_base

    @property
    def is_quantized(self) -> bool:
        """Whether its frozen weights are no W − s·B₀A₀: they were quantized, and W − W_res has full rank."""
        return self.facts is not None and self.facts.quantizes

    def weight(self, module: str) -> Tensor:
        """Return a base weight in float64, O × I."""
        return self.base[f"{module}.weight"].double()


def find_start(snapshot: Snapshot, run: RunDirectory, base: TensorStore, given: Path | None = None) -> Start | None:
    """Return what initialisation took out of the base of a snapshot, or None where it took nothing.

    Parameters
    ----------
    snapshot
        An adapter or a full checkpoint.
    run
        The run that it belongs to.
    base
        The original base weights.
    given
        The step-0 adapter or the residual base, as the user names it.

    Raises
    ------
    MissingInitialError
        If the method moves the base and no start is there, or the adapter's tensors say that it did so although its
        configuration does not; with the file that is missing and how to get it.
    BaseModelError
        If a start is there and does not belong to this base.
    """
    if snapshot.kind == "full" or snapshot.config.get("peft_type") != "LORA":
        return None
    case = _open_case(snapshot, base)
    if given is not None:
        return _from_given(case, given)
    suspected = signature(_factors(case)) if case.is_plain else None
    if case.is_plain and suspected is None:
        return None
    found = _from_run(case, run) or _beside(case, snapshot, run)
    if found is not None:
        return found
    if suspected is not None:
        raise MissingInitialError(
            f"init_lora_weights is {case.init}, and {suspected}: the base was moved when it began, so B·A is not the "
            "update",
            where=snapshot.path,
            hint="give the adapter or the residual base of step 0 with --initial DIR",
        )
    return _recomputed(case)


def _open_case(snapshot: Snapshot, base: TensorStore) -> _Case:
    adapter = Adapter.open(snapshot, lora.LORA, base.open_files)
    init = initialization_value(adapter.config)
    factored = (module for module, parts in adapter.parts.items() if {"lora_A", "lora_B"} <= set(parts))
    known = [module for module in factored if len(base.shapes.get(f"{module}.weight", ())) == 2]
    known.sort(key=lambda module: (prod(base.shapes[f"{module}.weight"]), module))
    return _Case(adapter, init, base, tuple(known[:_SPOT]))


def _factors(case: _Case) -> Iterator[Factored]:
    for module in case.modules:
        weight = case.weight(module)
        a, b = (case.adapter.tensor(module, part).double() for part in ("lora_A", "lora_B"))
        if not all(bool(part.isfinite().all()) for part in (weight, a, b)):
            continue  # the analysis of the matrix says so
        yield Factored(weight, b, a, product(case.adapter, module, weight).frobenius())


def _from_given(case: _Case, given: Path) -> Start:
    kind = snapshot_kind(given) if given.is_dir() else None
    if kind is None:
        raise MissingInitialError(
            "holds neither an adapter nor model weights", where=given, hint="give --initial the directory of one"
        )
    start, misfit = _read(case, Snapshot(0, given, kind), "given by --initial")
    if misfit is not None and not misfit.tolerable:
        raise BaseModelError(misfit.what, where=given, hint="give the start of this very run, and its base with --base")
    return start


def _from_run(case: _Case, run: RunDirectory) -> Start | None:
    first = next((snapshot for snapshot in run.snapshots if snapshot.path == run.initial), None)
    if first is None or first.kind != "adapter" or case.is_quantized:
        return None
    start, misfit = _read(case, first, "the run's own step 0")
    if misfit is not None and not misfit.tolerable:
        raise BaseModelError(
            f"its step 0 does not fit the base: {misfit.what}",
            where=first.path,
            hint="give the base that it was trained on with --base",
        )
    return start


def _beside(case: _Case, snapshot: Snapshot, run: RunDirectory) -> Start | None:
    places = dict.fromkeys([snapshot.path, snapshot.path.parent, run.path, run.path / "adapters"])
    adapters: list[Snapshot] = []
    residuals: list[Snapshot] = []
    for directory in _directories(places):
        kind = snapshot_kind(directory)
        if kind == "adapter" and _INITIAL_NAME.fullmatch(directory.name):
            adapters.append(Snapshot(0, directory, kind))
        elif kind == "full" and _RESIDUAL_NAME.fullmatch(directory.name):
            residuals.append(Snapshot(0, directory, kind))
    for found in (adapters, residuals):
        fitting = [start for start, misfit in (_try(case, one) for one in found) if start and misfit is None]
        if len(fitting) > 1:
            raise MissingInitialError(
                f"{found[0].path.name} and {found[1].path.name} could both be its start",
                where=snapshot.path,
                hint="say which with --initial DIR",
            )
        if fitting:
            return fitting[0]
    return None


def _directories(places: Iterable[Path]) -> list[Path]:
    return sorted({child for place in places if place.is_dir() for child in place.iterdir() if child.is_dir()})


def _try(case: _Case, initial: Snapshot) -> tuple[Start | None, Misfit | None]:
    try:
        return _read(case, initial, f"{initial.path.name}, found beside the checkpoints")
    except SpectraError:  # another adapter that happens to have such a name
        return None, None


def _read(case: _Case, found: Snapshot, origin: str) -> tuple[Start, Misfit | None]:
    """Return the start that a directory holds, and how it does not fit, if it does not."""
    if found.kind == "full":
        weights = TensorStore.open_model(found.path, case.base.open_files).as_stored()
        residual = ResidualStart(origin, weights, case.base.transposed)
        differences = (
            (case.weight(m), residual.removed(m, case.weight(m)).dense(), _rank(case, m)) for m in case.modules
        )
        return residual, None if case.is_quantized else residual_misfit(differences)
    if case.is_quantized:
        raise MissingInitialError(
            f"{case.init} froze quantised weights, which no adapter holds",
            where=found.path,
            hint="save those weights in float32 as a model directory, and give it with --initial DIR",
        )
    initial = Adapter.open(found, lora.LORA, case.base.open_files)
    _require_same_tensors(case, initial)
    start = AdapterStart(origin, initial)
    pairs = ((case.weight(m), start.removed(m, case.weight(m)), _half(initial, m)) for m in case.modules)
    return start, initial_misfit(case.init, pairs)


def _rank(case: _Case, module: str) -> int:
    return int(case.adapter.tensor(module, "lora_A").shape[0])


def _half(adapter: Adapter, module: str) -> bool:
    return adapter.tensor(module, "lora_A").element_size() < 4


def _require_same_tensors(case: _Case, initial: Adapter) -> None:
    init = initialization_value(initial.config)
    # peft's recipe for conversion saves the start with init_lora_weights=True, so that it can be loaded again.
    if init not in (case.init, "true"):
        raise MissingInitialError(
            f"was initialised by {init}, the adapter by {case.init}",
            where=initial.path,
            hint="give the start of this very run",
        )
    for module, parts in case.adapter.parts.items():
        for part, key in parts.items():
            other = initial.parts.get(module, {}).get(part)
            if part in ("lora_A", "lora_B") and (other is None or _shape(initial, other) != _shape(case.adapter, key)):
                raise MissingInitialError(
                    f"its {part} of {module} is not there, or has another shape than the adapter's",
                    where=initial.path,
                    hint="give the start of this very run",
                )


def _shape(adapter: Adapter, key: str) -> tuple[int, ...]:
    store = adapter.store
    return store.shapes[key] if isinstance(store, TensorStore) else tuple(store[key].shape)


def _recomputed(case: _Case) -> Start:
    path = case.adapter.path
    if case.facts is None or case.facts.part is None:
        raise MissingInitialError(
            f"{case.init} moves the base at initialisation, so ΔW = s(BA − B₀A₀) needs the adapter of step 0, which is "
            f"not there, and which cannot be recomputed: {_why_not(case.facts)}",
            where=path,
            hint="give its directory with --initial DIR; next time save it before training "
            "(`model.save_pretrained(run/'checkpoint-0')` right after get_peft_model), or convert the adapter with "
            "peft's path_initial_model_for_weight_conversion",
        )
    start = RecomputedStart(f"{case.init} recomputed in float64 from the base", case.adapter, case.init)
    for module in case.modules:
        weight = case.weight(module)
        start.subtract(module, weight, product(case.adapter, module, weight))
    return start


def _why_not(facts: Initialization | None) -> str:
    return (None if facts is None else facts.why_unknown) or "spectra does not know how it was made"
