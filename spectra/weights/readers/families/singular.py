"""ΔW of methods that train in singular subspaces of the base W: the leading directions, or all others.

- PSOFT: s·B(R − I)A, A and B from the r leading triplets of W, R = diag(b)·Cayley·diag(a) or a free r × r matrix
  (Wu et al. 2026, openreview FSHrinMArK).
- TinyLoRA: B(Σ v_iP_i)A, A and B from the r leading triplets, P_i random and fixed, v the trained vector, which
  several modules may share (arXiv 2602.04118).
- OSF: U'diag(s')V' − U diag(s)V, the triplets of W after the k leading ones, trained and original (Nayak et
  al. 2025, arXiv 2504.07097).

PSOFT and OSF do not save the triplets of W: W is decomposed again as peft does when it loads the adapter, in float32 on
the CPU. The sign of a singular vector is LAPACK's choice, and PSOFT's update depends on it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Difference, LowRank, Operator
from spectra.linalg.operators.multiplicative import zero_update
from spectra.linalg.operators.rotations import cayley_minus_identity, neumann_minus_identity, skew_symmetric
from spectra.weights.readers.adapter import Adapter, Changes, Reader, per_module, require_shape, updates_by
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore


def _psoft(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    config = adapter.config
    rank, scale = int(config["r"]), float(config["psoft_alpha"]) / int(config["r"])
    u, s, v = _leading(weight.to("cpu", torch.float32), rank, config)
    s = s / scale
    b, a = (u * s.sqrt(), s.sqrt()[:, None] * v.T) if config["ab_svd_init"] == "pissa_init" else (u * s, v.T)
    return LowRank(b.to(weight) @ _psoft_turn(adapter, module, weight), a.to(weight), scale)


def _leading(weight: Tensor, rank: int, config: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading triplets (u, s, v) of a float32 matrix, in float32, computed as configured."""
    if config["psoft_svd"] == "lowrank":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(config["random_seed"]))
            u, s, v = torch.svd_lowrank(weight, q=rank, niter=int(config["psoft_svd_lowrank_niter"]))
            return u, s, v
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank].T


def _psoft_turn(adapter: Adapter, module: str, like: Tensor) -> Tensor:
    """Return R − I, r × r: of a bare rotation I + D it is diag(b)·D·diag(a) + diag(ba − 1)."""
    turn = _psoft_rotation(adapter.tensor(module, "psoft_R").to(like), adapter.config)
    ones = like.new_ones(len(turn))
    b, a = (
        adapter.tensor(module, part).to(like) if part in adapter.parts[module] else ones
        for part in ("psoft_R.vector_b", "psoft_R.vector_a")
    )
    return b[:, None] * turn * a + torch.diag(b * a - 1)


def _psoft_rotation(numbers: Tensor, config: Mapping[str, Any]) -> Tensor:
    if not config["psoft_orth"]:
        return numbers - torch.eye(len(numbers)).to(numbers)
    q = skew_symmetric(numbers)
    if not config["use_cayley_neumann"]:
        return cayley_minus_identity(q)
    norm, limit = float(torch.linalg.matrix_norm(q)), config["cayley_neumann_eps"]
    if limit is not None and norm > limit:
        q = q * (limit / (norm + 1e-12))  # peft's guard against a norm of zero, which changes the twelfth digit
    return neumann_minus_identity(q, int(config["num_cayley_neumann_terms"]))


def _tinylora_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    indices = _module_indices(adapter)
    groups = max(1, round(len(indices) * (1 - float(adapter.config["weight_tying"]))))
    size = max(1, len(indices) // groups)
    vectors = {module: f"tinylora_v.{min(index // size, groups - 1)}" for module, index in indices.items()}
    absent = sorted(set(vectors.values()) - set(adapter.shared))
    if absent:
        raise CorruptFileError(f"has no {absent[0]}", where=adapter.path, hint="save the adapter again")
    return Changes(updates_by(partial(_tinylora, vectors), adapter))


def _tinylora(vectors: Mapping[str, str], adapter: Adapter, module: str, weight: Tensor) -> Operator:
    a, b = adapter.tensor(module, "tinylora_A").to(weight), adapter.tensor(module, "tinylora_B").to(weight)
    v = adapter.store[adapter.shared[vectors[module]]].to(weight)
    update = LowRank(b @ torch.tensordot(v, adapter.tensor(module, "tinylora_P").to(weight), 1), a)
    require_shape(adapter, module, weight, update.shape)
    return update


def _module_indices(adapter: Adapter) -> dict[str, int]:
    """Return each module's index in the model, which decides its vector: its P is drawn with seed + index."""
    if not all("tinylora_P" in parts for parts in adapter.parts.values()):
        raise UnsupportedMethodError(
            "save_projection is off, and without the projections the file does not tell which vector belongs to which "
            "module: that depends on the order of modules in the model's code",
            where=adapter.path,
            hint="load it with peft, set save_projection=True in its configuration and save it again",
        )
    projections = {module: adapter.tensor(module, "tinylora_P") for module in adapter.parts}
    drawn = {
        _bytes(_draw(adapter, index, shape).to(dtype)): index
        for shape in {projection.shape for projection in projections.values()}
        for dtype in (torch.float32, torch.bfloat16, torch.float16)  # peft rounds them to the dtype of the base
        for index in range(len(projections))
    }
    indices = {module: drawn.get(_bytes(projection)) for module, projection in projections.items()}
    found = {module: index for module, index in indices.items() if index is not None}
    if len(set(found.values())) < len(indices):
        raise UnsupportedMethodError(
            "its projections do not match projection_seed, so it is unknown which vector belongs to which module",
            where=adapter.path,
            hint="merge it in float32 and analyze the full checkpoint with --base",
        )
    return found


def _draw(adapter: Adapter, index: int, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(int(adapter.config["projection_seed"]) + index)
    return torch.normal(0.0, 1.0 / shape[1] ** 0.5, tuple(shape), generator=generator)


def _bytes(projection: Tensor) -> bytes:
    return projection.to(torch.float32).numpy().tobytes()


def _osf_changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    return Changes(updates_by(partial(_osf, base), adapter))


def _osf(base: TensorStore, adapter: Adapter, module: str, weight: Tensor) -> Operator:
    u, s, v = (adapter.tensor(module, f"osf_svd_params.{part}").to(weight) for part in ("U_low", "S_low", "V_low"))
    require_shape(adapter, module, weight, (u.shape[0], v.shape[1]))
    # peft rounds the original triplets to the dtype of the base.
    dtype, kept = base[f"{module}.weight"].dtype, min(weight.shape) - len(s)
    if not len(s):
        return zero_update(weight)
    triplets = torch.linalg.svd(weight.to("cpu", torch.float32), full_matrices=False)
    start_u, start_s, start_v = (part.to(dtype).to(weight) for part in triplets)
    return Difference(LowRank(u * s, v), LowRank(start_u[:, kept:] * start_s[kept:], start_v[kept:]))


READERS = {
    "PSOFT": Reader(
        parts=("psoft_R", "psoft_R.vector_a", "psoft_R.vector_b"),
        changes=per_module(_psoft, "fan_in_fan_out"),
    ),
    "TINYLORA": Reader(
        parts=("tinylora_A", "tinylora_B", "tinylora_P"), changes=_tinylora_changes, shared=("tinylora_v",)
    ),
    "OSF": Reader(parts=("osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low"), changes=_osf_changes),
}
