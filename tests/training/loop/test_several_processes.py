"""Two processes learn what one learns from the same completions, sharded or not, and one of them writes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from spectra.config import dump
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.runs.series import read_metrics
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from tests.requirements import needs
from tests.training.loop.test_kill_and_resume import results
from tests.training.loop.test_run import tensors
from tests.training.loop.train_on_fixed_completions import generate
from tests.training.loop.train_with_reward import digits

ROOT = Path(__file__).parents[3]
LAUNCH = ROOT / "training" / "launch"
SCRIPT = Path(__file__).parent / "train_on_fixed_completions.py"
# Of the largest change of a weight. Measured: up to 6e-6, the rounding of float32 sums in another order.
TOLERANCE = 3e-5
# Of ‖ΔW‖ in bfloat16, whose sums round by the batch. Measured: up to 3.6 %, but for full fine-tuning under FSDP.
HALF_TOLERANCE = 0.05
STEPS = 3


def three_steps(base: Path, method: str, **sections: Any) -> Recipe:
    value = {
        "model": {"base": str(base)},
        "method": {"name": method},
        "steps": STEPS,
        "prompts_per_step": 4,
        "algorithm": {"generations": 4, "max_completion_length": 4},
        # Adam divides by |g| + ε: with the usual ε it would make the rounding of a gradient of zero as large as any.
        "optimizer": {"learning_rate": 1.0, "epsilon": 1.0},
        "snapshots": {"every": 1},
        "checkpoints": {"every": 2},
        "evaluation": {"every": STEPS, "problems": 5, "samples": 2},
    }
    return Recipe.model_validate({**value, **sections})


def launch(recipes: dict[Path, Recipe], config: str, *options: str) -> str:
    """Train with two processes; return what they said."""
    words = [*options]
    for out, recipe in recipes.items():
        file = out.with_suffix(".yaml")
        file.write_text(dump(recipe), encoding="utf-8")
        words += [str(out), str(file)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / config)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [*launcher, "--num_processes", "2", str(SCRIPT), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def alone(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunLayout]:
    """One process's runs, by method."""
    recipes = {method: three_steps(tiny_base, method) for method in ("lora", "full")}
    return train_alone(recipes, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def alone_in_bfloat16(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunLayout]:
    """One process's runs in bfloat16, by method."""
    recipes = {method: in_bfloat16(tiny_base, method) for method in ("full", "layernorm")}
    return train_alone(recipes, tmp_path_factory.mktemp("bfloat16"))


def train_alone(recipes: dict[str, Recipe], where: Path) -> dict[str, RunLayout]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.GRPOTrainer._generate_single_turn", generate)
        patch.setattr("spectra.training.loop.trainer.boxed_answer_reward", digits)
        return {name: RunLayout(train(recipe, where / name, quiet=True)) for name, recipe in recipes.items()}


def assert_same_update(one: RunLayout, several: RunLayout) -> None:
    before, ours, theirs = tensors(one, 0), tensors(one, STEPS), tensors(several, STEPS)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(several, 0).items())
    change = max(float((ours[name] - before[name]).abs().max()) for name in ours)
    assert change > 0.1
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=TOLERANCE * change, rtol=0)


def asked(layout: RunLayout) -> list[tuple[str, int]]:
    """Problem and sample of every generation of the last evaluation, in order."""
    lines = layout.evaluation("carry_addition", STEPS).read_text().splitlines()
    return [(row["problem"], row["sample"]) for row in map(json.loads, lines)]


@pytest.fixture(scope="module")
def several(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, RunLayout], str]:
    """Two processes' runs, by name, and what they said: all from one launch, as its imports cost more than the runs."""
    where = tmp_path_factory.mktemp("several")
    sizes = {"generations": 4, "max_completion_length": 4}
    recipes = {
        "lora": three_steps(tiny_base, "lora"),
        "full": three_steps(tiny_base, "full", micro_batch=4),  # two passes on each process
        "dynamic": three_steps(tiny_base, "lora", algorithm={**sizes, "dynamic_rounds": 2}),
        **bfloat16_recipes(tiny_base),
    }
    said = launch({where / name: recipe for name, recipe in recipes.items()}, "ddp_cpu.yaml")
    return {name: RunLayout(where / name) for name in recipes}, said


@pytest.fixture(scope="module")
def sharded(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunLayout]:
    """Return the runs of two processes under FSDP, by name: all from one launch."""
    where = tmp_path_factory.mktemp("sharded")
    recipes = {name: three_steps(tiny_base, name) for name in ("lora", "full")} | bfloat16_recipes(tiny_base)
    launch({where / name: recipe for name, recipe in recipes.items()}, "fsdp.yaml", "--as-gpus")
    return {name: RunLayout(where / name) for name in recipes}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    alone: dict[str, RunLayout], several: tuple[dict[str, RunLayout], str]
) -> None:
    for name, one in alone.items():
        two = several[0][name]
        assert_same_update(one, two)
        logged = [read_metrics(layout.metrics)[["step", "reward", "grad_norm"]] for layout in (one, two)]
        pd.testing.assert_frame_equal(*logged, rtol=1e-4)
        assert results(two).keys() == results(one).keys()
        assert asked(two) == asked(one)
        assert Manifest.read(two.manifest).hardware["processes"] == 2


@pytest.mark.slow
def test_each_process_fills_its_own_batch_from_prompts_of_its_own(
    several: tuple[dict[str, RunLayout], str],
) -> None:
    run = several[0]["dynamic"]
    rounds = [json.loads(line) for file in drawn_by(run.root) for line in file.read_text().splitlines()]
    logged = read_metrics(run.metrics).set_index("step")
    for step in range(STEPS):
        found = [row for row in rounds if row["step"] == step]
        prompts = [prompt for row in found for prompt in row["prompts"]]
        assert len(set(prompts)) == len(prompts)
        # Each process draws two prompts first, and as many as the other in each further round.
        ours, theirs = ([len(row["prompts"]) for row in found if row["process"] == index] for index in (0, 1))
        assert ours == theirs
        assert ours[0] == 2
        assert logged.loc[step + 1, "dynamic_sampling/rounds"] == len(ours)
    assert logged["dynamic_sampling/rounds"].max() == 2  # something was there to fill


def drawn_by(run: Path) -> list[Path]:
    """What ``fixed.py`` noted of the draws of each process."""
    files = sorted(run.parent.glob(f"{run.name}.drawn.*"))
    assert len(files) == 2
    return files


@pytest.mark.slow
def test_one_process_speaks(several: tuple[dict[str, RunLayout], str]) -> None:
    openings = [line.partition(": ")[2] for line in several[1].splitlines() if "starting" in line]
    lora = "starting; lora, 7,424 trainable weights (35.86 % of the base model), 2 processes"
    full = "starting; full, 20,704 trainable weights (100.00 % of the base model), 2 processes"
    assert openings[:4] == [lora, full, lora, full]
    assert len(openings) == several[1].count("step 1/3 reward") == len(several[0]) == 5


@pytest.mark.slow
def test_two_processes_resumed_equal_two_uninterrupted(
    several: tuple[dict[str, RunLayout], str], tiny_base: Path, tmp_path: Path
) -> None:
    straight, killed = several[0]["lora"], RunLayout(tmp_path / "lora")
    shutil.copytree(straight.root, killed.root)
    shutil.rmtree(killed.snapshot(STEPS))
    # A crash after the main process wrote its part of a checkpoint, and before the other did.
    (killed.checkpoints / f"checkpoint-{STEPS}" / "rng_state_1.pth").unlink()
    assert "resuming from step 2" in launch({killed.root: three_steps(tiny_base, "lora")}, "ddp_cpu.yaml")
    assert results(killed) == results(straight)


@pytest.mark.slow
def test_snapshots_under_fsdp_are_whole(alone: dict[str, RunLayout], sharded: dict[str, RunLayout]) -> None:
    for name, one in alone.items():
        assert_same_update(one, sharded[name])
        assert asked(sharded[name]) == asked(one)


def in_bfloat16(base: Path, method: str) -> Recipe:
    return three_steps(base, method, model={"base": str(base), "dtype": "bfloat16"}, evaluation={"every": None})


def bfloat16_recipes(base: Path) -> dict[str, Recipe]:
    """Return a recipe in bfloat16 for each method that trains weights of the base, by the name of its run."""
    return {f"{method}-bfloat16": in_bfloat16(base, method) for method in ("full", "layernorm")}


def update(run: RunLayout) -> dict[str, torch.Tensor]:
    before, after = tensors(run, 0), tensors(run, STEPS)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    return {name: after[name] - before[name] for name in after}


def assert_trained_in_float32(run: RunLayout, alone: RunLayout) -> None:
    """Weights of the base that train in a bfloat16 run end where one process brings them, off the bfloat16 grid."""
    ours, theirs = update(alone), update(run)
    size = sum(float((tensor**2).sum()) for tensor in ours.values()) ** 0.5
    apart = sum(float(((theirs[name] - tensor) ** 2).sum()) for name, tensor in ours.items()) ** 0.5
    assert size > 0.01
    assert apart < HALF_TOLERANCE * size
    after = tensors(run, STEPS).values()
    off_the_grid = sum(int((tensor != tensor.bfloat16().float()).sum()) for tensor in after)
    assert off_the_grid > 0.5 * sum(tensor.numel() for tensor in after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "method"),
    [
        ("several", "full"),
        ("several", "layernorm"),
        pytest.param(
            "sharded",
            "full",
            marks=pytest.mark.xfail(
                strict=True, raises=AssertionError, reason="6.9 % of ‖ΔW‖ from one process; the cause is not known"
            ),
        ),
        ("sharded", "layernorm"),
    ],
)
def test_a_bfloat16_run_trains_float32_weights_under_every_launcher(
    launcher: str, method: str, alone_in_bfloat16: dict[str, RunLayout], request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(launcher)
    runs: dict[str, RunLayout] = found[0] if launcher == "several" else found
    assert_trained_in_float32(runs[f"{method}-bfloat16"], alone_in_bfloat16[method])


@pytest.mark.slow
@needs("deepspeed")
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_snapshots_under_zero_are_whole(
    stage: str, method: str, alone: dict[str, RunLayout], tiny_base: Path, tmp_path: Path
) -> None:
    launch({tmp_path / method: three_steps(tiny_base, method)}, f"{stage}.yaml", "--as-gpus")
    assert_same_update(alone[method], RunLayout(tmp_path / method))


@pytest.mark.slow
@needs("deepspeed")
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_a_bfloat16_run_trains_float32_masters_under_zero(
    stage: str, alone_in_bfloat16: dict[str, RunLayout], tiny_base: Path, tmp_path: Path
) -> None:
    for method, alone in alone_in_bfloat16.items():  # ZeRO-3 would spread the base of a second run while it is loaded
        launch({tmp_path / method: in_bfloat16(tiny_base, method)}, f"{stage}.yaml", "--as-gpus")
        assert_trained_in_float32(RunLayout(tmp_path / method), alone)
