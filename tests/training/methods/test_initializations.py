"""Initializations implemented in spectra agree with their papers, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectra.runs.layout import MODEL_WEIGHTS
from spectra.training.policy.policy import Policy, build_policy
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
MODULES = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"]  # square, wide, tall, wide


def layer_of(policy: Policy, module: str) -> Any:
    return policy.model.base_model.model.model.layers[1].get_submodule(module)


def factors(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.lora_B["default"].weight.detach().double(), layer.lora_A["default"].weight.detach().double()


def pristine(base: Path, module: str) -> Tensor:
    weight: Tensor = load_file(base / MODEL_WEIGHTS)[f"model.layers.1.{module}.weight"]
    return weight.double()


@pytest.mark.parametrize("module", MODULES)
def test_milora_starts_from_the_smallest_triplets_and_takes_them_from_the_base(
    module: str, recipe_for: Maker, tiny_base: Path
) -> None:
    layer = layer_of(build_policy(recipe_for(method={"name": "milora", "r": 4, "alpha": 12})), module)
    weight, (b, a) = pristine(tiny_base, module), factors(layer)
    left, sigma, right = torch.linalg.svd(weight, full_matrices=False)
    smallest = left[:, -4:] @ sigma[-4:].diag() @ right[-4:]
    torch.testing.assert_close(3.0 * b @ a, smallest, atol=1e-6, rtol=0)
    # Balanced, as PiSSA's are: both factors carry the root of the singular values.
    torch.testing.assert_close(a @ a.T, (sigma[-4:] / 3).diag(), atol=1e-6, rtol=0)
    torch.testing.assert_close(b.T @ b, (sigma[-4:] / 3).diag(), atol=1e-6, rtol=0)
    residual = layer.base_layer.weight.detach().double()
    torch.testing.assert_close(residual, weight - smallest, atol=1e-6, rtol=0)


def test_a_randomised_pissa_takes_what_its_seed_draws_from_the_base(recipe_for: Maker, tiny_base: Path) -> None:
    module, method = "mlp.up_proj", {"name": "pissa", "r": 4, "alpha": 12, "options": {"niter": 1}}
    weight = pristine(tiny_base, module)
    sigma = torch.linalg.svdvals(weight)
    drawn = []
    for seed in (1, 2):
        layer = layer_of(build_policy(recipe_for(method=method, seed=seed)), module)
        b, a = factors(layer)
        drawn.append(3.0 * b @ a)
        residual = layer.base_layer.weight.detach().double()
        torch.testing.assert_close(residual, weight - drawn[-1], atol=1e-6, rtol=0)
        # It holds nearly as much of W as the best product of rank 4 does, and never more.
        held = 1 - float((weight - drawn[-1]).square().sum() / weight.square().sum())
        best = float(sigma[:4].square().sum() / sigma.square().sum())
        assert 0.7 * best < held < best - 1e-6
    assert float((drawn[0] - drawn[1]).norm()) > 1e-2 * float(weight.norm())


@pytest.mark.parametrize("module", MODULES)
def test_milora_plus_starts_along_the_smallest_right_vectors_and_leaves_the_base(
    module: str, recipe_for: Maker, tiny_base: Path
) -> None:
    layer = layer_of(build_policy(recipe_for(method={"name": "milora_plus", "r": 4})), module)
    weight, (b, a) = pristine(tiny_base, module), factors(layer)
    sigma = torch.linalg.svdvals(weight)
    assert torch.count_nonzero(b) == 0
    torch.testing.assert_close(a @ a.T, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close((weight @ a.T).norm(dim=0), sigma[-4:], atol=1e-5, rtol=0)
    assert torch.equal(layer.base_layer.weight.detach().double(), weight)


def inputs_of(recipe: Recipe, module: str, prompts: int) -> Tensor:
    """Rows that reach a module on the run's first prompts, worked out without the code under test."""
    from spectra.training.data.dataset import prompt_order, training_problems

    policy = build_policy(
        recipe.model_copy(update={"method": Recipe.model_validate({"method": {"name": "full"}}).method})
    )
    problems = training_problems(recipe.task)
    rows: list[Tensor] = []
    target = policy.model.model.layers[1].get_submodule(module)
    handle = target.register_forward_hook(lambda _, inputs, output: rows.append(inputs[0][0].double()))
    with torch.no_grad():
        for index in prompt_order(len(problems), prompts, recipe.seed):
            policy.model(**policy.tokenizer(problems[index].prompt, return_tensors="pt"))
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("module", MODULES)
def test_eva_starts_along_the_leading_directions_of_the_inputs(module: str, recipe_for: Maker) -> None:
    recipe = recipe_for(method={"name": "eva", "r": 4, "options": {"prompts": 8}})
    b, a = factors(layer_of(build_policy(recipe), module))
    inputs = inputs_of(recipe, module, 8)
    sigma = torch.linalg.svdvals(inputs)
    assert torch.count_nonzero(b) == 0
    torch.testing.assert_close(a @ a.T, torch.eye(4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close((inputs @ a.T).norm(dim=0), sigma[:4], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("module", MODULES)
def test_corda_takes_the_triplets_that_matter_most_to_the_inputs(
    module: str, recipe_for: Maker, tiny_base: Path
) -> None:
    recipe = recipe_for(method={"name": "corda", "r": 4, "alpha": 8, "options": {"prompts": 8}})
    layer = layer_of(build_policy(recipe), module)
    weight, (b, a) = pristine(tiny_base, module), factors(layer)
    inputs = inputs_of(recipe, module, 8)
    gram = inputs.T @ inputs
    gram = gram / gram.diagonal().mean() + 0.01 * torch.eye(len(gram), dtype=gram.dtype)
    left, sigma, right = torch.linalg.svd(weight @ gram, full_matrices=False)
    expected = left[:, :4] @ sigma[:4].diag() @ right[:4] @ torch.linalg.inv(gram)
    torch.testing.assert_close(2.0 * b @ a, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.base_layer.weight.detach().double(), weight - 2.0 * b @ a, atol=1e-6, rtol=0)


def test_lora_fa_trains_b_alone(recipe_for: Maker) -> None:
    trainable = build_policy(recipe_for(method={"name": "lora_fa"})).trainable
    assert len(trainable) == 14
    assert all("lora_B" in name for name in trainable)
