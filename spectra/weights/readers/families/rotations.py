"""ΔW of methods that rotate or reflect the input or output features of the base weight W.

- OFT: W·Rᵀ − W, R block-diagonal, each block a Cayley rotation of trained angles or peft's Neumann series for it
  (Qiu et al. 2023, arXiv 2306.07280; Qiu et al. 2025, arXiv 2506.19847). Of an embedding E: E·R − E.
- BOFT: diag(s)·W·Rᵀ − W, R a product of butterfly factors, each block-diagonal between two permutations (Liu et al.
  2024, arXiv 2311.06243).
- HRA: W·Π(I − 2u_iu_iᵀ) − W, or W·(I − 2QQᵀ) − W with the u_i orthonormalized (Yuan et al. 2024, arXiv 2405.17484).
- RoAd: R·W − W, R rotating and scaling pairs of outputs; a bias b becomes R·b (Liao et al. 2024, arXiv 2409.00119).

R − I is stored and multiplied with W on demand; for HRA it is an I × r times an r × I matrix.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UnsupportedMethodError
from spectra.linalg.decompositions.tolerance import rank_tolerance
from spectra.linalg.operators.basic import Dense, Difference, LowRank, Operator, RowScaled, Sum
from spectra.linalg.operators.multiplicative import BlockDiagonal, PlaneMix, Product
from spectra.linalg.operators.rotations import cayley_minus_identity, neumann_minus_identity, skew_symmetric
from spectra.weights.readers.adapter import Adapter, Changes, Reader, per_module, require_shape, updates_by
from spectra.weights.readers.families.vectors import biased
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore

# First peft version that truncates the Neumann series as neumann_minus_identity does; it warns about older files.
_NEUMANN_SINCE = (0, 18)


def _oft_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    if _is_neumann(adapter.config) and _peft_version(adapter.config) < _NEUMANN_SINCE:
        raise UnsupportedMethodError(
            "use_cayley_neumann means another series in the peft before 0.18 that wrote this adapter",
            where=adapter.path,
            hint="merge it with that peft in float32 and analyze the full checkpoint with --base",
        )
    return per_module(_oft, "fan_in_fan_out")(adapter, offset, base)


def _oft(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    is_embedding = "oft_embedding_R" in adapter.parts[module]
    angles = adapter.tensor(module, "oft_embedding_R" if is_embedding else "oft_R").to(weight)
    turn = _oft_turn(angles, adapter.config)
    if len(turn) == 1:  # shared by all blocks, or the only one
        turn = turn.expand(weight.shape[1] // turn.shape[1], -1, -1)
    require_shape(adapter, module, weight, (None, turn.shape[0] * turn.shape[1]))
    return _rotated(BlockDiagonal(turn.mT if is_embedding else turn), weight)


def _oft_turn(angles: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Return R − I of each block, N × B × B, from its B(B − 1)/2 angles."""
    q = skew_symmetric(angles)
    if config.get("coft"):
        # peft divides in float32; where the limit is active it must agree to the last digit.
        limit = float(config["eps"] / torch.sqrt(torch.tensor(len(q))))
        q = q * (limit / torch.linalg.matrix_norm(q, keepdim=True)).clamp(max=1)
    if _is_neumann(config):
        return neumann_minus_identity(q, int(config.get("num_cayley_neumann_terms", 5)))
    return cayley_minus_identity(-q)


def _is_neumann(config: Mapping[str, Any]) -> bool:
    return bool(config.get("use_cayley_neumann", True))


def _peft_version(config: Mapping[str, Any]) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", str(config.get("peft_version")))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _rotated(turn: Operator, weight: Tensor) -> Operator:
    """Return W·(R − I)ᵀ."""
    return Product(turn, Dense(weight.T)).T


def _boft(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    data, scale = adapter.tensor(module, "boft_R").to(weight), adapter.tensor(module, "boft_s").to(weight)
    require_shape(adapter, module, weight, (len(scale), data.shape[1] * data.shape[2]))
    turns = cayley_minus_identity((data.mT - data) / 2)
    turn: Operator = BlockDiagonal(turns[0]) if len(turns) == 1 else Dense(_butterfly(turns))
    factors = scale[:, 0]
    return Sum(RowScaled(factors, _rotated(turn, weight)), RowScaled(factors - 1, Dense(weight)))


def _butterfly(turns: Tensor) -> Tensor:
    """Return R − I of R = R_(F−1)…R₁R₀; ``turns`` holds R_f − I in blocks, F × N × B × B.

    Factor f mixes features B·2^f apart: within groups of B·2^f features, the even half blocks come first.
    """
    half = turns.shape[2] // 2
    total = torch.zeros_like(BlockDiagonal(turns[0]).dense())
    for factor, blocks in enumerate(turns):
        order = torch.arange(len(total), device=turns.device).reshape(-1, 2**factor, 2, half).transpose(1, 2).flatten()
        turn = BlockDiagonal(blocks).dense()[order][:, order]
        total = total + turn + turn @ total
    return total


def _hra(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    vectors = adapter.tensor(module, "hra_u").to(weight)
    require_shape(adapter, module, weight, (None, vectors.shape[0]))
    if adapter.config.get("apply_GS"):
        q = _orthonormal(adapter, module, vectors)
        return LowRank(weight @ q, q.T, -2.0)
    units = vectors / torch.linalg.vector_norm(vectors, dim=0)
    images = weight @ _reflected(units)
    # peft initializes pairs of equal reflections, which cancel; as a difference they cancel to exactly zero.
    return Difference(LowRank(images[:, 1::2], units[:, 1::2].T, -1.0), LowRank(images[:, ::2], units[:, ::2].T))


def _reflected(units: Tensor) -> Tensor:
    """Return Y of Π(I − 2u_iu_iᵀ) = I − Y·Uᵀ, I × r: column k is 2·Π_(i<k)(I − 2u_iu_iᵀ)·u_k."""
    y = units.new_zeros(units.shape[0], 0)
    for k, unit in enumerate(units.T):
        column = 2 * (unit - y @ (units[:, :k].T @ unit))
        y = torch.cat([y, column[:, None]], dim=1)
    return y


def _orthonormal(adapter: Adapter, module: str, vectors: Tensor) -> Tensor:
    q: Tensor
    q, r = torch.linalg.qr(vectors)
    lengths = r.diagonal().abs()
    rows, columns = vectors.shape
    if bool((lengths <= rank_tolerance(rows, columns, float(r.abs().max()))).any()):
        raise UnsupportedMethodError(
            f"{module}: apply_GS on linearly dependent columns of hra_u divides rounding by rounding, so there is no "
            "exact update",
            where=adapter.path,
            hint="train with init_weights=False: peft's default initializes pairs of equal columns",
        )
    return q


def _road_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    modules = biased(adapter.parts, base)
    vectors = {f"{module}.bias": partial(_road_bias, adapter, module) for module in modules}
    return Changes(updates_by(_road, adapter), vectors)


def _road(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    mix = _road_mix(adapter, module, weight)
    require_shape(adapter, module, weight, (mix.shape[0], None))
    return Product(mix, Dense(weight))


def _road_bias(adapter: Adapter, module: str, bias: Tensor) -> Tensor:
    return _road_mix(adapter, module, bias).matmul(bias[:, None])[:, 0]


def _road_mix(adapter: Adapter, module: str, like: Tensor) -> PlaneMix:
    """Return R − I: feature f has weight α_f·cos θ_f, its partner α_f·sin θ_f.

    ``road_1`` has one (θ, α) per pair, ``road_2`` one per feature, ``road_4`` one per feature for each of the two.
    """
    theta, alpha = adapter.tensor(module, "road_theta").to(like), adapter.tensor(module, "road_alpha").to(like)
    group, variant = int(adapter.config["group_size"]), adapter.config["variant"]
    if variant == "road_1":
        theta, alpha = (x.reshape(-1, group // 2).repeat_interleave(2, dim=0).flatten() for x in (theta, alpha))
    pairs = ((theta, alpha), (theta, alpha))
    if variant == "road_4":
        thetas, alphas = (x.reshape(-1, 2, group).transpose(0, 1).flatten(1) for x in (theta, alpha))
        pairs = ((thetas[0], alphas[0]), (thetas[1], alphas[1]))
    (theta_kept, alpha_kept), (theta_turned, alpha_turned) = pairs
    return PlaneMix(alpha_kept * theta_kept.cos() - 1, alpha_turned * theta_turned.sin(), group)


READERS = {
    "OFT": Reader(parts=("oft_R", "oft_embedding_R"), changes=_oft_changes),
    "BOFT": Reader(parts=("boft_R", "boft_s"), changes=per_module(_boft, "fan_in_fan_out")),
    "HRA": Reader(parts=("hra_u",), changes=per_module(_hra)),
    "ROAD": Reader(parts=("road_theta", "road_alpha"), changes=_road_changes),
}
