"""ΔW of AdaLoRA, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest

from spectra.errors import CorruptFileError, SpectraError
from spectra.linalg.operators.basic import LowRank, Operator
from tests.weights.conftest import train_like
from tests.weights.peft_merges import EXACT, load
from tests.weights.readers.comparisons import (
    DOWN,
    UP,
    Q,
    check_against_the_merge,
    check_case,
    check_contradicted,
    config_of,
)

ADALORA = {"init_r": 4, "target_r": 2, "total_step": 10, "lora_alpha": 3}
MASK = {f"{Q}.lora_E": [True, False, True, False]}
# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "adalora": ("AdaLoraConfig", ADALORA, EXACT, LowRank, 4),
    "adalora, no alpha": ("AdaLoraConfig", ADALORA | {"lora_alpha": 0}, EXACT, LowRank, 4),
    "adalora, tokens": ("AdaLoraConfig", ADALORA | {"trainable_token_indices": [3]}, EXACT, LowRank, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    check_case(llama, tmp_path, case, CASES[case])


# peft takes a module of which every direction is pruned for one that was not gathered.
@pytest.mark.filterwarnings(
    "ignore:Adapter 'default'", "ignore:The following rank_pattern", "ignore:Initializing zero-element"
)
def test_adalora_after_pruning(llama: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    model = get_peft_model(load(llama), config_of("AdaLoraConfig", ADALORA))
    train_like(model, 1e-2)
    # The allocator writes its masks in the configuration like this, with the adapter's name in them.
    model.peft_config["default"].rank_pattern = {
        f"{module}.lora_E.default": mask for module, mask in masks(model).items()
    }
    model.save_pretrained(tmp_path)
    found = check_against_the_merge(llama, tmp_path, EXACT)
    assert (found[Q].rank_bound, found[UP].rank_bound, found[DOWN].rank_bound) == (3, 1, 4)
    assert found[UP].svdvals().tolist() == [0.0]


def masks(model: Any) -> dict[str, list[bool]]:
    """Return a mask a module: one direction of Q pruned, all of UP, none elsewhere."""
    names = [
        name.removesuffix(".lora_E") for name, _ in model.base_model.model.named_modules() if name.endswith("lora_E")
    ]
    chosen = {Q: [True, False, True, True], UP: [False] * 4}
    return {name: chosen.get(name, [True] * 4) for name in names}


# A case, settings that no longer belong to its tensors, and the error of the first module.
CONTRADICTED: dict[str, tuple[str, dict[str, Any], type[SpectraError], str]] = {
    "adalora, rank": ("adalora", {"init_r": 5}, CorruptFileError, "keeps 5 directions, the tensors have 4"),
    "adalora, mask": ("adalora", {"rank_pattern": MASK}, CorruptFileError, "keeps 2 directions, the tensors have 4"),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_a_configuration_of_another_adapter_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    name, settings, error, words = CONTRADICTED[case]
    check_contradicted(llama, tmp_path, CASES[name], settings, error, words)
