"""ΔW of AdaLoRA: s·B·diag(E)·A with the rank per module chosen in training.

A is r × I, B is O × r, E is r × 1, all trained; s = α/(r₀ + 10⁻⁵) with the initial rank r₀ (``init_r``), for any
remaining rank, and r₀/(r₀ + 10⁻⁵) for α ≤ 0. Once the budget is allocated, ``rank_pattern`` holds one boolean per
direction, and the saved tensors hold only the kept directions. Zhang et al. 2023, arXiv 2303.10512.
"""

from torch import Tensor

from spectra.errors import CorruptFileError
from spectra.linalg.operators.basic import LowRank, Operator
from spectra.weights.readers.adapter import Adapter, Changes, Reader, updates_by
from spectra.weights.readers.families.tokens import TOKEN_ROWS, token_updates
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.readers.oriented import oriented
from spectra.weights.storage.tensors import TensorStore

# Constant that peft adds to the rank in the denominator.
_EPSILON = 1e-5


@oriented
def _adalora(adapter: Adapter, module: str, weight: Tensor) -> Operator:
    a, b, e = (adapter.tensor(module, f"lora_{part}").to(weight) for part in "ABE")
    initial = int(adapter.config["init_r"])
    _require_kept(adapter, module, len(e), initial)
    if len(e) == 0:  # every direction is pruned: ΔW = 0, with one singular value
        return LowRank(b.new_zeros(b.shape[0], 1), a.new_zeros(1, a.shape[1]))
    alpha = float(adapter.config.get("lora_alpha", 8))
    return LowRank(b * e.reshape(-1), a, (alpha if alpha > 0 else initial) / (initial + _EPSILON))


def _require_kept(adapter: Adapter, module: str, rank: int, initial: int) -> None:
    kept = (adapter.config.get("rank_pattern") or {}).get(f"{module}.lora_E")
    expected = initial if kept is None else sum(kept)
    if rank != expected:
        raise CorruptFileError(
            f"{module}: the configuration keeps {expected} directions, the tensors have {rank}",
            where=adapter.path,
            hint="restore the adapter_config.json of these tensors",
        )


def _changes(adapter: Adapter, offset: InitialOffset | None, base: TensorStore) -> Changes:
    modules = [module for module, parts in adapter.parts.items() if "lora_E" in parts]
    return Changes(updates_by(_adalora, adapter, modules) | token_updates(adapter))


READERS = {
    "ADALORA": Reader(parts=("lora_A", "lora_B", "lora_E", TOKEN_ROWS), changes=_changes),
}
