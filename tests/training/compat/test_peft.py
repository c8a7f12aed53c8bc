"""Merging leaves the frozen weights bit for bit as they were; AdaLoRA's scores are kept where a checkpoint has them."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.tuners_utils import BaseTuner

from spectra.training.compat.peft import keep_frozen_exact
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe
from tests.training.tiny_base_options import small_section

Maker = Callable[..., Recipe]
CYCLES = 10


def moved_policy(recipe_for: Maker, method: str) -> Any:
    """Return a bfloat16 model whose adapter has moved as training moves it."""
    recipe = recipe_for(method=small_section(method), model={**recipe_for().model.model_dump(), "dtype": "bfloat16"})
    model = build_policy(recipe).model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def cycles(model: Any) -> list[dict[str, torch.Tensor]]:
    """Merge and unmerge; return the merged weights of each cycle."""
    merged = []
    for _ in range(CYCLES):
        model.merge_adapter()
        merged.append(state(model))
        model.unmerge_adapter()
    return merged


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "vera", "ia3", "oft", "miss"])
def test_frozen_weights_stay_bit_for_bit(method: str, recipe_for: Maker) -> None:
    model = moved_policy(recipe_for, method)
    before = state(model)
    keep_frozen_exact(model)
    merged = cycles(model)
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(before[name], merged[0][name]) for name in before if name in merged[0])
    # Every cycle serves the same policy: nothing accumulates.
    assert all(torch.equal(merged[0][name], merged[-1][name]) for name in merged[0])


def test_plain_merging_in_half_precision_drifts(recipe_for: Maker) -> None:
    """The fault that is mended is there: without this the test above would prove nothing."""
    model = moved_policy(recipe_for, "lora")
    before = state(model)
    cycles(model)
    assert any(not torch.equal(before[name], tensor) for name, tensor in state(model).items())


def test_a_full_model_is_left_alone(recipe_for: Maker) -> None:
    model = build_policy(recipe_for(method={"name": "full"})).model
    keep_frozen_exact(model)
    assert not hasattr(model, "merge_adapter")


def test_the_methods_that_are_replaced_have_the_signature_that_is_known() -> None:
    assert list(inspect.signature(BaseTuner.merge_adapter).parameters) == ["self", "adapter_names", "safe_merge"]
    assert list(inspect.signature(BaseTuner.unmerge_adapter).parameters) == ["self"]


def test_peft_keeps_the_scores_of_adalora_where_no_checkpoint_has_them(recipe_for: Maker) -> None:
    policy = build_policy(recipe_for(method=small_section("adalora"), steps=9)).model
    allocator = policy.base_model.rankallocator
    assert [allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc] == [{}, {}, {}]
    assert list(inspect.signature(AdaLoraModel.update_and_allocate).parameters) == ["self", "global_step"]
    # Not needed once they are in the model's state.
    assert not any("ipt" in name or "exp_avg" in name for name in policy.state_dict())
