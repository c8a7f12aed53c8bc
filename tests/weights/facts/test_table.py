"""The table of facts against the installed peft, the readers, and the trainers with what they write."""

import dataclasses
import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

from spectra.training.methods import LINEAR_MODULES, METHODS, Method, MethodRecipe, RunContext
from spectra.weights.facts import (
    BY_TYPE,
    FACTS,
    Family,
    MethodFacts,
    find_facts,
    find_initialization,
    initialization_value,
    plain,
)
from spectra.weights.readers.registry import READERS

# AdaMSS has a reader, so that its files can be looked into, and the reader refuses: see its fact.
READ = {one.peft_type for one in FACTS.values() if one.peft_type is not None and one.not_read is None} | {"ADAMSS"}


def test_importing_the_facts_imports_neither_torch_nor_peft() -> None:
    program = "import sys, spectra.weights.facts; assert not {'torch', 'peft', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_types_are_those_of_the_installed_peft() -> None:
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert {kind.value for kind in PeftType} == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert {*BY_TYPE, "LORA"} == {kind.value for kind in PeftType}


def test_every_type_that_is_read_has_a_reader() -> None:
    assert set(READERS) == READ


def test_every_method_that_is_trained_has_a_trainer() -> None:
    assert [method.name for method in METHODS if method.facts is not FACTS[method.name]] == []
    assert {method.name for method in METHODS} == {one.name for one in FACTS.values() if one.not_trained is None}


def test_every_variant_of_lora_is_an_option_in_the_table() -> None:
    from peft import LoraConfig

    fields = {field.name: field.metadata for field in dataclasses.fields(LoraConfig)}
    variants = {name for name, metadata in fields.items() if metadata.get("is_lora_variant")}
    assert variants | {"use_rslora", "use_qalora"} == {one.option for one in FACTS.values() if one.option is not None}


@pytest.mark.parametrize("facts", FACTS.values(), ids=lambda one: one.name)
def test_every_entry_says_what_it_is(facts: MethodFacts) -> None:
    assert all((facts.title, facts.update, facts.source))
    assert facts.family in get_args(Family)
    assert (facts.peft_type is None) == (facts.name == "full")
    assert facts.moves_base == ("B_0·A_0" in facts.update)
    assert facts.moves_base or not facts.saved_as_lora
    assert all(reason is None or len(reason) > 20 for reason in (facts.not_read, facts.not_trained))
    # Without a matrix ΔW there is no formula for one.
    assert not facts.update.startswith("none") or facts.not_read is not None
    if facts.initialization is not None:
        found = find_initialization(facts.initialization)
        assert found is not None
        assert found.moves_base == facts.moves_base


def test_every_family_has_a_method() -> None:
    assert {one.family for one in FACTS.values()} == set(get_args(Family))


def test_no_two_methods_share_a_spelling() -> None:
    spellings = [plain(name) for one in FACTS.values() for name in {one.name, *one.aliases}]
    assert len(spellings) == len(set(spellings)) + sum(
        len({plain(n) for n in (one.name, *one.aliases)}) < len({one.name, *one.aliases}) for one in FACTS.values()
    )
    for one in FACTS.values():
        assert {find_facts(name) for name in (one.name, one.name.upper(), *one.aliases)} == {one}
    assert find_facts("something of their own") is None


# peft makes no configuration of AdaMSS without scikit-learn.
@pytest.mark.parametrize(
    "method", [m for m in METHODS if m.config is not None and m.name != "adamss"], ids=lambda m: m.name
)
def test_what_a_trainer_writes_is_what_the_table_says(method: Method) -> None:
    recipe = MethodRecipe.model_validate(method.resolve({}))
    assert method.config is not None
    made = method.config(recipe, RunContext(steps=40, seed=0, shapes=dict.fromkeys(LINEAR_MODULES, (81, 32))))
    assert made.peft_type == method.facts.peft_type
    if made.peft_type != "LORA":
        return
    options = {one.option for one in FACTS.values() if one.option is not None and getattr(made, one.option)}
    assert options == ({method.facts.option} - {None})
    assert initialization_value({"init_lora_weights": made.init_lora_weights}) == (
        method.facts.initialization or "true"
    )
    assert method.facts.rank in (None, made.r)


def test_readers_and_trainers_are_in_the_file_of_their_family() -> None:
    for method in METHODS:
        family = import_module(f"spectra.training.methods.families.{method.facts.family}")
        assert method in family.METHODS
    for kind, reader in READERS.items():
        facts = FACTS["lora"] if kind == "LORA" else BY_TYPE[kind]
        assert import_module(f"spectra.weights.readers.families.{facts.family}").READERS[kind] is reader
