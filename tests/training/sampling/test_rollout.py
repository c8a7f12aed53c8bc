"""Merging for a sampler leaves the frozen weights bit for bit as they were."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spectra.errors import MissingDependencyError
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.sampling import rollout
from spectra.training.sampling.rollout import keep_frozen_exact, rollout_arguments
from tests.training.small_options import small_section

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


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rollout_arguments(RolloutRecipe()) == {}
    monkeypatch.setattr(rollout, "find_spec", lambda name: object())
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")  # restored afterwards, whatever is set meanwhile
    here = rollout_arguments(RolloutRecipe(engine="vllm", max_model_length=64))
    assert here["vllm_mode"] == "colocate"
    assert here["vllm_importance_sampling_clip_max"] == 3.0
    assert here["vllm_importance_sampling_mode"] == "sequence_mask"
    assert here["vllm_max_model_length"] == 64
    there = rollout_arguments(RolloutRecipe(engine="vllm", mode="server", url="http://a:1", importance_cap=None))
    assert there["vllm_server_base_url"] == "http://a:1"
    assert there["vllm_importance_sampling_correction"] is False


def test_vllm_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs vLLM"):
        rollout_arguments(RolloutRecipe(engine="vllm"))
