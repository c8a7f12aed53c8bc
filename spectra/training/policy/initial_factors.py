"""Initial factors of methods that move the base: the model is (W₀ − s·B₀A₀) + s·BA.

If peft cannot move the base again, a snapshot is the equivalent LoRA of rank 2r on W₀: s·[B, −B₀]·[A; A₀] with both r
and alpha doubled, so that s is unchanged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.errors import MissingInitialError
from spectra.runs.layout import ADAPTER_WEIGHTS


def read_initial(snapshot: Path, *, stacked: bool) -> dict[str, Any]:
    """Return the initial factors A₀ and B₀ of a run, by their names in the adapter file.

    Parameters
    ----------
    snapshot
        The run's step-0 snapshot.
    stacked
        Whether it is saved as a LoRA of rank 2r.

    Raises
    ------
    MissingInitialError
        If it is missing.
    """
    from safetensors.torch import load_file

    weights = snapshot / ADAPTER_WEIGHTS
    if not weights.exists():
        hint = "restore it, or start the run over with --overwrite"
        raise MissingInitialError(
            "the step-0 adapter is missing, so the base weights cannot be set", where=weights, hint=hint
        )
    tensors = load_file(weights)
    return {name: _first_half(name, tensor) for name, tensor in tensors.items()} if stacked else tensors


def stack(state: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
    """Return [A; A₀] and [B, −B₀] for each A and B of an adapter."""
    import torch

    return {
        name: torch.cat([factor, initial[name]]) if _is_a(name) else torch.cat([factor, -initial[name]], dim=1)
        for name, factor in state.items()
    }


def _first_half(name: str, factor: Any) -> Any:
    return factor[: len(factor) // 2] if _is_a(name) else factor[:, : factor.shape[1] // 2]


def _is_a(name: str) -> bool:
    return ".lora_A." in name
