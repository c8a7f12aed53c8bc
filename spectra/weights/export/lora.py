"""Export a snapshot of any method as a plain LoRA adapter on the original base.

Each matrix ΔW becomes B·A by its SVD, with scale 1: exact up to float32 (PiSSA's s(BA − B₀A₀) has rank 2r, DoRA's ΔW
has full rank), or truncated on request. peft then needs neither the initialization nor the method.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from safetensors.torch import save_file
from torch import Tensor

from spectra.errors import RunExistsError, UnsupportedMethodError
from spectra.linalg.decompositions.basis import Factors
from spectra.linalg.decompositions.tolerance import rank_tolerance
from spectra.runs.atomic import atomic_directory, write_json
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, parameter_name

_PREFIX = "base_model.model."
# A lookup table, not a product: peft's LoRA of an embedding differs, and saving the full new table is exact.
_EMBEDDING = re.compile(r"(.*\.)?(embed\w*|\w*embeddings?|wte|wpe)")
_TOKEN_EMBEDDINGS = {"embed_tokens", "wte", "word_embeddings", "embed_in"}


@dataclass(frozen=True)
class Target:
    """Base model of an exported adapter.

    Attributes
    ----------
    name, revision
        Name and revision by which peft finds it.
    tied
        Whether its head is tied to its token embedding.
    """

    name: str
    revision: str | None = None
    tied: bool = False


@dataclass(frozen=True)
class ModuleExport:
    """Export of one parameter.

    Attributes
    ----------
    rank
        Rank of its factors; None if the full new parameter was written.
    lost
        Share of ‖ΔW‖²_F lost by truncation; 0 for ΔW = 0.
    """

    rank: int | None
    lost: float


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes
    ----------
    path
        The adapter's directory.
    step
        Step of the snapshot.
    method
        Training method.
    modules
        Export of each changed parameter.
    skipped
        Parts of the snapshot that the adapter cannot represent, with the reason.
    """

    path: Path
    step: int
    method: str
    modules: Mapping[str, ModuleExport]
    skipped: Mapping[str, str]

    @property
    def lost(self) -> float:
        """Largest share of a module's ‖ΔW‖²_F lost by truncation."""
        return max((module.lost for module in self.modules.values()), default=0.0)

    def describe(self) -> str:
        """Return a one-line description."""
        ranks = [module.rank for module in self.modules.values() if module.rank is not None]
        full = len(self.modules) - len(ranks)
        span = f"rank {min(ranks)}" if len(set(ranks)) == 1 else f"ranks {min(ranks)}–{max(ranks)}" if ranks else ""
        parts = [f"{len(ranks)} matrices of {span}" if ranks else "", f"{full} full parameters" if full else ""]
        loss = "nothing cut off" if self.lost == 0 else f"at most {self.lost:.2e} of a matrix's energy cut off"
        return f"{self.method}, step {self.step}: {', '.join(part for part in parts if part)}; {loss}"


@dataclass(frozen=True)
class Truncation:
    """Number of singular triplets kept per matrix: all above rounding, unless limited.

    Attributes
    ----------
    rank
        Maximum rank.
    energy
        Keep the fewest triplets with at least this share of ‖ΔW‖²_F.
    """

    rank: int | None = None
    energy: float | None = None

    def keep(self, sigma: Float64[Tensor, " r"], shape: tuple[int, int]) -> int:
        """Return how many of the descending singular values of an O × I matrix to keep; at least one, for peft."""
        if not len(sigma) or float(sigma[0]) == 0.0:
            return 1
        kept = int((sigma > rank_tolerance(*shape, float(sigma[0]))).sum())
        if self.energy is not None:
            held = torch.cumsum(sigma**2, 0) / torch.sum(sigma**2)
            kept = min(kept, int((held < self.energy).sum()) + 1)
        return kept if self.rank is None else min(kept, self.rank)


def export_lora(
    updates: Updates,
    base: TensorStore,
    out: Path,
    *,
    step: int,
    target: Target,
    truncation: Truncation | None = None,
) -> Exported:
    """Write an update as a plain LoRA adapter that ``PeftModel.from_pretrained`` loads onto the original base.

    Parameters
    ----------
    updates
        The updates of one snapshot.
    base
        The original base weights.
    out
        Directory to create.
    step
        Step of the snapshot, for the record.
    target
        Facts about the base that peft needs.
    truncation
        Limits on the number of singular triplets.

    Raises
    ------
    RunExistsError
        If the directory exists and is not empty.
    UnsupportedMethodError
        If the update changes a bias or a stack of experts, which a plain LoRA cannot represent, or a tensor whose
        shape in the base differs.
    """
    updates.require_shapes()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError("exists and is not empty", where=out, hint="choose a new directory")
    tensors, written = _vectors(updates, base)
    for module, function in sorted(updates.matrices.items()):
        parameter = parameter_name(module, base.files)
        if parameter is None or len(base.shapes[parameter]) != 2:
            raise UnsupportedMethodError(
                f"{module} is not a separate matrix in the base", where=base.where, hint=_MERGE
            )
        weight = base[parameter].double()
        operator = function(weight)
        if _EMBEDDING.fullmatch(module):
            table = (weight + operator.dense()).float().contiguous()
            tensors[f"{_PREFIX}{parameter}"] = table
            if target.tied and _is_token_embedding(module):
                tensors[f"{_PREFIX}lm_head.weight"] = table.clone()  # peft reads both names and ties them again
            written[module] = ModuleExport(None, 0.0)
        else:
            svd = operator.svd()
            rank = (truncation or Truncation()).keep(svd.s, operator.shape)
            tensors |= _pair(module, svd, rank)
            written[module] = ModuleExport(rank, _lost(svd.s, rank))
    with atomic_directory(out) as directory:
        save_file(tensors, directory / ADAPTER_WEIGHTS, {"format": "pt"})
        write_json(directory / ADAPTER_CONFIG, _config(written, target, base))
    return Exported(out, step, updates.method, written, updates.skipped)


_MERGE = "merge the adapter in float32 instead, and keep the full checkpoint"


def _vectors(updates: Updates, base: TensorStore) -> tuple[dict[str, Tensor], dict[str, ModuleExport]]:
    """Return the new norm weights, as in peft's ``modules_to_save``."""
    tensors: dict[str, Tensor] = {}
    for module, function in updates.vectors.items():
        parameter = parameter_name(module, base.files)
        if parameter is None or parameter == module:  # a bias is listed by its full parameter name
            raise UnsupportedMethodError(
                f"{module} changes, but a plain LoRA has no bias", where=base.where, hint=_MERGE
            )
        weight = base[parameter].double()
        tensors[f"{_PREFIX}{parameter}"] = (weight + function(weight)).float().contiguous()
    return tensors, {module: ModuleExport(None, 0.0) for module in updates.vectors}


def _pair(module: str, svd: Factors, rank: int) -> dict[str, Tensor]:
    """Return A and B in float32, the singular values split evenly between them; zeros if ΔW is zero."""
    root = svd.s[:rank].sqrt()
    return {
        f"{_PREFIX}{module}.lora_A.weight": (root[:, None] * svd.v[:, :rank].T).float().contiguous(),
        f"{_PREFIX}{module}.lora_B.weight": (svd.u[:, :rank] * root).float().contiguous(),
    }


def _is_token_embedding(module: str) -> bool:
    return module.rpartition(".")[2] in _TOKEN_EMBEDDINGS


def _lost(sigma: Float64[Tensor, " r"], rank: int) -> float:
    total = float(torch.sum(sigma**2))
    return float(torch.sum(sigma[rank:] ** 2)) / total if total > 0 else 0.0


def _config(written: Mapping[str, ModuleExport], target: Target, base: TensorStore) -> dict[str, Any]:
    ranks = {module: one.rank for module, one in written.items() if one.rank is not None}
    if not ranks:
        raise UnsupportedMethodError("changes no matrix, so there is no LoRA to write", hint=_MERGE)
    (common, _), *_ = Counter(ranks.values()).most_common(1)
    others = {module: rank for module, rank in sorted(ranks.items()) if rank != common}
    full = sorted(module for module, one in written.items() if one.rank is None)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": common,
        "lora_alpha": common,  # α = r in every module: the scale is 1
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "modules_to_save": full or None,
        "ensure_weight_tying": target.tied and any(map(_is_token_embedding, full)),
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "inference_mode": True,
        # peft checks each module itself, and warns if the configuration differs.
        "fan_in_fan_out": any(f"{module}.weight" in base.transposed for module in ranks),
        "base_model_name_or_path": target.name,
        "revision": target.revision,
    }
