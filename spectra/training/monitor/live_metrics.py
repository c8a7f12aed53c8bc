"""Cheap spectral metrics of one snapshot, logged during training, and early warnings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, median

import torch

from spectra.linalg.decompositions.spectrum import effective_rank_energy, top1_energy
from spectra.linalg.operators.basic import Operator
from spectra.runs.directory import Snapshot
from spectra.runs.tables import FLOAT32_ROUNDING
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates, parameter_name

# RLVR updates are some tenths of a percent of the base weights; this is far larger.
_LARGE = 0.05
_ONE_DIRECTION = 0.9
_MOST = 0.5
_SILENT = 0.95
_ENTROPY_LEFT = 0.1
# Number of recent logged steps for warnings about the log.
_WINDOW = 10
_LOGGED = ("relative_fro", "effective_rank", "top1_energy", "one_direction")


@dataclass(frozen=True)
class LiveMetrics:
    """Medians over the matrices of one snapshot that changed; unchanged ones are ignored, since often only few train.

    Attributes
    ----------
    relative_fro
        ‖ΔW‖_F/‖W‖_F; NaN if a matrix has NaN or infinity; at most rounding error if none has changed.
    effective_rank
        Effective rank (energy) of ΔW; NaN if ΔW is not factored, because its spectrum is not cheap.
    top1_energy
        Fraction of ‖ΔW‖² in the first singular direction; NaN likewise.
    one_direction
        Fraction of the matrices of rank 2 or more with most of their energy in one direction; NaN likewise.
    skipped
        Reason for each tensor of the snapshot that is not measured.
    """

    relative_fro: float
    effective_rank: float
    top1_energy: float
    one_direction: float
    skipped: Mapping[str, str] = field(default_factory=dict)

    def logged(self) -> dict[str, float]:
        """Return the metrics by their logged names, without unknown ones."""
        numbers = {name: getattr(self, name) for name in _LOGGED}
        return {f"spectra/{name}": value for name, value in numbers.items() if not math.isnan(value)}


@dataclass(frozen=True)
class LiveMetricsReader:
    """Measures snapshots against one base model.

    Attributes
    ----------
    base
        The base model's tensors.
    start
        Initialization offset of the base, for methods that move it.
    """

    base: TensorStore
    start: InitialOffset | None = None

    def read(self, snapshot: Snapshot) -> LiveMetrics | None:
        """Return the metrics of one snapshot: norms of every matrix, spectra of factored ones.

        Returns
        -------
        LiveMetrics | None
            None if no nonzero base matrix is changed, as when only vectors train.

        Raises
        ------
        SpectraError
            If the snapshot cannot be read.
        """
        updates = open_updates(snapshot, self.base, self.start)
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
        return self.base[parameter_name(module, self.base.files) or module].double()

    def _norm(self, module: str, weight: torch.Tensor) -> float:
        if module not in self._norms:
            self._norms[module] = float(torch.linalg.vector_norm(weight))
        return self._norms[module]

    @cached_property
    def _norms(self) -> dict[str, float]:
        return {}


def _medians(relative: list[float], spectra: list[torch.Tensor], skipped: Mapping[str, str]) -> LiveMetrics:
    moved = [size for size in relative if size > FLOAT32_ROUNDING]
    shapes = [(effective_rank_energy(sigma), top1_energy(sigma)) for sigma in spectra]
    nothing = math.nan
    return LiveMetrics(
        relative_fro=median(moved or relative) if all(map(math.isfinite, relative)) else nothing,
        effective_rank=median(rank for rank, _ in shapes) if shapes else nothing,
        top1_energy=median(top for _, top in shapes) if shapes else nothing,
        one_direction=fmean(top > _ONE_DIRECTION for _, top in shapes) if shapes else nothing,
        skipped=skipped,
    )


def _sizes(update: Operator) -> tuple[float, torch.Tensor | None]:
    """Return ‖ΔW‖_F, and the singular values if ΔW is factored."""
    if not update.is_finite():
        return math.nan, None
    if update.rank_bound < min(update.shape):
        sigma = update.svdvals()
        return float(torch.linalg.vector_norm(sigma)), sigma
    return float(torch.linalg.vector_norm(update.dense())), None


def live_warnings(metrics: LiveMetrics, step: int, log: list[Mapping[str, float]]) -> list[str]:
    """Return early warnings, one sentence each.

    Parameters
    ----------
    metrics
        Metrics of a snapshot after step 0.
    step
        Its step.
    log
        Records logged so far, with canonical names.
    """
    found = []
    if math.isnan(metrics.relative_fro):
        found.append(f"step {step}: the update has NaN or infinity; stop, and lower the learning rate")
    if metrics.relative_fro <= FLOAT32_ROUNDING:
        found.append(f"step {step}: no weight has moved; check that the adapter trains and that rewards vary")
    if metrics.relative_fro > _LARGE:
        size = f"‖ΔW‖ is {metrics.relative_fro:.0%} of ‖W‖"
        found.append(f"step {step}: {size}, far beyond what RLVR needs; lower the learning rate")
    if metrics.one_direction > _MOST:
        share = f"{metrics.one_direction:.0%} of the matrices"
        found.append(f"step {step}: in {share} one direction has over {_ONE_DIRECTION:.0%} of the update")
    if metrics.skipped:
        module, reason = next(iter(metrics.skipped.items()))
        more = f" (and {len(metrics.skipped) - 1} more)" if len(metrics.skipped) > 1 else ""
        found.append(f"step {step}: {module} is not measured{more}: {reason}")
    return found + _log_warnings(step, log)


def _log_warnings(step: int, log: list[Mapping[str, float]]) -> list[str]:
    found = []
    silent = [record["zero_advantage_share"] for record in log if "zero_advantage_share" in record]
    if len(silent) >= _WINDOW and fmean(silent[-_WINDOW:]) >= _SILENT:
        found.append(f"step {step}: {fmean(silent[-_WINDOW:]):.0%} of the groups give no gradient")
    entropy = [record["entropy"] for record in log if "entropy" in record]
    if len(entropy) >= 2 * _WINDOW and median(entropy[-_WINDOW:]) < _ENTROPY_LEFT * median(entropy[:_WINDOW]):
        found.append(f"step {step}: entropy is under {_ENTROPY_LEFT:.0%} of its initial value")
    return found
