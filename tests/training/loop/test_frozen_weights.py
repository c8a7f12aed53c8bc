"""Frozen weights that stay, and frozen weights that merging and unmerging moves."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics
from spectra.training.loop.frozen_weights import FrozenDriftCallback, frozen
from spectra.training.loop.run import train
from spectra.training.policy.policy import Policy, build_policy
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step)


def begun(recipe: Recipe, out: Path) -> tuple[Policy, FrozenDriftCallback]:
    """A policy whose step 0 is saved, and the callback that has seen it."""
    policy, layout = build_policy(recipe), RunLayout(out)
    callback = FrozenDriftCallback(recipe, layout, policy.base)
    callback.on_train_begin(None, state(0), None, model=policy.model)
    if recipe.method.name != "full":
        moved = recipe.method.name == "milora"
        save_snapshot(policy.model, layout, 0, recipe.model.base, as_lora=moved)
    return policy, callback


def logged(callback: FrozenDriftCallback, model: Any, step: int) -> dict[str, float]:
    logs: dict[str, float] = {}
    callback.on_step_end(None, state(step), None, model=model)
    callback.on_log(None, state(step), None, logs=logs)
    return logs


def matrices(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, tensor) for name, tensor in frozen(model) if tensor.ndim == 2 and "proj" in name)


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "milora", "vera", "lora_fa"])
def test_nothing_moves_and_the_drift_is_exactly_zero(method: str, recipe_for: Maker, tmp_path: Path) -> None:
    from tests.training.tiny_base_options import small_section

    policy, callback = begun(recipe_for(method=small_section(method)), tmp_path)
    assert logged(callback, policy.model, 1) == {"frozen_drift": 0.0}


def test_full_fine_tuning_has_nothing_frozen(recipe_for: Maker, tmp_path: Path) -> None:
    policy, callback = begun(recipe_for(method={"name": "full"}), tmp_path)
    assert logged(callback, policy.model, 1) == {}


def test_only_snapshots_are_compared(recipe_for: Maker, tmp_path: Path) -> None:
    policy, callback = begun(recipe_for(steps=4, snapshots={"every": 2}), tmp_path)
    assert [bool(logged(callback, policy.model, step)) for step in (1, 2, 3, 4)] == [False, True, False, True]


@pytest.mark.parametrize("method", ["lora", "pissa", "milora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_known_movement_is_measured(method: str, dtype: str, recipe_for: Maker, tmp_path: Path) -> None:
    recipe = recipe_for(method={"name": method})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})
    policy, callback = begun(recipe, tmp_path)
    name, weight = next(matrices(policy.model))
    before = weight.double().clone()
    weight[0, 0] += 1.0
    expected = float((weight.double() - before).norm() / before.norm())
    assert callback.measure(policy.model) == pytest.approx(expected, rel=1e-4)
    assert "base_layer" in name


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_a_movement_of_weights_that_are_stored_transposed(method: str, recipe_for: Maker, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=8, n_head=2, n_layer=1, n_positions=8, vocab_size=16, bos_token_id=0, eos_token_id=0)
    base = GPT2LMHeadModel(config)
    base.save_pretrained(tmp_path / "base")
    settings = {"r": 2, "target_modules": ["c_attn", "c_proj"], "init_lora_weights": method == "lora" or method}
    model = get_peft_model(base, LoraConfig(**settings))
    recipe, layout = recipe_for(method={"name": method}), RunLayout(tmp_path / "run")
    callback = FrozenDriftCallback(recipe, layout, tmp_path / "base")
    callback.on_train_begin(None, state(0), None, model=model)
    save_snapshot(model, layout, 0, str(tmp_path / "base"))
    moved = [tensor for name, tensor in frozen(model) if name.endswith(("attn.c_proj.base_layer.weight", "wpe.weight"))]
    size = math.sqrt(sum(float(tensor.double().norm() ** 2) for tensor in moved))
    for tensor in moved:
        tensor[0, 1] += 1.0
    assert len(moved) == 2
    assert callback.measure(model) == pytest.approx(math.sqrt(2) / size, rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_merging_in_half_precision_is_seen(method: str, recipe_for: Maker, tmp_path: Path) -> None:
    recipe = recipe_for(method={"name": method})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})})
    policy, callback = begun(recipe, tmp_path)
    start = {name: tensor.double().clone() for name, tensor in frozen(policy.model)}
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data += 1e-2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    policy.model.merge_adapter()
    policy.model.unmerge_adapter()
    moved = {n: t.double() for n, t in frozen(policy.model) if not torch.equal(t.double(), start[n])}
    assert moved
    distance = math.sqrt(sum(float((t - start[n]).norm() ** 2) for n, t in moved.items()))
    size = math.sqrt(sum(float(start[n].norm() ** 2) for n in moved))
    assert callback.measure(policy.model) == pytest.approx(distance / size, rel=1e-3)


def test_what_is_not_of_the_base_has_no_start_to_compare_with(recipe_for: Maker, tmp_path: Path) -> None:
    policy, callback = begun(recipe_for(method={"name": "lora_fa"}), tmp_path)
    for name, tensor in frozen(policy.model):
        if "lora_A" in name:
            tensor += 1
    assert math.isnan(callback.measure(policy.model))


@pytest.mark.usefixtures("easy_reward")
def test_a_run_logs_it_at_its_snapshots(recipe_for: Maker, tmp_path: Path) -> None:
    recipe = recipe_for(steps=3, snapshots={"every": 2})
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    assert read_metrics(layout.metrics).set_index("step")["frozen_drift"].dropna().to_dict() == {2: 0.0, 3: 0.0}
    assert "frozen_drift" not in json.loads(layout.metrics.read_text().splitlines()[0])
