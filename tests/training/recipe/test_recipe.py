"""Recipes: strict, complete, and every one that ships loads."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectra.config import Document, build, dump, load
from spectra.errors import RecipeError
from spectra.training.methods import METHODS, STUDY
from spectra.training.recipe.recipe import Recipe
from spectra.training.recipe.schedules import SnapshotRecipe, log_spaced
from spectra.training.studies.study import load_study

SHIPPED = sorted((Path(__file__).parents[3] / "training").glob("*.yaml"))
STUDIES = {"demo", "smollm2", "study"}


def recipe(text: str) -> Recipe:
    return build(Recipe, Document.parse(text, "recipe.yaml"))


def fault(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    return str(caught.value)


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.stem not in STUDIES], ids=lambda p: p.stem)
def test_shipped_recipes_load(path: Path) -> None:
    loaded = load(Recipe, path)
    assert loaded.name == path.stem
    assert build(Recipe, Document.parse(dump(loaded), "dump")) == loaded


def test_every_method_of_the_study_has_a_recipe_at_its_own_learning_rate() -> None:
    recipes = {p.stem: load(Recipe, p) for p in SHIPPED if p.stem not in STUDIES}
    assert list(recipes) == sorted(m.name for m in STUDY)
    assert all(recipes[m.name].method.name == m.name for m in STUDY)
    assert all(recipes[m.name].optimizer.learning_rate == m.learning_rate for m in STUDY)


def test_the_study_compares_the_fifteen_methods_at_one_rate_and_six_at_their_own() -> None:
    recipes = load_study(next(p for p in SHIPPED if p.stem == "study")).recipes
    assert [r.method.name for r in recipes.values()][:15] == [m.name for m in STUDY]
    common = {name: r.optimizer.learning_rate for name, r in recipes.items() if not name.endswith("-own-rate")}
    assert common == {m.name: 1e-4 if m.name == "full" else 1e-3 for m in STUDY}
    own = {r.method.name: r.optimizer.learning_rate for name, r in recipes.items() if name.endswith("-own-rate")}
    assert own == {m.name: m.learning_rate for m in STUDY if m.name in own}
    assert own.keys() == {"adalora", "pissa", "lora_plus", "vera", "layernorm", "ia3"}
    same = {
        r.model_copy(update={"name": "", "method": None, "optimizer": None}).model_dump_json() for r in recipes.values()
    }
    assert len(same) == 1


@pytest.mark.parametrize("text", ["", "optimizer: {weight_decay: 0.1}\n", "optimizer: {learning_rate: null}\n"])
def test_a_learning_rate_that_is_left_out_is_the_methods_own(text: str) -> None:
    assert recipe(f"{text}method: {{name: vera}}\n").optimizer.learning_rate == 1e-2
    assert recipe(f"{text}method: {{name: fft}}\n").optimizer.learning_rate == 1e-4
    assert recipe(text).optimizer.learning_rate == 1e-3


def test_a_learning_rate_that_is_given_stays() -> None:
    assert recipe("optimizer: {learning_rate: 1e-5}\nmethod: {name: vera}\n").optimizer.learning_rate == 1e-5


def test_faults_of_sections_are_told_where_the_learning_rate_is_left_out() -> None:
    assert fault("method: 3\n").startswith("recipe.yaml:1: method")
    assert fault("optimizer: [1]\n").startswith("recipe.yaml:1: optimizer")
    assert "no method 'lorra'" in fault("method: {name: lorra}\n")


@pytest.mark.parametrize("name", ["pissa", "milora", "olora", "corda"])
def test_methods_that_move_the_base_have_no_reference(name: str) -> None:
    assert f"must be 0 with {name}, which moves the base" in fault(
        f"method: {{name: {name}}}\nalgorithm: {{beta: 0.1}}\n"
    )


def test_the_demo_study_compares_five_runs_that_differ_in_method_and_learning_rate_only() -> None:
    recipes = load_study(next(p for p in SHIPPED if p.stem == "demo")).recipes
    assert list(recipes) == ["lora", "dora", "full", "pissa", "pissa-tenth"]
    assert [r.optimizer.learning_rate for r in recipes.values()] == [1e-3, 1e-3, 1e-4, 1e-3, 1e-4]
    same = {
        r.model_copy(update={"name": "", "method": None, "optimizer": None}).model_dump_json() for r in recipes.values()
    }
    assert len(same) == 1


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_round_trip_of_every_method(method: object) -> None:
    loaded = recipe(f"method: {{name: {method.name}}}\n")  # type: ignore[attr-defined]
    assert build(Recipe, Document.parse(dump(loaded), "dump")) == loaded


def test_defaults_suit_the_embedded_base() -> None:
    loaded = recipe("")
    assert (loaded.model.base, loaded.steps, loaded.completions_per_step) == ("embedded", 60, 256)
    assert (loaded.method.name, loaded.method.r, loaded.method.alpha) == ("lora", 8, 16.0)


@pytest.mark.parametrize(("name", "high"), [("grpo", 0.2), ("dapo", 0.28)])
def test_the_upper_clip_follows_the_algorithm(name: str, high: float) -> None:
    assert recipe(f"algorithm: {{name: {name}}}\n").algorithm.epsilon_high == high
    assert recipe(f"algorithm: {{name: {name}, epsilon_high: 0.5}}\n").algorithm.epsilon_high == 0.5


def test_micro_batches_must_divide_the_step() -> None:
    assert recipe("micro_batch: 64\n").micro_batch == 64
    assert "recipe.yaml:1: micro_batch: 100 does not divide" in fault("micro_batch: 100\n")


def test_a_reference_that_would_be_the_residual_model_is_refused() -> None:
    message = fault("method: {name: pissa}\nalgorithm:\n  beta: 0.04\n")
    assert message.startswith("recipe.yaml:3: algorithm.beta: must be 0 with pissa")
    assert "residual" in message
    assert recipe("method: {name: lora}\nalgorithm: {beta: 0.04}\n").algorithm.beta == 0.04


def test_unknown_algorithm_names_the_choices() -> None:
    assert fault("algorithm: {name: ppo}\n") == (
        "recipe.yaml:1: algorithm.name is 'ppo'; it should be 'grpo', 'dapo', 'dr_grpo', 'bnpo', 'cispo', "
        "'sapo', 'luspo', 'vespo' or 'gspo'"
    )


@pytest.mark.parametrize("text", ["snapshots: {}\n", "snapshots: {every: 2, log_spaced: 3}\n"])
def test_snapshots_have_one_schedule(text: str) -> None:
    assert "set one of snapshots.every and snapshots.log_spaced" in fault(text)


def test_more_log_spaced_snapshots_than_steps() -> None:
    assert "recipe.yaml:2: snapshots.log_spaced: must be at most 5 steps, got 8" in fault(
        "steps: 5\nsnapshots: {log_spaced: 8}\n"
    )


def test_data_of_ones_own_needs_a_name_and_held_out_problems() -> None:
    assert "give your data another name" in fault("task: {data: x.jsonl}\n")
    assert "no task 'maths'" in fault("task: {name: maths}\n")
    assert "evaluation.every: needs held-out problems" in fault("task: {name: maths, data: x.jsonl}\n")
    assert "needs task.data" in fault("task: {heldout: x.jsonl}\n")
    assert recipe("task: {name: maths, data: x.jsonl}\nevaluation: {every: null}\n").task.data == "x.jsonl"


def test_a_name_that_is_no_directory_name() -> None:
    assert "recipe.yaml:1: name is '../x'" in fault("name: ../x\n")


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValidationError):
        recipe("").steps = 3  # type: ignore[misc]


@given(st.integers(1, 2000), st.integers(1, 500))
def test_regular_snapshots_hold_both_ends(last: int, every: int) -> None:
    steps = SnapshotRecipe(every=every).schedule(last)
    assert steps[0] == 0
    assert steps[-1] == last
    assert all(0 < b - a <= every for a, b in zip(steps, steps[1:], strict=False))


@given(st.integers(1, 5000).flatmap(lambda last: st.tuples(st.just(last), st.integers(1, min(last, 60)))))
def test_log_spaced_snapshots_are_as_many_as_asked_and_rise(case: tuple[int, int]) -> None:
    last, count = case
    steps = log_spaced(last, count)
    assert len(steps) == count
    assert steps[-1] == last
    assert steps[0] >= 1
    assert all(a < b for a, b in zip(steps, steps[1:], strict=False))
    assert SnapshotRecipe(log_spaced=count).schedule(last) == [0, *steps]


def test_log_spacing_has_even_ratios() -> None:
    assert log_spaced(1024, 11) == [2**k for k in range(11)]


@pytest.mark.parametrize(
    ("every", "due"), [(20, [0, 20, 40, 50]), (60, [0, 50]), (None, [])], ids=["inside", "beyond", "never"]
)
def test_evaluation_is_due_at_both_ends(every: int | None, due: list[int]) -> None:
    evaluation = Recipe.model_validate({"evaluation": {"every": every}}).evaluation
    assert [step for step in range(51) if evaluation.due(step, 50)] == due


def test_what_trains_is_float32_unless_both_types_say_bfloat16() -> None:
    assert Recipe.model_validate({"model": {"dtype": "bfloat16"}}).model.trainable_dtype == "float32"
    with pytest.raises(RecipeError, match=r"model\.trainable_dtype: bfloat16 needs model\.dtype bfloat16"):
        build(Recipe, Document({"model": {"trainable_dtype": "bfloat16"}}))
