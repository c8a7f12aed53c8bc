"""ΔW of methods whose factors come from tensors shared by all modules.

With O × I the module's shape and A, B, … sliced to it:

- VeRA: diag(λ_b)·B·diag(λ_d)·A; A (r × I_max), B (O_max × r) random and frozen. Kopiczko et al. 2024, arXiv 2310.11454.
- PVeRA: the same with A of 2r rows; the first r are the mean, which a merge uses, the others the log-variance of the
  noise. arXiv 2512.07703.
- RandLoRA: s·Σ over rank index and basis of B·diag(λ)·A·diag(γ), full rank by design, s = α/r; A (r × 1 × small), B
  (large × bases × r) random and frozen. Albert et al. 2025, arXiv 2502.00987.
- VB-LoRA: B·A, each a row of b-vectors, a vector the softmax mixture of ``topk`` vectors of a bank (h × b). Li et al.
  2024, arXiv 2405.15179.
- Uni-LoRA: B·A, each entry one element of a vector θ over the square root of its number of uses. Li et al. 2025,
  arXiv 2506.00799.

Projections that were not saved are redrawn from their seed as in peft
(:mod:`spectra.weights.readers.seeded`).
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from spectra.linalg.operators.basic import LowRank, Operator
from spectra.linalg.operators.kronecker_and_circulant import product
from spectra.weights.readers import seeded
from spectra.weights.readers.adapter import Adapter, Changes, Formula, Reader, per_module, updates_by
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore

# Function of the shared A and B, the adapter, a module and its base weight that returns ΔW.
_ProjectedFormula = Callable[[Tensor, Tensor, Adapter, str, Tensor], Operator]


def _projected(prefix: str, formula: _ProjectedFormula, draw: seeded.Draw) -> Callable[..., Changes]:
    """Return ``changes`` of a method with shared projections, stored or drawn from ``projection_prng_key``."""

    def changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
        names = [f"{prefix}_A", f"{prefix}_B"]
        if all(name in adapter.shared for name in names):
            stored_a, stored_b = (adapter.store[adapter.shared[name]] for name in names)
            ready: Formula = partial(formula, stored_a, stored_b)
        else:
            ready = partial(_drawn, formula, draw(adapter.config, *seeded.largest_shape(adapter, base)), base)
        return Changes(updates_by(oriented(ready), adapter))

    return changes


def _drawn(
    formula: _ProjectedFormula,
    drawn: tuple[Tensor, Tensor],
    base: TensorStore,
    adapter: Adapter,
    module: str,
    weight: Tensor,
) -> Operator:
    precision = seeded.precision(base, module)
    return formula(drawn[0].to(precision), drawn[1].to(precision), adapter, module, weight)


def _vera(a: Tensor, b: Tensor, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    return _scaled(a, b, adapter.tensor(module, "vera_lambda_d"), adapter.tensor(module, "vera_lambda_b"), weight)


def _pvera(a: Tensor, b: Tensor, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    mean = len(a) // 2
    by_rank = adapter.tensor(module, "pvera_lambda_d")[:mean]
    return _scaled(a[:mean], b, by_rank, adapter.tensor(module, "pvera_lambda_b"), weight)


def _scaled(a: Tensor, b: Tensor, by_rank: Tensor, by_output: Tensor, weight: Tensor) -> Operator:
    rows = by_output.to(weight)[:, None] * b[: len(by_output)].to(weight)
    return LowRank(rows, by_rank.to(weight)[:, None] * a[:, : weight.shape[1]].to(weight))


def _randlora(a: Tensor, b: Tensor, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    by_rank = adapter.tensor(module, "randlora_lambda").to(weight)
    by_column = adapter.tensor(module, "randlora_gamma").to(weight)
    bases, small = by_column.shape
    # peft orders A by (rank, basis) and B by (basis, rank), so that their terms pair up crosswise.
    narrow = (by_rank[:, :, None] * a[:, :bases, :small].to(weight) * by_column).flatten(0, 1)
    wide = b[: max(weight.shape), :bases].to(weight).flatten(1)
    scale = float(adapter.config.get("randlora_alpha", 640)) / int(adapter.config["r"])
    return product(wide, narrow, scale) if small == weight.shape[1] else product(narrow.T, wide.T, scale)


@oriented
def _vblora(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    bank = adapter.store[adapter.shared["vblora_vector_bank"]].to(weight)
    a = _mixture(adapter, module, "vblora_logits_A", bank)
    b = _mixture(adapter, module, "vblora_logits_B", bank)
    return LowRank(b.transpose(1, 2).flatten(0, 1), a.flatten(1))


def _mixture(adapter: Adapter, module: str, part: str, bank: Tensor) -> Tensor:
    """Return the mixed vectors; ``save_only_topk_weights`` stores all weights but the last, which sum to one."""
    if f"{part}_topk_indices" in adapter.parts[module]:
        chosen = adapter.tensor(module, f"{part}_topk_indices").to(bank.device, torch.int64)
        stored = adapter.tensor(module, f"{part}_topk_weights").to(bank)
        weights = torch.cat([stored, 1 - stored.sum(-1, keepdim=True)], dim=-1)
    else:
        logits, chosen = adapter.tensor(module, part).topk(int(adapter.config["topk"]), dim=-1)
        weights, chosen = torch.softmax(logits.to(bank), dim=-1), chosen.to(bank.device)
    return (weights[..., None] * bank[chosen]).sum(-2)


def _unilora_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    if adapter.parts:
        return Changes(updates_by(_unilora_stored, adapter))
    theta = adapter.store[adapter.shared["unilora_theta_d"]].to(torch.float64)
    dealt = seeded.unilora_indices(adapter, base)
    numbers = torch.cat([part.flatten() for pair in dealt.values() for part in pair])
    scales = torch.bincount(numbers, minlength=len(theta)).float().rsqrt()
    formula = oriented(partial(_unilora_dealt, theta, scales, dealt, base))
    return Changes(updates_by(formula, adapter, dealt))


def _unilora_dealt(
    theta: Tensor,
    scales: Tensor,
    dealt: Mapping[str, tuple[Tensor, Tensor]],
    base: TensorStore,
    adapter: Adapter,
    module: str,
    weight: Tensor,
) -> Operator:
    numbers = theta * scales.to(seeded.precision(base, module)).to(torch.float64)
    b, a = (numbers[part].to(weight.device) for part in dealt[module])
    return LowRank(b, a)


@oriented
def _unilora_stored(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    theta = adapter.store[adapter.shared["unilora_theta_d"]].to(torch.float64)
    b, a = (
        theta[adapter.tensor(module, f"unilora_indices_{side}").to(torch.int64)].to(weight)
        * adapter.tensor(module, f"unilora_scales_{side}").to(weight)
        for side in "BA"
    )
    return LowRank(b, a)


_UNILORA_PARTS = tuple(f"unilora_{kind}_{side}" for kind in ("indices", "scales") for side in "AB")
_VBLORA_PARTS = tuple(f"vblora_logits_{side}{kind}" for side in "AB" for kind in ("", "_topk_indices", "_topk_weights"))

READERS = {
    "VERA": Reader(
        parts=("vera_lambda_b", "vera_lambda_d"),
        changes=_projected("vera", _vera, seeded.vera),
        shared=("vera_A", "vera_B"),
    ),
    "PVERA": Reader(
        parts=("pvera_lambda_b", "pvera_lambda_d"),
        changes=_projected("pvera", _pvera, seeded.pvera),
        shared=("pvera_A", "pvera_B"),
    ),
    # peft stores a copy of the shared projections with each module; listed as parts, they are not taken for its own.
    "RANDLORA": Reader(
        parts=("randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B"),
        changes=_projected("randlora", _randlora, seeded.randlora),
        shared=("randlora_A", "randlora_B"),
    ),
    "VBLORA": Reader(parts=_VBLORA_PARTS, changes=per_module(_vblora), shared=("vblora_vector_bank",)),
    "UNILORA": Reader(parts=_UNILORA_PARTS, changes=_unilora_changes, shared=("unilora_theta_d",)),
}
