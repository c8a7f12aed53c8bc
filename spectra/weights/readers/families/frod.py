"""ΔW of FRoD: U(S + diag λ)Vᵀ − W, with U per module and V shared by all layers of a module type.

W = U·diag(λ₀)·Vᵀ exactly: V is computed from the weights of all layers of the module type, U are the normalized columns
of W·V⁻ᵀ, and λ₀ their lengths. S (sparse, off-diagonal) and λ are trained (doi 10.1609/aaai.v40i31.39813). U is not
saved: it is recomputed from W and V in float64 and rounded as peft does. V and the positions of S are saved unless
``save_projection`` is off; then they are recomputed from the base, in float32 on the CPU as in peft.

peft replaces W by the product, so that the rounding of U is part of ΔW: about 1e-7 of ‖W‖ before any training.
"""

import re
from collections import defaultdict
from functools import cached_property, partial

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, Operator
from spectra.weights.readers.adapter import Adapter, Changes, Reader, require_shape, updates_by
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore

# Columns of W·V⁻ᵀ shorter than this have no direction in peft's decomposition.
_NO_DIRECTION = 1e-12


class _Projections:
    """V and the positions of S's entries by module type: loaded from the file or recomputed from the base."""

    def __init__(self, adapter: Adapter, base: TensorStore) -> None:
        self.adapter = adapter
        self.base = base
        self.is_saved = bool(adapter.config["save_projection"])
        self._recomputed: dict[str, Tensor] = {}

    def v(self, kind: str) -> Tensor:
        """Return V, I × I, in the dtype of the base in training."""
        if self.is_saved:
            return self._saved("frod_V", kind)
        if kind not in self._recomputed:
            modules = self._by_kind[kind]
            matrices = [self._weight(modules[layer]) for layer in sorted(modules)]
            basis = _shared_basis([m.to(torch.float32) for m in matrices], self.adapter.config["regularization_alpha"])
            self._recomputed[kind] = basis.to(matrices[0].dtype)
        return self._recomputed[kind]

    def positions(self, kind: str) -> Tensor:
        """Return the rows and columns of the entries of S, 2 × N."""
        return self._saved("frod_s_indices", kind) if self.is_saved else self._drawn[kind]

    def _saved(self, name: str, kind: str) -> Tensor:
        key = self.adapter.shared.get(f"{name}.{kind}")
        if key is None:
            raise CorruptFileError(f"has no {name} for {kind}", where=self.adapter.path, hint="save the adapter again")
        return self.adapter.store[key]

    def _weight(self, module: str) -> Tensor:
        return self.base[f"{module}.weight"]

    @cached_property
    def _by_kind(self) -> dict[str, dict[int, str]]:
        """Modules by type and layer."""
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for module in self.adapter.parts:
            layers = found[_kind(module)]
            if _layer(module) in layers:
                raise UnsupportedMethodError(
                    f"save_projection is off, and {module} and {layers[_layer(module)]} are of one kind in one layer: "
                    "which of them defined the shared basis depends on the order of modules in the model's code",
                    where=self.adapter.path,
                    hint="load it with peft, set save_projection=True in its configuration and save it again",
                )
            layers[_layer(module)] = module
        return dict(found)

    @cached_property
    def _drawn(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(int(self.adapter.config["projection_prng_key"]))
        rate = float(self.adapter.config["sparse_rate"])
        return {
            kind: _off_diagonal(self._weight(next(iter(modules.values()))).shape[1], rate, generator)
            for kind, modules in sorted(self._by_kind.items())
        }


def _kind(module: str) -> str:
    """Return peft's name for the modules that share V: the last component of the path, or the last two joined.

    >>> _kind("model.layers.3.self_attn.q_proj"), _kind("transformer.h.0.attn"), _kind("lm_head")
    ('self_attn_q_proj', 'attn', 'lm_head')
    """
    parts = module.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    if parts[-3:] == ["attention", "output", "dense"]:
        return "attention_output"
    return f"{parts[-2]}_{parts[-1]}"


def _layer(module: str) -> int:
    """Return the layer number: the one after ``layers``, else the first number in the path, else −1."""
    match = re.search(r"(?:^|\.)layers\.(\d+)(?:\.|$)", module) or re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return int(match[1]) if match else -1


def _shared_basis(matrices: list[Tensor], alpha: float) -> Tensor:
    """Return V, I × I, of several O × I matrices, by peft's operations in float32.

    With the QR decomposition of the stacked matrices, V is Rᵀ times the eigenvectors of the mean of (QₗᵀQₗ + αI)⁻¹.
    """
    stacked = torch.cat(matrices)
    rows, columns = stacked.shape
    basis: Tensor
    if rows < columns:
        basis = torch.linalg.svd(stacked, full_matrices=True)[2].T
        return basis
    q, r = torch.linalg.qr(stacked)
    mean = torch.zeros(columns, columns)
    for part in q.split([len(matrix) for matrix in matrices]):
        mean += torch.linalg.inv(part.T @ part + alpha * torch.eye(columns))
    mean /= len(matrices)
    basis = r.T @ torch.linalg.eigh(mean)[1]
    return basis


def _off_diagonal(size: int, rate: float, generator: torch.Generator) -> Tensor:
    """Return random off-diagonal positions of a square matrix, 2 × N, drawn row by row without the diagonal."""
    available = size * size - size
    count = min(int(size * size * rate), available)
    if rate > 0 and available:
        count = max(1, count)
    if not count:
        return torch.empty(2, 0, dtype=torch.int64)
    chosen = torch.randperm(available, generator=generator)[:count]
    rows, columns = chosen // (size - 1), chosen % (size - 1)
    return torch.stack([rows, columns + (columns >= rows)])


def _changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    return Changes(updates_by(oriented(partial(_frod, _Projections(adapter, base))), adapter))


def _frod(projections: _Projections, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    stored = projections.v(_kind(module))
    require_shape(adapter, module, weight, (None, len(stored)))
    v = stored.to(weight)
    middle = torch.diag(adapter.tensor(module, "frod_lambda_l").to(weight))
    rows, columns = projections.positions(_kind(module)).to(weight.device)
    middle[rows, columns] = adapter.tensor(module, "frod_lambda_s_values").to(weight)
    return Dense(_left(weight, v, stored.dtype) @ middle @ v.T - weight)


def _left(weight: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    """Return U, O × I: the columns of W·V⁻ᵀ, normalized, rounded to float32 and to the dtype of the base."""
    try:
        columns = torch.linalg.solve(v, weight.T).T
    except RuntimeError:  # V is singular
        columns = weight @ torch.linalg.pinv(v, rtol=1e-6).T
    lengths = torch.linalg.vector_norm(columns, dim=0)
    directions = torch.where(lengths > _NO_DIRECTION, columns / lengths, 0.0)
    return directions.to(torch.float32).to(dtype).to(weight)


READERS = {
    "FROD": Reader(
        parts=("frod_lambda_l", "frod_lambda_s_values"),
        changes=_changes,
        shared=("frod_V", "frod_s_indices", "frod_s_size"),
    )
}
