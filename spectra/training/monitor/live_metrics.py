"""A few spectral numbers of one snapshot, cheap enough to be logged while training, and what is wrong with them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

import torch

from spectra.linalg.decompositions.spectrum import effective_rank_energy, top1_energy
from spectra.linalg.operators.basic import Operator
from spectra.runs.directory import Snapshot
from spectra.runs.tables import FLOAT32_ROUNDING
from spectra.weights.readers.offset import Start
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates, parameter_name

# RLVR updates are some tenths of a percent of the base; this many are far outside.
_LARGE = 0.05
_ONE_DIRECTION = 0.9
_MOST = 0.5
_SILENT = 0.95
_ENTROPY_LEFT = 0.1
# Logged steps that a warning about the log looks back on.
_WINDOW = 10
_LOGGED = ("relative_fro", "effective_rank", "top1_energy", "one_direction")


@dataclass(frozen=True)
class Pulse:
    """Medians over the matrices of one snapshot that have moved: where few train, the others' zeros tell nothing.

    Attributes
    ----------
    relative_fro
        ‖ΔW‖_F/‖W‖_F; NaN where a matrix holds NaN or infinity; at most rounding where none has moved.
    effective_rank
        Effective rank (energy) of ΔW; NaN where ΔW has no factors, whose spectrum is not cheap.
    top1_energy
        Share of ‖ΔW‖² in the first singular direction; NaN likewise.
    one_direction
        Share of the matrices of rank 2 and more that have most of their energy in one direction; NaN likewise.
    skipped
        Tensors of the snapshot that are not measured, with the reason.
    """

    relative_fro: float
    effective_rank: float
    top1_energy: float
    one_direction: float
    skipped: Mapping[str, str] = field(default_factory=dict)

    def logged(self) -> dict[str, float]:
        """Return the numbers under the names that they are logged by; what is not known is left out."""
        numbers = {name: getattr(self, name) for name in _LOGGED}
        return {f"spectra/{name}": value for name, value in numbers.items() if not math.isnan(value)}


@dataclass(frozen=True)
class PulseReader:
    """Measures snapshots against one base.

    Attributes
    ----------
    base
        Directory of the base model.
    start
        What initialisation took out of the base, for methods that move it.
    """

    base: Path
    start: Start | None = None

    def read(self, snapshot: Snapshot) -> Pulse | None:
        """Return the numbers of one snapshot: norms of every matrix, spectra of those that have factors.

        Returns
        -------
        Pulse | None
            None where no base matrix other than zero is changed: of vectors alone there are no such numbers.

        Raises
        ------
        SpectraError
            If the snapshot cannot be read.
        """
        updates = open_updates(snapshot, self._store, self.start)
        relative: list[float] = []
        spectra: list[torch.Tensor] = []
        for module, function in updates.matrices.items():
            weight = self._weight(module)
            norm, sigma = _sizes(function(weight))
            size = self._norm(module, weight)
            if math.isnan(norm) or size > 0:
                relative.append(norm / (size or math.nan))
            if sigma is not None and norm > FLOAT32_ROUNDING * size and len(sigma) > 1:
                spectra.append(sigma)
        return _medians(relative, spectra, updates.skipped) if relative else None

    def _weight(self, module: str) -> torch.Tensor:
        return self._store[parameter_name(module, self._store.files) or module].double()

    def _norm(self, module: str, weight: torch.Tensor) -> float:
        if module not in self._norms:
            self._norms[module] = float(torch.linalg.vector_norm(weight))
        return self._norms[module]

    @cached_property
    def _store(self) -> TensorStore:
        return TensorStore.open_model(self.base)

    @cached_property
    def _norms(self) -> dict[str, float]:
        return {}


def _medians(relative: list[float], spectra: list[torch.Tensor], skipped: Mapping[str, str]) -> Pulse:
    moved = [size for size in relative if size > FLOAT32_ROUNDING]
    shapes = [(effective_rank_energy(sigma), top1_energy(sigma)) for sigma in spectra]
    nothing = math.nan
    return Pulse(
        relative_fro=median(moved or relative) if all(map(math.isfinite, relative)) else nothing,
        effective_rank=median(rank for rank, _ in shapes) if shapes else nothing,
        top1_energy=median(top for _, top in shapes) if shapes else nothing,
        one_direction=fmean(top > _ONE_DIRECTION for _, top in shapes) if shapes else nothing,
        skipped=skipped,
    )


def _sizes(update: Operator) -> tuple[float, torch.Tensor | None]:
    """Return ‖ΔW‖_F, and the singular values where factors give them cheaply."""
    if not update.is_finite():
        return math.nan, None
    if update.rank_bound < min(update.shape):
        sigma = update.svdvals()
        return float(torch.linalg.vector_norm(sigma)), sigma
    return float(torch.linalg.vector_norm(update.dense())), None


def warnings_of(pulse: Pulse, step: int, log: list[Mapping[str, float]]) -> list[str]:
    """Return what is wrong, one sentence each, as early as it can be seen.

    Parameters
    ----------
    pulse
        The numbers of a snapshot after step 0.
    step
        Its step.
    log
        Logged records so far, under canonical names.
    """
    found = []
    if math.isnan(pulse.relative_fro):
        found.append(f"step {step}: the update holds NaN or infinity; stop, and lower the learning rate")
    if pulse.relative_fro <= FLOAT32_ROUNDING:
        found.append(f"step {step}: no weight has moved; check that the adapter trains and that rewards vary")
    if pulse.relative_fro > _LARGE:
        size = f"‖ΔW‖ is {pulse.relative_fro:.0%} of ‖W‖"
        found.append(f"step {step}: {size}, far beyond what RLVR needs; lower the learning rate")
    if pulse.one_direction > _MOST:
        share = f"{pulse.one_direction:.0%} of the matrices"
        found.append(f"step {step}: in {share} one direction holds over {_ONE_DIRECTION:.0%} of the update")
    if pulse.skipped:
        module, reason = next(iter(pulse.skipped.items()))
        more = f" (and {len(pulse.skipped) - 1} more)" if len(pulse.skipped) > 1 else ""
        found.append(f"step {step}: {module} is not measured{more}: {reason}")
    return found + _log_warnings(step, log)


def _log_warnings(step: int, log: list[Mapping[str, float]]) -> list[str]:
    found = []
    silent = [record["zero_advantage_share"] for record in log if "zero_advantage_share" in record]
    if len(silent) >= _WINDOW and fmean(silent[-_WINDOW:]) >= _SILENT:
        found.append(f"step {step}: {fmean(silent[-_WINDOW:]):.0%} of the groups give no gradient")
    entropy = [record["entropy"] for record in log if "entropy" in record]
    if len(entropy) >= 2 * _WINDOW and median(entropy[-_WINDOW:]) < _ENTROPY_LEFT * median(entropy[:_WINDOW]):
        found.append(f"step {step}: entropy is under {_ENTROPY_LEFT:.0%} of where it began")
    return found
