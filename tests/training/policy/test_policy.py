"""The policy: what trains, and which base stands under it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectra.errors import BaseModelError, MissingInitialError, RecipeError
from spectra.runs.layout import ADAPTER_WEIGHTS, MODEL_WEIGHTS, RunLayout
from spectra.training.methods import STUDY
from spectra.training.policy.policy import build_policy
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
HIDDEN, INNER, KV, LAYERS, VOCABULARY = 32, 48, 16, 2, 81
# Sum of in + out over q, k, v, o, gate, up, down.
SIDES = LAYERS * (2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KV) + 3 * (HIDDEN + INNER))
OUT = LAYERS * (HIDDEN + KV + KV + HIDDEN + INNER + INNER + HIDDEN)
WEIGHTS = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * INNER + 2 * HIDDEN) + HIDDEN
TOTAL = WEIGHTS + 2 * VOCABULARY * HIDDEN
COUNTS = {
    "full": TOTAL,
    "lora": 8 * SIDES,
    "rank1": SIDES,
    "dora": 8 * SIDES + OUT,
    "lora_fa": 8 * OUT,
    "vera": OUT + 14 * 64,
}


@pytest.mark.parametrize("method", COUNTS)
def test_what_trains(method: str, recipe_for: Maker) -> None:
    policy = build_policy(recipe_for(method={"name": method}))
    assert policy.trainable_count == COUNTS[method]
    assert policy.trainable_share == pytest.approx(COUNTS[method] / TOTAL)
    assert sum(torch.Size(shape).numel() for shape in policy.trainable.values()) == COUNTS[method]


@pytest.mark.parametrize("method", [m.name for m in STUDY])
def test_the_policy_starts_as_the_base(method: str, recipe_for: Maker) -> None:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        base = build_policy(recipe_for(method={"name": "full"})).model(ids).logits
        logits = build_policy(recipe_for(method={"name": method}, steps=4)).model(ids).logits
    torch.testing.assert_close(logits, base, atol=1e-5, rtol=1e-5)


def test_trainable_names_are_those_of_a_snapshot(recipe_for: Maker, tmp_path: Path) -> None:
    policy = build_policy(recipe_for(method={"name": "dora"}))
    directory = save_snapshot(policy.model, RunLayout(tmp_path), 0, "base")
    saved = {name.removesuffix(".weight"): list(t.shape) for name, t in load_file(directory / ADAPTER_WEIGHTS).items()}
    assert {name.removesuffix(".weight"): shape for name, shape in policy.trainable.items()} == saved


def test_the_seed_decides_the_initialisation(recipe_for: Maker) -> None:
    def first(seed: int) -> torch.Tensor:
        parameters = build_policy(recipe_for(seed=seed)).model.named_parameters()
        return next(p for name, p in parameters if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_a_target_that_the_base_lacks_is_named(recipe_for: Maker) -> None:
    with pytest.raises(RecipeError, match=r"method\.target_modules: the base model has no linear module 'c_attn'"):
        build_policy(recipe_for(method={"target_modules": ["q_proj", "c_attn"]}))


def test_only_the_targets_train(recipe_for: Maker) -> None:
    trainable = build_policy(recipe_for(method={"target_modules": ["k_proj"]})).trainable
    assert len(trainable) == 2 * LAYERS
    assert all("k_proj" in name for name in trainable)


def test_the_residual_is_the_base_minus_the_initial_update(recipe_for: Maker, tiny_base: Path) -> None:
    policy = build_policy(recipe_for(method={"name": "pissa"}))
    pristine = load_file(tiny_base / MODEL_WEIGHTS)["model.layers.1.self_attn.k_proj.weight"]
    layer = policy.model.base_model.model.model.layers[1].self_attn.k_proj
    expected = pristine - 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer.base_layer.weight, expected, atol=1e-7, rtol=0)
    assert torch.linalg.matrix_norm(layer.base_layer.weight - pristine, 2) > 0.1


def test_a_resumed_base_is_made_from_the_saved_factors(recipe_for: Maker, tmp_path: Path) -> None:
    recipe, layout = recipe_for(method={"name": "pissa"}), RunLayout(tmp_path)
    first = build_policy(recipe)
    with torch.no_grad():  # factors that no SVD gives: recomputing them would be seen
        for name, parameter in first.model.named_parameters():
            if "lora_A" in name:
                parameter.mul_(0.5)
    initial = save_snapshot(first.model, layout, 0, "base")
    resumed = build_policy(recipe, initial)
    pristine = build_policy(recipe_for(method={"name": "full"})).model.model.layers[0].mlp.up_proj.weight
    layer = resumed.model.base_model.model.model.layers[0].mlp.up_proj
    halved = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer.base_layer.weight, pristine - halved, atol=1e-7, rtol=0)


def test_a_resumed_base_without_its_factors_is_an_error(recipe_for: Maker, tmp_path: Path) -> None:
    with pytest.raises(MissingInitialError, match="step-0 adapter is missing"):
        build_policy(recipe_for(method={"name": "pissa"}), tmp_path / "absent")


def test_a_base_that_cannot_be_loaded(recipe_for: Maker, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        build_policy(recipe_for(model={"base": str(tmp_path)}))
