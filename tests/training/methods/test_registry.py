"""The table: names, defaults, options, what reaches peft, and that nothing of peft is forgotten."""

import subprocess
import sys
from textwrap import indent
from typing import Any

import pytest

from spectra.commands.methods import methods
from spectra.config import Document, KeyFault, build
from spectra.errors import RecipeError, UsageError
from spectra.training.methods import (
    LEFT_OUT,
    LINEAR_MODULES,
    METHODS,
    NORM_MODULES,
    STUDY,
    Method,
    MethodRecipe,
    RunContext,
    embedded_shapes,
    find_method,
)
from spectra.training.recipe.recipe import Recipe

SETTING = RunContext(steps=40, seed=3, shapes={"model.embed_tokens": (81, 32)})


def section(text: str) -> MethodRecipe:
    return build(Recipe, Document.parse(f"method:\n{indent(text, '  ')}", "m.yaml")).method


def fault(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        section(text)
    return str(caught.value)


def config(text: str) -> Any:
    recipe = section(text)
    make = find_method(recipe.name).config
    assert make is not None
    return make(recipe, SETTING)


def test_importing_the_registry_imports_no_heavy_library() -> None:
    program = (
        "import sys, spectra.commands.methods as m; m.methods();"
        "assert not {'torch', 'peft', 'trl', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_fifteen_methods_of_the_study_come_first() -> None:
    assert METHODS[:15] == STUDY
    assert {m.facts.title for m in STUDY} >= {
        "Full fine-tuning",
        "LoRA",
        "DoRA",
        "AdaLoRA",
        "MiSS",
        "PiSSA",
        "MiLoRA",
        "VeRA",
    }


def test_what_is_left_out_has_a_reason() -> None:
    assert {"prompt_tuning", "poly", "kasa", "loftq", "lora_ga", "velora"} <= set(LEFT_OUT)
    assert all(len(reason) > 20 for reason in LEFT_OUT.values())


def test_names_and_aliases_are_unique() -> None:
    names = [name for method in METHODS for name in (method.name, *method.facts.aliases)]
    assert len(names) == len(set(names))
    assert not set(names) & set(LEFT_OUT)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_entry_says_what_it_is(method: Method) -> None:
    summary = method.summary(embedded_shapes())
    assert all(summary[key] for key in ("name", "title", "trains", "update", "source", "learning_rate"))
    assert (method.config is None) == (method.facts.peft_type is None) == (method.name == "full")


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_resolved_section_is_complete(method: Method) -> None:
    resolved = section(f"name: {method.name}\n")
    assert MethodRecipe.model_validate(find_method(resolved.name).resolve(resolved.model_dump())) == resolved


@pytest.mark.parametrize(
    ("alias", "name"), [("rank-1", "rank1"), ("lora+", "lora_plus"), ("lora-fa", "lora_fa"), ("milora+", "milora_plus")]
)
def test_an_alias_resolves_to_the_name(alias: str, name: str) -> None:
    assert section(f"name: {alias}\n").name == name


def test_an_unknown_method_names_the_nearest() -> None:
    assert fault("name: lorra\n") == "m.yaml:2: method.name: no method 'lorra'; did you mean 'lora'?"
    with pytest.raises(KeyFault, match="choose one of full, lora"):
        find_method("zzzz")


def test_a_method_that_is_left_out_says_why() -> None:
    assert "'prompt_tuning' is not trained: it trains prompts" in fault("name: prompt_tuning\n")
    assert "quantized base" in fault("name: loftq\n")


def test_keys_that_a_method_does_not_take_are_refused() -> None:
    assert fault("name: full\nr: 8\n") == "m.yaml:3: method.r: method full takes no r; remove it"
    assert "method rank1 fixes r to 1" in fault("name: rank1\nr: 8\n")
    assert "method vera takes no alpha" in fault("name: vera\nalpha: 8\n")
    assert section("name: full\n").target_modules is None


def test_options_are_strict() -> None:
    assert section("name: dora\noptions: {init: gaussian}\n").options == {"init": "gaussian"}
    assert "m.yaml:3: method.options.initt: method lora has no such option; did you mean 'init'?" in fault(
        "name: lora\noptions: {initt: gaussian}\n"
    )
    assert "options.init: 'zeros' should be 'kaiming', 'gaussian' or 'orthogonal'" in fault("options: {init: zeros}\n")
    assert "its options are none" in fault("name: olora\noptions: {niter: 4}\n")
    assert "options.niter: 0 should be greater than or equal to 1" in fault("name: pissa\noptions: {niter: 0}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: lora_fa\noptions: {dora: true}\n", "DoRA adds a magnitude"),
        ("name: boft\noptions: {boft_n_butterfly_factor: 2}\n", "CUDA extension cannot be built"),
        ("name: hra\noptions: {apply_GS: true}\n", "divides 0 by 0"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert reason in fault(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: lora\n", {"r": 8, "lora_alpha": 16, "init_lora_weights": True, "use_dora": False}),
        ("options: {init: gaussian}\ndropout: 0.1\n", {"init_lora_weights": "gaussian", "lora_dropout": 0.1}),
        ("options: {init: orthogonal}\n", {"init_lora_weights": "orthogonal"}),
        ("name: rank1\n", {"r": 1, "lora_alpha": 2}),
        ("name: rslora\nr: 4\n", {"r": 4, "use_rslora": True}),
        ("name: dora\n", {"use_dora": True}),
        ("name: pissa\ntarget_modules: [q_proj]\n", {"init_lora_weights": "pissa", "target_modules": {"q_proj"}}),
        ("name: pissa\noptions: {niter: 4}\n", {"init_lora_weights": "pissa_niter_4"}),
        ("name: milora\nr: 32\nalpha: 32\n", {"r": 32, "lora_alpha": 32, "init_lora_weights": True}),
        ("name: olora\n", {"init_lora_weights": "olora"}),
        ("name: mica\n", {"init_lora_weights": "mica"}),
        ("name: adalora\nr: 8\n", {"init_r": 12, "target_r": 8, "tinit": 4, "tfinal": 13, "total_step": 40, "r": 8}),
        ("name: adalora\nr: 8\noptions: {init_r: 32, tinit: 0}\n", {"init_r": 32, "tinit": 0, "lora_alpha": 16}),
        ("name: miss\n", {"r": 8, "init_weights": True}),
        ("name: miss\noptions: {init: mini, mini_r: 2}\n", {"init_weights": "mini", "mini_r": 2}),
        ("name: vera\n", {"r": 64, "projection_prng_key": 3, "save_projection": True, "d_initial": 0.1}),
        ("name: ia3\n", {"target_modules": {"k_proj", "v_proj", "down_proj"}, "feedforward_modules": {"down_proj"}}),
        ("name: ia3\ntarget_modules: [q_proj]\n", {"feedforward_modules": set()}),
        ("name: layernorm\n", {"target_modules": NORM_MODULES}),
        ("name: fourierft\n", {"init_weights": True, "random_loc_seed": 3}),
        ("name: c3a\n", {"init_weights": True, "block_size": 64}),
        ("name: shira\n", {"random_seed": 3}),
        ("name: unilora\n", {"save_indices": True, "proj_seed": 3}),
        ("name: randlora\n", {"randlora_alpha": 160, "save_projection": True, "projection_prng_key": 3}),
        ("name: osf\n", {"effective_rank": 8}),
        ("name: trainable_tokens\n", {"token_indices": list(range(81))}),
        ("name: trainable_tokens\noptions: {token_indices: [5]}\n", {"token_indices": [5]}),
    ],
)
def test_what_reaches_peft(text: str, expected: dict[str, Any]) -> None:
    made = config(text)
    assert {key: getattr(made, key) for key in expected} == expected
    assert made.task_type == "CAUSAL_LM"


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m.config is not None and m.name not in ("shadow", "adamss")], ids=lambda m: m.name
)
def test_every_configuration_names_its_targets_and_its_type(method: Method) -> None:
    made = config(f"name: {method.name}\n")
    assert made.peft_type == method.facts.peft_type
    assert set(made.target_modules) == set(method.defaults["target_modules"])


def test_the_default_targets_are_the_seven_linear_modules() -> None:
    assert section("name: lora\n").target_modules == LINEAR_MODULES
    assert len(LINEAR_MODULES) == 7


def test_the_command_prints_one_or_all() -> None:
    assert [m["name"] for m in methods()] == [m.name for m in METHODS]
    (dora,) = methods("dora")
    assert "W_0 + s·B·A" in dora["update"]
    assert (dora["trainable"], dora["share"]) == (82_944, "10.26%")
    with pytest.raises(UsageError, match="did you mean 'pissa'"):
        methods("pisa")
    with pytest.raises(UsageError, match="it trains prompts"):
        methods("prefix_tuning")
