"""A run goes on with a recipe that differs in how it is computed and kept, and with no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.config import dump, load
from spectra.errors import RunExistsError
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, now
from spectra.training.loop.recipe_changes import CheckpointIntervalCallback, adopt, made_no_progress, obstacle
from spectra.training.loop.run import RunAction, decide, train
from spectra.training.recipe.recipe import Recipe
from tests.training.loop.test_kill_and_resume import curves, results
from tests.training.loop.test_run import tensors

Maker = Callable[..., Recipe]
TASK = {"name": "mine", "data": "a.jsonl", "heldout": "b.jsonl", "data_sha256": "1", "heldout_sha256": "2"}


def run_of(tmp_path: Path, *, checkpoint: bool = True) -> RunLayout:
    layout = RunLayout(tmp_path / "run")
    layout.snapshot(0).mkdir(parents=True)
    if checkpoint:
        (layout.checkpoints / "checkpoint-2").mkdir(parents=True)
    return layout


@pytest.mark.parametrize(
    "changed",
    [
        {"micro_batch": 8},
        {"model": {"gradient_checkpointing": True}},
        {"evaluation": {"batch_size": 7}},
        {"report_to": ["tensorboard"]},
        {"rollout": {"gpu_memory": 0.5, "url": "http://there", "max_model_length": 99, "tensor_parallel": 2}},
        {"checkpoints": {"every": 3, "keep": 1}},
        {"task": {**TASK, "data": "moved/a.jsonl", "heldout": "moved/b.jsonl"}},
        {"steps": 61},
    ],
)
def test_what_does_not_change_the_result_may_change(changed: dict[str, Any], tmp_path: Path) -> None:
    there = Recipe.model_validate({"task": TASK})
    here = Recipe.model_validate({"task": TASK, **changed})
    assert obstacle(there, here, run_of(tmp_path)) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 1}, "seed = 0, but the recipe has 1"),
        ({"micro_batch": 8, "optimizer": {"learning_rate": 0.5}}, "optimizer.learning_rate"),
        ({"rollout": {"importance_cap": 2.0}}, "rollout.importance_cap"),
        ({"model": {"dtype": "bfloat16"}}, "model.dtype"),
        ({"evaluation": {"every": 5}}, "evaluation.every"),
        ({"task": {**TASK, "data": "c.jsonl", "data_sha256": "3"}}, "task.data = 'a.jsonl', but the recipe has 'c.js"),
        # Held-out problems of the same set are read otherwise, whatever their digest.
        ({"task": {**TASK, "heldout": "a.jsonl"}}, "task.heldout = 'b.jsonl'"),
        ({"steps": 59}, "steps = 60, but the recipe has 59; a run cannot be shortened"),
    ],
)
def test_everything_else_may_not(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    there = Recipe.model_validate({"task": TASK})
    fault = obstacle(there, Recipe.model_validate({"task": TASK, **changed}), run_of(tmp_path))
    assert fault is not None and says in fault


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"optimizer": {"schedule": "cosine"}}, "a cosine schedule of the learning rate depends on it"),
        ({"snapshots": {"log_spaced": 4}}, "snapshots.log_spaced depends on it"),
        ({"method": {"name": "adalora"}}, "the schedule of adalora depends on it"),
    ],
)
def test_steps_are_fixed_where_a_schedule_depends_on_them(section: dict[str, Any], why: str, tmp_path: Path) -> None:
    there, here = (Recipe.model_validate({"steps": steps, **section}) for steps in (60, 90))
    fault = obstacle(there, here, run_of(tmp_path))
    assert fault is not None and fault.endswith(why)


def test_more_steps_need_a_checkpoint(tmp_path: Path) -> None:
    layout = run_of(tmp_path, checkpoint=False)
    fault = obstacle(Recipe.model_validate({}), Recipe.model_validate({"steps": 90}), layout)
    assert fault is not None and fault.endswith("there is no checkpoint to resume from")


def test_a_run_of_another_recipe_that_got_nowhere_is_started_again(tmp_path: Path) -> None:
    layout = run_of(tmp_path, checkpoint=False)
    layout.recipe.write_text(dump(Recipe.model_validate({})))
    other = Recipe.model_validate({"seed": 1})
    assert made_no_progress(layout) and decide(other, layout) is RunAction.RESTART
    layout.snapshot(1).mkdir()
    with pytest.raises(RunExistsError, match="seed = 0, .*start over with --overwrite"):
        decide(other, layout)
    layout.snapshot(1).rmdir()
    (layout.checkpoints / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(RunExistsError, match="seed = 0"):
        decide(other, layout)


def test_the_recipe_is_the_newest_and_the_manifest_remembers(tmp_path: Path) -> None:
    layout, began = run_of(tmp_path), Recipe.model_validate({})
    layout.recipe.write_text(dump(began))
    manifest = Manifest(now(), {}, None, BaseIdentity("embedded", None, {}), "lora", "dapo", 0, {}, {})
    manifest.write(layout.manifest)
    assert adopt(began, layout, 2) == {}
    assert Manifest.read(layout.manifest) == manifest
    here = Recipe.model_validate({"micro_batch": 8, "checkpoints": {"every": 5}})
    expected = {"micro_batch": (None, 8), "checkpoints.every": (10, 5)}
    assert adopt(here, layout, 2) == expected
    assert load(Recipe, layout.recipe) == here
    record = {"step": 2, "changed": {key: list(pair) for key, pair in expected.items()}}
    assert Manifest.read(layout.manifest) == replace(manifest, resumed=[record])


def test_a_resumed_trainer_keeps_checkpoints_as_it_is_told_now() -> None:
    class Told:
        save_steps = 3

    class Remembered:
        save_steps = 2

    state = Remembered()
    CheckpointIntervalCallback().on_train_begin(Told(), state, None)
    assert state.save_steps == 3


@pytest.mark.slow
@pytest.mark.usefixtures("easy_reward")
def test_a_finished_run_made_longer_has_the_bits_of_one_that_was_long(recipe_for: Maker, tmp_path: Path) -> None:
    common = {"optimizer": {"learning_rate": 1e-2}, "evaluation": {"every": 3, "problems": 4, "samples": 2}}
    short = recipe_for(steps=3, checkpoints={"every": 2, "keep": 9}, **common)
    long = recipe_for(steps=6, checkpoints={"every": 5, "keep": 9}, **common)
    layout = RunLayout(train(short, tmp_path / "extended", quiet=True))
    train(long, layout.root, quiet=True)
    straight = RunLayout(train(long, tmp_path / "straight", quiet=True))
    assert results(layout) == results(straight)
    epochs = {"epoch"}  # a share of the run's own length
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in epochs} for row in curves(x)] for x in (layout, straight)
    )
    assert ours == theirs
    assert {path.name for path in layout.checkpoints.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (2, 3, 5, 6)}
    assert load(Recipe, layout.recipe) == long
    assert [entry["step"] for entry in Manifest.read(layout.manifest).resumed] == [3]


@pytest.mark.slow
@pytest.mark.usefixtures("easy_reward")
def test_smaller_micro_batches_after_a_stop_differ_by_rounding(recipe_for: Maker, tmp_path: Path) -> None:
    common = {
        "steps": 2,
        "checkpoints": {"every": 1},
        "optimizer": {"learning_rate": 1e-2, "epsilon": 1.0},
        "evaluation": {"every": None},
    }
    layout = RunLayout(train(recipe_for(**common), tmp_path / "run", quiet=True))
    whole, start = tensors(layout, 2), tensors(layout, 0)
    layout.snapshot(2).rename(tmp_path / "gone")
    for path in layout.checkpoints.glob("checkpoint-2"):
        path.rename(tmp_path / "gone-too")
    train(recipe_for(micro_batch=4, **common), layout.root, quiet=True)
    parts = tensors(layout, 2)
    assert max((whole[name] - start[name]).abs().max() for name in whole) > 1e-5
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=0)
