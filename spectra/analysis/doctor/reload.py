"""Predict the error of loading an adapter on the pristine base if its initialization changed the base weights.

PiSSA and similar methods train on W − s·B₀A₀. Behavior of loaders with the saved adapter (read in ``LoraLayer`` of peft
0.21, and measured in ``reports/wrong_base.md``):

=============  ===================================================  ==============================================
start          ``PeftModel.from_pretrained``                        a server or script that adds s·BA to W
=============  ===================================================  ==============================================
pissa          decomposes W again: right, up to rounding            s·B₀A₀ too much
pissa_niter_N  a new random decomposition: s(B₀A₀ − B₀'A₀') off      s·B₀A₀ too much
olora          decomposes W again: right, up to rounding            s·B₀A₀ too much
corda          refuses to load: the activations are not there       s·B₀A₀ too much
loftq          quantizes W again                                    s·B₀A₀ too much
lora_ga        does not move the base: s·B₀A₀ too much              s·B₀A₀ too much
MiLoRA         does not know of it: s·B₀A₀ too much                 s·B₀A₀ too much
=============  ===================================================  ==============================================
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.doctor.offsets import Block, agreed, block
from spectra.analysis.verdict.findings import Check
from spectra.errors import BaseModelError, MissingInitialError, SpectraError
from spectra.linalg.decompositions.basis import Factors, thin_svd
from spectra.linalg.operators.basic import LowRank, Operator
from spectra.weights.facts import MILORA, Initialization, find_initialization, initialization_value
from spectra.weights.initialization.detect import DESCRIPTIONS
from spectra.weights.readers.families.lora_options import moving_start, product, scale
from spectra.weights.readers.rank_patterns import rank_and_alpha

NAME = "wrong_base"
# A weight error above this fraction of ‖ΔW‖ is not rounding: the loaded model is not the trained one.
LIMIT = 0.1
# Without ΔW: the size of a large RLVR update, in ‖W‖.
_FALLBACK = 1e-3
SEEDS = (0, 1, 2)
_OWN_SEED = 3  # of the draw that stands for a start which is not at hand
# Parts of W whose computation takes an SVD.
_TRIPLETS = ("first_triplets", "last_triplets")
_EXPORT = "run `spectra export` and evaluate the equivalent plain LoRA, or load the adapter on W − s·B₀A₀"


@dataclass(frozen=True)
class Reload:
    """The weight error of one matrix if its adapter is loaded on the pristine base, relative to ‖W‖.

    Attributes
    ----------
    module
        The matrix.
    added
        Where s·BA is added to W and the start is ignored: ‖s·B₀A₀‖.
    peft
        Where ``PeftModel.from_pretrained`` initializes again on the base in its stored dtype, loads, and merges; NaN
        where it does not load at all.
    half
        The same on the base in bfloat16.
    update
        ‖ΔW‖; NaN where the start is not known.
    """

    module: str
    added: float
    peft: float
    half: float
    update: float


def check(case: Case) -> list[Check]:
    """Detect adapters whose initialization changed the base: availability, and result of a plain load."""
    if case.adapter is None or case.base is None or case.config.get("peft_type") != "LORA":
        return []
    if not case.sample or not case.finite:
        return []
    error = case.obstacles.get("start")
    try:
        family = moving_start(case.config) or _by_its_tensors(case)
    except SpectraError as obstacle:
        return [skipped(NAME, obstacle.what, obstacle.hint or "")]
    if error is not None and (family is None or not isinstance(error, MissingInitialError | BaseModelError)):
        return [skipped(NAME, error.what, error.hint or "")]
    if family is None:
        return _belongs(case)
    init = initialization_value(case.config)
    try:
        found = list(predict(case, family if init in ("true", "false") else init))
    except SpectraError:  # its tensors do not fit the base, which other checks say
        found = []
    return _judged(case, family, found)


def _belongs(case: Case) -> list[Check]:
    if case.start is not None:
        return [ok(NAME, f"its initialization is available ({case.start.origin})")]
    return [ok(NAME, "the adapter fits the original base model")] if case.changes is not None else []


def _by_its_tensors(case: Case) -> str | None:
    """Return the method whose initialization the tensors show although the configuration is plain, or None.

    Raises
    ------
    SpectraError
        If its tensors do not fit the base or the configuration.
    """
    error = case.obstacles.get("start")
    named = next((name for name, words in DESCRIPTIONS.items() if error is not None and words in error.what), None)
    misplaced = _misplaced(case)
    if misplaced is None:
        return named
    return "milora" if misplaced.end == "last" else "pissa"


def _misplaced(case: Case) -> Block | None:
    """Return the block of the base inside an adapter with a plain initialization, or None."""
    if case.adapter is None or case.config.get("use_dora"):
        return None
    firsts, lasts = [], []
    for module in case.affordable:
        if "lora_A" not in case.adapter.parts[module]:  # an embedding's start never moves it
            continue
        weight = case.weight(module).double()
        moved, rank = product(case.adapter, module, weight), rank_and_alpha(case.config, module)[0]
        if 4 * rank > min(weight.shape) or moved.frobenius() == 0 or not bool(weight.any()):
            continue
        basis = thin_svd(weight)
        firsts.append(block(moved, basis, "first", rank))
        lasts.append(block(moved, basis, "last", rank))
    return agreed(lasts) or agreed(firsts)


def predict(case: Case, init: str) -> Iterator[Reload]:
    """Yield the weight errors of some matrices.

    Where the start is not at hand, one made from the base stands for it: the same for a deterministic method, another
    draw for a random one.

    Parameters
    ----------
    case
        An adapter with its base.
    init
        The initialization: ``pissa``, ``pissa_niter_4``, ``olora``, ``corda``, ``milora`` …

    Raises
    ------
    MissingInitialError
        If the start is not at hand and does not follow from the base.
    """
    if case.adapter is None:
        return
    part = _part(init)
    known = case.start is not None or part is not None
    decomposed = part in _TRIPLETS or (part is not None and case.start is None)
    for module in case.affordable if decomposed else case.sample:
        weight = case.weight(module).double()
        norm, rank = float(torch.linalg.vector_norm(weight)), rank_and_alpha(case.config, module)[0]
        if not norm > 0 or "lora_A" not in case.adapter.parts[module]:  # an embedding's start never moves it
            continue
        if case.start is None:
            removed = taken(weight, rank, init, _OWN_SEED, scale(case.adapter, module))
        else:
            removed = case.start.removed(module, weight)
        moved = product(case.adapter, module, weight).dense()
        case_of_load = _Load(weight, removed.dense(), moved, rank, init)
        yield Reload(
            module,
            removed.frobenius() / norm,
            case_of_load.error(case.weight(module).dtype) / norm,
            case_of_load.error(torch.bfloat16) / norm,
            float(torch.linalg.vector_norm(moved - removed.dense())) / norm if known else float("nan"),
        )


@dataclass(frozen=True)
class _Load:
    """One matrix as ``PeftModel.from_pretrained`` on the pristine base and a merge make it.

    Attributes
    ----------
    weight, removed, moved
        W, s·B₀A₀ and s·BA in float64.
    rank, init
        Of the adapter.
    """

    weight: Tensor
    removed: Tensor
    moved: Tensor
    rank: int
    init: str

    def error(self, dtype: torch.dtype) -> float:
        """Return ‖loaded and merged − trained‖, the median over redraws; NaN where the adapter does not load."""
        if self._on_load == "refused":
            return float("nan")
        trained = self.weight - self.removed + self.moved
        stored = self.weight.to(dtype).double()
        merged = [(frozen.to(dtype).double() + self.moved).to(dtype).double() for frozen in self._frozen(stored)]
        return median(float(torch.linalg.vector_norm(one - trained)) for one in merged)

    def _frozen(self, stored: Tensor) -> Iterator[Tensor]:
        """Yield what the load leaves of the base, for each draw."""
        if self._on_load == "redrawn":
            yield from (stored - taken(stored, self.rank, self.init, seed).dense() for seed in SEEDS)
        elif self._on_load == "unmoved":
            yield stored
        elif _part(self.init) in _TRIPLETS:
            yield stored - taken(stored, self.rank, self.init, _OWN_SEED).dense()
        else:
            yield stored - self.removed

    @property
    def _on_load(self) -> str:
        facts = _facts(self.init)
        return "unmoved" if facts is None else facts.on_load


def _facts(init: str) -> Initialization | None:
    return MILORA if init == MILORA.name else find_initialization(init)


def _part(init: str) -> str | None:
    facts = _facts(init)
    return None if facts is None else facts.part


def taken(weight: Tensor, rank: int, init: str, seed: int, factor: float = 1.0) -> Operator:
    """Return s·B₀A₀ as an initialization takes it out of a base weight, O × I in float64.

    ``pissa_niter_N`` draws from a random stream of its own, seeded with ``seed``, what peft draws from the global one.
    OLoRA alone needs the scale s, which is ``factor``.

    Raises
    ------
    MissingInitialError
        If it does not follow from the weight alone.
    """
    if init.startswith("pissa_niter_"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            u, s, v = torch.svd_lowrank(weight.float(), rank, niter=int(init.rpartition("_")[2]))
        return LowRank(u * s, v.T)
    part = _part(init)
    if part is None:
        raise MissingInitialError("does not follow from the base alone", where=init, hint="give it with --initial DIR")
    if part == "first_columns":
        q, r = torch.linalg.qr(weight)
        return LowRank(q[:, :rank], r[:rank], factor)
    return _triplets(thin_svd(weight), rank, last=part == "last_triplets")


def _triplets(basis: Factors, rank: int, *, last: bool) -> LowRank:
    kept = slice(len(basis.s) - rank, None) if last else slice(0, rank)
    return LowRank(basis.u[:, kept] * basis.s[kept], basis.v[:, kept].T)


def _judged(case: Case, family: str, found: list[Reload]) -> list[Check]:
    name = str(case.config.get("init_lora_weights", True))
    label = name if moving_start(case.config) else f"{family} by its tensors (the configuration says {name})"
    added = median(one.added for one in found) if found else None
    says = f"{label} changes the base weights at initialization"
    if added is not None:
        says += f": on the pristine base, the error is s·B₀A₀, {added:.3g}·‖W‖ (median of {len(found)})"
    error = case.obstacles.get("start")
    if case.start is None:
        action = (error.hint if error is not None else None) or "pass the step-0 adapter of this run with --initial DIR"
        why = "its initialization is not available" if error is None else error.what
        missing = Check(
            NAME,
            "fault",
            fact("start", f"{says}; {why}", added, _limit(found)),
            f"{action}; without it, the trained model cannot be rebuilt",
            "wrong_base",
            str(case.path),
        )
        return [missing, *_reinitialized(case, found)]
    note = Check(
        NAME,
        "note",
        fact("added_error", f"{says}; its initialization is available ({case.start.origin})", added),
        _EXPORT,
    )
    return [note, *_reinitialized(case, found)]


def _limit(found: list[Reload]) -> float:
    updates = [one.update for one in found if one.update == one.update]
    return LIMIT * median(updates) if updates else _FALLBACK


def _reinitialized(case: Case, found: list[Reload]) -> list[Check]:
    """Report the result of ``PeftModel.from_pretrained`` on the pristine base."""
    errors = [one.peft for one in found if one.peft == one.peft]
    if not errors:
        return []
    error, limit = median(errors), _limit(found)
    init = case.config.get("init_lora_weights", True)
    what = f"PeftModel.from_pretrained on the pristine base is off by {error:.3g}·‖W‖"
    updates = [one.update for one in found if one.update == one.update]
    times = f", {error / median(updates):.2g} times the update" if updates and median(updates) > 0 else ""
    half = median(one.half for one in found)
    says = (
        f"{what}{times}, on the base in bfloat16 by {half:.3g}·‖W‖ (init_lora_weights {init}, median of {len(errors)}, "
        f"worst {max(errors):.3g})"
    )
    if error <= limit:
        return [ok("reload", says, error, limit)]
    return [Check("reload", "note", fact("reload_error", says, error, limit, 0.0), _EXPORT)]
