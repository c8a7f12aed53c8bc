"""What a method asks of shapes is checked before peft sees the model; what it trains is counted as peft counts."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from spectra.errors import RecipeError
from spectra.training.methods import METHODS, Method, embedded_shapes
from spectra.training.methods.method import target_shapes
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.base import resolve_base
from spectra.weights.storage.tensors import TensorStore
from tests.training.tiny_base_options import small_section

Maker = Callable[..., Recipe]


def test_the_shapes_of_the_base_that_ships_with_spectra_are_those_of_its_file() -> None:
    assert embedded_shapes() == TensorStore.open_model(resolve_base("embedded")).shapes


@pytest.mark.parametrize("method", [m for m in METHODS if m.size is not None], ids=lambda m: m.name)
def test_the_count_is_that_of_peft(method: Method, recipe_for: Maker) -> None:
    assert method.size is not None
    if method.needs is not None and find_spec(method.needs[0]) is None:
        count = method.trainable(embedded_shapes())  # as counted where the package was installed
        assert count is not None
        assert count[0] == 8704
        return
    recipe = recipe_for(method=small_section(method.name), steps=6)
    policy = build_policy(recipe)
    base = TensorStore.open_model(policy.base).shapes
    assert policy.trainable_count == method.size(recipe.method, target_shapes(base, recipe.method.target_modules or []))


@pytest.mark.parametrize(
    "section",
    [
        {"name": "miss", "r": 16, "options": {"init": "bat"}},
        {"name": "miss", "options": {"init": "mini", "mini_r": 4}},
        {"name": "lokr", "r": 2, "options": {"decompose_both": True}},
        {"name": "lokr", "options": {"decompose_factor": 4}},
        {"name": "oft", "options": {"block_share": True}},
        {"name": "road", "options": {"variant": "road_4", "group_size": 16}},
        {"name": "psoft", "options": {"psoft_mag_a": False}},
        {"name": "tinylora", "options": {"weight_tying": 0.5}},
        {"name": "glora", "options": {"config_A_B": "vector"}},
        {"name": "glora", "options": {"config_A_B": "constant"}},
        {"name": "peanut", "options": {"depth": 2}},
        {"name": "gralora", "options": {"hybrid_r": 3}},
        {"name": "trainable_tokens", "options": {"token_indices": [4, 5]}},
        {"name": "ia3", "target_modules": ["q_proj", "up_proj"], "options": {"feedforward_modules": ["up_proj"]}},
        {"name": "randlora", "r": 6},
    ],
    ids=lambda section: "-".join([section["name"], *map(str, section.get("options", {}))]),
)
def test_the_count_follows_the_options(section: dict[str, Any], recipe_for: Maker) -> None:
    recipe = recipe_for(method=section)
    method = next(m for m in METHODS if m.name == section["name"])
    policy = build_policy(recipe)
    base = TensorStore.open_model(policy.base).shapes
    assert method.size is not None
    assert policy.trainable_count == method.size(recipe.method, target_shapes(base, recipe.method.target_modules or []))


Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"name": "c3a", "options": {"block_size": 32}},
            rf"method\.options\.block_size: 32 does not divide the out-features of {K} \(16 × 32\); choose a divisor",
        ),
        ({"name": "vblora", "options": {"vector_length": 64}}, r"method\.options\.vector_length: 64 does not divide"),
        ({"name": "oft", "options": {"oft_block_size": 24}}, rf"24 does not divide the in-features of {Q} \(32 × 32\)"),
        ({"name": "boft", "options": {"boft_block_size": 5}}, r"method\.options\.boft_block_size: 5 does not divide"),
        ({"name": "road", "options": {"group_size": 32}}, rf"32 does not divide the out-features of {K}"),
        ({"name": "gralora", "options": {"gralora_k": 3}}, r"method\.options\.gralora_k: 3 does not divide"),
        ({"name": "miss", "r": 12, "options": {"init": "bat"}}, r"method\.r: 12 does not divide"),
        (
            {"name": "miss", "options": {"init": "mini", "mini_r": 5}},
            r"method\.options\.mini_r: 5 does not divide",
        ),
        ({"name": "miss", "r": 40}, rf"method\.r: 40 is too large for {Q} \(32 × 32\); choose 32 or less"),
        ({"name": "milora", "r": 20}, rf"method\.r: 20 is too large for {K} \(16 × 32\); choose 16 or less"),
        ({"name": "fourierft", "options": {"n_frequency": 600}}, r"method\.options\.n_frequency: 600 is too large"),
        ({"name": "hra", "r": 3}, r"method\.r: must be even for hra, got 3; choose an even r"),
        (
            {"name": "gralora", "r": 7},
            r"method gralora: peft rejects the configuration \(r should be divisible by gralora_k",
        ),
        (
            {"name": "layernorm", "target_modules": ["q_proj"]},
            r"no norm module 'q_proj'; choose among input",
        ),
        ({"name": "lora", "target_modules": ["mlp.q_proj"]}, r"the base model has no linear module 'mlp\.q_proj'"),
        ({"name": "trainable_tokens", "target_modules": ["norm"]}, r"no embedding module 'norm'; choose among embed"),
    ],
)
def test_a_shape_that_does_not_suit_is_named_before_training(
    section: dict[str, Any], message: str, recipe_for: Maker
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_policy(recipe_for(method=section))
