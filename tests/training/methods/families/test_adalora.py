"""AdaLoRA does what peft leaves to its user: prunes to the budget, resumes its scores, adds its penalty to the loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.errors import RecipeError
from spectra.runs.atomic import read_json
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RunLayout
from spectra.runs.series import read_metrics
from spectra.training.loop.run import train
from spectra.training.methods.families.adalora import orthogonality
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
MODULES = 14  # seven in each of the two layers


def section(**options: Any) -> dict[str, Any]:
    return {"name": "adalora", "r": 4, "options": {"init_r": 6, **options}}


def kept(layout: RunLayout, step: int) -> int:
    tensors = load_file(layout.snapshot(step) / ADAPTER_WEIGHTS)
    return sum(int(tensor.count_nonzero()) for name, tensor in tensors.items() if name.endswith("lora_E"))


@pytest.mark.usefixtures("easy_reward")
def test_ranks_fall_along_the_cubic_budget_to_the_target(recipe_for: Maker, tmp_path: Path) -> None:
    method = section(tinit=2, tfinal=2)
    recipe = recipe_for(method=method, steps=8, optimizer={"learning_rate": 1e-2}, evaluation={"every": None})
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    first, last = 6 * MODULES, 4 * MODULES
    budget = {step: int((first - last) * (1 - (step - 2) / 4) ** 3 + last) for step in range(3, 7)}
    counts = {step: kept(layout, step) for step in range(9)}
    assert counts == {0: 0, 1: first, 2: first, **budget, 7: last, 8: last}
    # A snapshot is not sliced by masks: peft would then lose what later steps revive.
    assert read_json(layout.snapshot(4) / ADAPTER_CONFIG)["rank_pattern"] is None
    assert load_file(layout.snapshot(8) / ADAPTER_WEIGHTS)[
        "base_model.model.model.layers.0.mlp.up_proj.lora_A"
    ].shape == (6, 32)


@pytest.mark.usefixtures("easy_reward")
@pytest.mark.parametrize("micro_batch", [None, 8])
def test_the_penalty_is_in_the_loss_once(micro_batch: int | None, recipe_for: Maker, tmp_path: Path) -> None:
    def one_step(weight: float) -> tuple[float, dict[str, torch.Tensor]]:
        options = section(orth_reg_weight=weight)
        recipe = recipe_for(method=options, steps=3, micro_batch=micro_batch, evaluation={"every": None})
        layout = RunLayout(train(recipe, tmp_path / str(weight), quiet=True))
        return float(read_metrics(layout.metrics)["loss"].iloc[0]), load_file(layout.snapshot(1) / ADAPTER_WEIGHTS)

    policy = build_policy(recipe_for(method=section(orth_reg_weight=0.5), steps=3))
    with_penalty, moved = one_step(0.5)
    without, still = one_step(0.0)
    recipe = recipe_for(method=section(orth_reg_weight=0.5), steps=3).method
    assert with_penalty - without == pytest.approx(orthogonality(policy.model, recipe).item(), rel=1e-3)
    # E is 0 at the start, so that nothing but the penalty moves A.
    start = load_file(RunLayout(tmp_path / "0.0").snapshot(0) / ADAPTER_WEIGHTS)
    factors = [name for name in start if name.endswith("lora_A")]
    assert all(torch.equal(still[name], start[name]) for name in factors)
    assert not any(torch.equal(moved[name], start[name]) for name in factors)


def test_the_penalty_is_the_one_of_peft(recipe_for: Maker) -> None:
    recipe = recipe_for(method=section(), steps=6)
    model = build_policy(recipe).model
    ids = torch.arange(5, 15)[None]
    with_term = model(input_ids=ids, labels=ids).loss
    model.peft_config["default"].orth_reg_weight = 0.0
    plain = model(input_ids=ids, labels=ids).loss
    assert (with_term - plain).item() == pytest.approx(orthogonality(model, recipe.method).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (2, {"tfinal": 1}, r"method\.options\.tfinal: of 2 steps, 1 after pruning leave fewer than two"),
        (1, {}, r"method\.options\.tfinal: of 1 steps"),
        (10, {"tinit": 6, "tfinal": 4}, r"method\.options\.tinit: pruning would start after step 6 and end at step 6"),
        (10, {"init_r": 4}, r"method\.options\.init_r: must be more than the target rank r = 4, got 4"),
    ],
)
def test_a_schedule_that_leaves_no_room_is_refused(
    steps: int, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    from spectra.config import Document, build

    value = {"steps": steps, "method": {"name": "adalora", "r": 4, "options": {"init_r": 6, **options}}}
    with pytest.raises(RecipeError, match=message):
        build(Recipe, Document(value))


def test_the_default_schedule_fits_any_run_of_two_steps_or_more() -> None:
    for steps in range(2, 200):
        Recipe.model_validate({"steps": steps, "method": {"name": "adalora"}})
