"""Effect of peft's LoRA options on ΔW: those that move the base, change the factors, or leave no ΔW.

- Initializations that move the base: PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA train on W − s·B₀A₀ (LoftQ on a quantized W
  that s·B₀A₀ completes), so that training changed W by s(BA − B₀A₀). That of an embedding never moves it.
- Initializations that do not: True, False, gaussian, EVA, orthogonal (where BA = 0 with neither factor zero), MiCA.
- KaSA permanently removes the r smallest singular triplets of W and puts a trained diagonal E between the factors:
  ΔW = s·B·diag(E)·A − Σ u_i σ_i v_iᵀ over them. arXiv 2412.06071.
- BD-LoRA stores one factor of its target modules as diagonal blocks only.
- QA-LoRA (arXiv 2309.14717) averages groups of g inputs and multiplies by their number: A repeats each column g times,
  times I/g².
- VeLoRA and MonteCLoRA change gradients and noise while training, not ΔW.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.decompositions.basis import thin_svd
from spectra.linalg.operators.basic import LowRank
from spectra.linalg.operators.kronecker_and_circulant import block_diagonal
from spectra.weights.facts import FACTS, find_initialization, initialization_value
from spectra.weights.readers.adapter import Adapter, require_shape
from spectra.weights.readers.rank_patterns import rank_and_alpha

MAGNITUDE = "lora_magnitude_vector"
# Tensors of the training state that are stored with the factors but are not part of ΔW.
STATE = (
    "lora_velora_embed",
    *(f"lora_monteclora_sampler.{name}" for name in ("std_prior", "expert_weights_prior", "expert_weights")),
    "lora_monteclora_sampler.gaussian_var_prior",
)

# Options that leave no matrix ΔW, or not one per base matrix.
_WITHOUT_UPDATE = {
    **{one.option: one.not_read for one in FACTS.values() if one.option is not None and one.not_read is not None},
    "layer_replication": "several layers share one base matrix, each with its own update",
}


def moving_start(config: Mapping[str, Any]) -> str | None:
    """Return the name of an initialization that replaces the frozen weight by W − s·B₀A₀; None if it does not."""
    initialization = find_initialization(initialization_value(config))
    return initialization.label if initialization is not None and initialization.moves_base else None


def refuse_unread(adapter: Adapter, *, started: bool) -> None:
    """Refuse options and initializations without an exact ΔW, by name.

    Parameters
    ----------
    adapter
        The adapter.
    started
        Whether the offset of its initialization is known: then any initialization can be read.

    Raises
    ------
    UnsupportedMethodError
        For an option without a matrix ΔW, or an unknown initialization.
    CorruptFileError
        If the configuration sets DoRA and the tensors have no magnitudes, or the reverse.
    """
    config = adapter.config
    option = next((name for name in _WITHOUT_UPDATE if config.get(name)), None)
    if option is not None:
        raise UnsupportedMethodError(f"the adapter sets {option}: {_WITHOUT_UPDATE[option]}", where=adapter.path)
    if find_initialization(initialization_value(config)) is None and not started:
        raise UnsupportedMethodError(
            f"init_lora_weights={config['init_lora_weights']!r} is not known, so B·A may not be its update",
            where=adapter.path,
            hint="merge it in float32 and analyze the full checkpoint with --base",
        )
    magnitudes = any(MAGNITUDE in parts for parts in adapter.parts.values())
    if magnitudes != bool(config.get("use_dora")):
        raise CorruptFileError(
            f"{'does not set' if magnitudes else 'sets'} use_dora, but has {'a' if magnitudes else 'no'} {MAGNITUDE}",
            where=adapter.path,
            hint="restore the adapter_config.json of these tensors",
        )


def factors(adapter: Adapter, module: str, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return B (O × R) and A (R × I) of one module, from any form in which they are stored.

    A convolution's A is R × I × k…, its B is O × R × 1…: the matrices result from flattening the kernel.
    """
    config, kind = adapter.config, "_embedding" if "lora_embedding_A" in adapter.parts.get(module, {}) else ""
    a = adapter.tensor(module, f"lora{kind}_A").to(weight).flatten(1)
    b = adapter.tensor(module, f"lora{kind}_B").to(weight)
    if b.ndim > 2 and b.shape[1] != rank:
        raise UnsupportedMethodError(
            f"{module}: an adapter of a grouped convolution, which peft cannot merge either", where=adapter.path
        )
    b = b.flatten(1)
    if config.get("kasa_config"):
        b = b * adapter.tensor(module, "lora_diag").to(weight)
    if config.get("use_bdlora"):
        a, b = _with_zeros(config["use_bdlora"], module, a, b)
    if config.get("use_qalora"):
        group = int(config.get("qalora_group_size", 16))
        a = a.repeat_interleave(group, dim=1) * (weight.shape[1] / group**2)
    return b, a


def product(adapter: Adapter, module: str, weight: Tensor) -> LowRank:
    """Return s·BA of one module, regardless of initialization and magnitudes.

    Raises
    ------
    CorruptFileError
        If the factors do not match the base weight or the rank in the configuration.
    """
    rank, _ = rank_and_alpha(adapter.config, module)
    b, a = factors(adapter, module, weight, rank)
    require_shape(adapter, module, weight, (b.shape[0], a.shape[1]))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CorruptFileError(
            f"{module}: the configuration has rank {rank}, the tensors have {a.shape[0]}",
            where=adapter.path,
            hint="restore the adapter_config.json of these tensors",
        )
    return LowRank(b, a, scale(adapter, module))


def scale(adapter: Adapter, module: str) -> float:
    """Return s of one module: α/r, or α/√r for rsLoRA."""
    rank, alpha = rank_and_alpha(adapter.config, module)
    return alpha / (rank**0.5 if adapter.config.get("use_rslora") else rank)


def removed(weight: Tensor, rank: int) -> LowRank:
    """Return the ``rank`` smallest singular triplets of W, which KaSA removes from it."""
    triplets = thin_svd(weight)
    return LowRank(triplets.u[:, -rank:] * triplets.s[-rank:], triplets.v[:, -rank:].T)


def _with_zeros(options: Any, module: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return BD-LoRA's factors with the zeros that it does not store."""
    if not isinstance(options, Mapping):
        raise CorruptFileError(
            f"use_bdlora must be a mapping of modules and block counts, got {options!r}",
            hint="restore the adapter_config.json of these tensors",
        )
    blocks = int(options.get("nblocks", 1))
    if any(name in module for name in options.get("target_modules_bd_a") or []):
        return block_diagonal(a.chunk(blocks)), b
    if any(name in module for name in options.get("target_modules_bd_b") or []):
        return a, block_diagonal(b.chunk(blocks))
    return a, b
