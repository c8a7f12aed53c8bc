"""The registry: names, defaults, options, and what reaches peft."""

import subprocess
import sys
from typing import Any

import pytest

from spectra.commands.methods import methods
from spectra.config import Document, KeyFault, build
from spectra.errors import RecipeError, UsageError
from spectra.training.methods import LINEAR_MODULES, METHODS, Method, MethodRecipe, find_method


def section(text: str) -> MethodRecipe:
    return build(MethodRecipe, Document.parse(text, "m.yaml"))


def fault(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        section(text)
    return str(caught.value)


def test_importing_the_registry_imports_no_heavy_library() -> None:
    program = (
        "import sys, spectra.commands.methods as m; m.methods();"
        "assert not {'torch', 'peft', 'trl', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_and_aliases_are_unique() -> None:
    names = [name for method in METHODS for name in (method.name, *method.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_entry_says_what_it_is(method: Method) -> None:
    summary = method.summary()
    assert all(summary[key] for key in ("name", "title", "trains", "update", "source"))
    assert method.moves_base == ("B_0" in method.update)


def test_an_alias_resolves_to_the_name() -> None:
    assert section("name: rank-1\n").name == "rank1"


def test_an_unknown_method_names_the_nearest() -> None:
    assert fault("name: lorra\n") == "m.yaml:1: name: no method 'lorra'; did you mean 'lora'?"
    with pytest.raises(KeyFault, match="choose one of full, lora"):
        find_method("zzzz")


def test_keys_that_a_method_does_not_take_are_refused() -> None:
    assert fault("name: full\nr: 8\n") == "m.yaml:2: r: method full takes no r; remove it"
    assert "method rank1 has r 1" in fault("name: rank1\nr: 8\n")
    assert section("name: full\n").target_modules is None


def test_options_are_strict() -> None:
    assert section("name: dora\noptions: {init: gaussian}\n").options == {"init": "gaussian"}
    assert "m.yaml:2: options.initt: method lora has no such option; did you mean 'init'?" in fault(
        "name: lora\noptions: {initt: gaussian}\n"
    )
    assert "options.init: 'zeros' should be 'kaiming' or 'gaussian'" in fault("options: {init: zeros}\n")
    assert "its options are none" in fault("name: pissa\noptions: {niter: 4}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: lora\n", {"r": 8, "lora_alpha": 16, "init_lora_weights": True, "use_dora": False}),
        ("options: {init: gaussian}\ndropout: 0.1\n", {"init_lora_weights": "gaussian", "lora_dropout": 0.1}),
        ("name: rank1\n", {"r": 1, "lora_alpha": 2}),
        ("name: rslora\nr: 4\n", {"r": 4, "use_rslora": True}),
        ("name: dora\n", {"use_dora": True}),
        ("name: pissa\ntarget_modules: [q_proj]\n", {"init_lora_weights": "pissa", "target_modules": {"q_proj"}}),
    ],
)
def test_what_reaches_peft(text: str, expected: dict[str, Any]) -> None:
    recipe = section(text)
    build_config = find_method(recipe.name).peft_config
    assert build_config is not None
    config = build_config(recipe)
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.task_type == "CAUSAL_LM"


def test_the_default_targets_are_the_seven_linear_modules() -> None:
    assert section("name: lora\n").target_modules == LINEAR_MODULES
    assert len(LINEAR_MODULES) == 7


def test_the_command_prints_one_or_all() -> None:
    assert [m["name"] for m in methods()] == [m.name for m in METHODS]
    (dora,) = methods("dora")
    assert "W_0 + s·B·A" in dora["update"]
    with pytest.raises(UsageError, match="did you mean 'pissa'"):
        methods("pisa")
