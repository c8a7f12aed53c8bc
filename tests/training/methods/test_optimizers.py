"""Optimizers that belong to a method: what they step, and by how much."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.runs.layout import ADAPTER_WEIGHTS, RunLayout
from spectra.training.loop.run import train
from spectra.training.methods import find_method
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
MODULE = "model.layers.0.mlp.up_proj"
SETTINGS = {"learning_rate": 1e-3, "betas": [0.8, 0.99], "epsilon": 1e-7, "weight_decay": 0.01}


def optimizer_for(recipe: Recipe) -> tuple[Any, Any]:
    make = find_method(recipe.method.name).optimizer
    assert make is not None
    model = build_policy(recipe).model
    return model, make(model, recipe.method, recipe.optimizer)


def test_lora_plus_has_two_learning_rates(recipe_for: Maker) -> None:
    recipe = recipe_for(method={"name": "lora_plus", "options": {"ratio": 4.0}}, optimizer=SETTINGS)
    model, made = optimizer_for(recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in made.param_groups for p in group["params"]}
    assert len(rates) == 28
    assert all(rate == (4e-3 if "lora_B" in name else 1e-3) for name, rate in rates.items())
    assert {(g["betas"], g["eps"]) for g in made.param_groups} == {((0.8, 0.99), 1e-7)}
    assert {g["weight_decay"] for g in made.param_groups if g["params"]} == {0.01}


@pytest.mark.usefixtures("easy_reward")
def test_b_of_lora_plus_moves_ratio_times_as_far_in_the_first_step(recipe_for: Maker, tmp_path: Path) -> None:
    def first_step(name: str) -> torch.Tensor:
        recipe = recipe_for(method={"name": name}, steps=1, optimizer={"learning_rate": 1e-4})
        layout = RunLayout(train(recipe, tmp_path / name, quiet=True))
        tensors = load_file(layout.snapshot(1) / ADAPTER_WEIGHTS)
        factor: torch.Tensor = tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
        return factor

    torch.testing.assert_close(first_step("lora_plus"), 16.0 * first_step("lora"), rtol=1e-4, atol=1e-8)


def test_lora_fa_takes_the_recipes_settings_and_preconditions_b(recipe_for: Maker) -> None:
    recipe = recipe_for(method={"name": "lora_fa", "r": 4, "alpha": 8}, optimizer={**SETTINGS, "weight_decay": 0.0})
    model, made = optimizer_for(recipe)
    (group,) = made.param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.99), 1e-7)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    made.step()
    expected = b.grad.double() @ torch.linalg.inv(a.double() @ a.double().T) / 4.0
    momentum = made.state[f"base_model.model.{MODULE}.lora"]["exp_avg_B"].double() / (1 - 0.8)
    assert torch.linalg.matrix_norm(momentum - expected) < 0.02 * torch.linalg.matrix_norm(expected)  # bfloat16
    # Adam's first step is the sign of the gradient, one learning rate long.
    torch.testing.assert_close(b.detach(), -1e-3 * expected.sign().float(), atol=1e-5, rtol=1e-2)
