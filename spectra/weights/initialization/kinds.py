"""Sources of the initial offset: the step-0 adapter, the frozen residual base, or recomputation from the base."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from spectra.errors import MissingInitialError
from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS
from spectra.weights.readers.adapter import Adapter
from spectra.weights.readers.families.lora_options import product, scale
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore

# ‖error‖/‖ΔW‖ up to which a recomputed offset is accepted.
RECOMPUTED_LIMIT = 0.01
# Backward error of a float32 SVD or QR with its saved factors, in units of ε‖W‖_F; measured at 16² to 1024²: up to 6.
_ROUNDINGS = 8.0


@dataclass(frozen=True, eq=False)
class AdapterOffset(InitialOffset):
    """Offset of the adapter saved before the first step.

    Attributes
    ----------
    adapter
        The adapter; tensors are read on demand.
    """

    adapter: Adapter

    @property
    def files(self) -> tuple[Path, ...]:
        """Configuration and tensors."""
        names = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_PICKLE)
        return tuple(path for path in (self.adapter.path / name for name in names) if path.exists())

    def removed(self, module: str, weight: Float64[Tensor, "o i"]) -> Operator:
        """Return s·B₀A₀ of the saved factors."""
        return product(self.adapter, module, weight)


@dataclass(frozen=True, eq=False)
class ResidualOffset(InitialOffset):
    """Offset W − W_res, rounding included, of frozen weights that were saved as a separate model.

    Attributes
    ----------
    store
        Its tensors, as stored.
    transposed
        Names of matrices stored I × O in it and in the base.
    """

    store: TensorStore
    transposed: frozenset[str] = frozenset()

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's weight files."""
        return tuple(sorted(set(self.store.files.values())))

    def removed(self, module: str, weight: Float64[Tensor, "o i"]) -> Operator:
        """Return W − W_res."""
        name = f"{module}.weight"
        flipped = name in self.transposed
        shape = tuple(weight.T.shape if flipped else weight.shape)
        if name not in self.store or self.store.shapes[name] != shape:
            raise MissingInitialError(
                f"the residual base has no {name} of shape {shape}",
                where=self.store.directory,
                hint="pass the frozen weights of this run with --initial",
            )
        frozen = self.store[name].to(weight)
        return Dense(weight - (frozen.T if flipped else frozen))


@dataclass(frozen=True, eq=False)
class RecomputedOffset(InitialOffset):
    """Offset of a deterministic initialization, recomputed from the base in float64.

    - ``pissa``: s·B₀A₀ is the best rank-r approximation of W, unique if σ_r > σ_{r+1} (Meng et al. 2024).
    - ``olora``: s·B₀A₀ = s·P W, with P the projection onto the span of W's first r columns, unique if they are
      independent, regardless of the signs in the QR (Büyükakyüz 2024).

    Training computed it in float32. The difference is estimated as ε‖W‖_F times the roundings of a decomposition plus
    the condition number of the map: σ_r/(σ_r − σ_{r+1}) for pissa, that of the first r columns for olora.

    Attributes
    ----------
    adapter
        The trained adapter, for ranks and scales.
    init
        ``pissa`` or ``olora``.
    """

    adapter: Adapter
    init: str

    @property
    def files(self) -> tuple[Path, ...]:
        """None besides the adapter and the base."""
        return ()

    def removed(self, module: str, weight: Float64[Tensor, "o i"]) -> Operator:
        """Return the recomputed s·B₀A₀."""
        return self._recomputed(module, weight)[0]

    def error(self, module: str, weight: Float64[Tensor, "o i"]) -> float:
        """Return the estimated ‖recomputed − actual‖_F; infinite if the initialization is not unique."""
        return self._recomputed(module, weight)[1]

    def subtract(self, module: str, weight: Float64[Tensor, "o i"], moved: Operator) -> Operator:
        """Return s·BA − s·B₀A₀; refused if the estimated error exceeds 1 % of it."""
        change = super().subtract(module, weight, moved)
        error, norm = self.error(module, weight), change.frobenius()
        if error > RECOMPUTED_LIMIT * norm:
            share = f"{error / norm:.1%} of the update" if norm > 0 else "more than the update"
            raise MissingInitialError(
                f"{module}: {self.init} can be recomputed from the base only to {share} (estimated)",
                where=self.adapter.path,
                hint="pass the adapter saved before training with --initial DIR",
            )
        return change

    def _recomputed(self, module: str, weight: Tensor) -> tuple[Operator, float]:
        """Return s·B₀A₀ and its estimated error: one decomposition per weight tensor, kept as long as that lives."""
        known = self._known.get(weight)
        if known is None or known[0] != module:
            known = self._known[weight] = (module, self._decomposed(module, weight))
        return known[1]

    @cached_property
    def _known(self) -> MutableMapping[Tensor, tuple[str, tuple[Operator, float]]]:
        return WeakTensorKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_known"}

    def _decomposed(self, module: str, weight: Tensor) -> tuple[Operator, float]:
        a = self.adapter.tensor(module, "lora_A")
        rank = a.shape[0]
        if self.init == "pissa":
            operator, condition = _truncated(weight, rank)
        else:
            operator, condition = _projected(weight, rank, scale(self.adapter, module))
        # Factors saved in half precision were rounded to it at initialization too.
        rounding = max(torch.finfo(a.dtype).eps, torch.finfo(torch.float32).eps)
        return operator, rounding * float(torch.linalg.vector_norm(weight)) * (_ROUNDINGS + condition)


def _truncated(weight: Tensor, rank: int) -> tuple[Operator, float]:
    svd = thin_svd(weight)
    last = float(svd.s[rank - 1])
    gap = last - (float(svd.s[rank]) if rank < len(svd.s) else 0.0)
    operator = LowRank(svd.u[:, :rank] * svd.s[:rank], svd.v[:, :rank].T)
    return operator, last / gap if gap > 0 else float("inf")


def _projected(weight: Tensor, rank: int, factor: float) -> tuple[Operator, float]:
    q, r = torch.linalg.qr(weight)
    sigma = torch.linalg.svdvals(r[:rank, :rank])
    condition = float(sigma[0] / sigma[-1]) if float(sigma[-1]) > 0 else float("inf")
    return LowRank(q[:, :rank], r[:rank], factor), abs(factor) * condition
