"""Two processes learn what one learns from the same completions, sharded or not, and one of them writes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def alone(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunLayout]]:
    """One process's runs, by method."""
    where = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.GRPOTrainer._generate_single_turn", generate)
        patch.setattr("spectra.training.loop.trainer.boxed_answer_reward", digits)
        runs = {name: train(three_steps(tiny_base, name), where / name, quiet=True) for name in ("lora", "full")}
        yield {name: RunLayout(run) for name, run in runs.items()}


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
    """Two processes' runs, by name, and what they said."""
    where = tmp_path_factory.mktemp("several")
    sizes = {"generations": 4, "max_completion_length": 4}
    recipes = {
        "lora": three_steps(tiny_base, "lora"),
        "full": three_steps(tiny_base, "full", micro_batch=4),  # two passes on each process
        "dynamic": three_steps(tiny_base, "lora", algorithm={**sizes, "dynamic_rounds": 2}),
    }
    said = launch({where / name: recipe for name, recipe in recipes.items()}, "ddp_cpu.yaml")
    return {name: RunLayout(where / name) for name in recipes}, said


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
    lora = "starting; lora, 7,424 weights train (35.86 % of the base), 2 processes"
    assert openings == [lora, "starting; full, 20,704 weights train (100.00 % of the base), 2 processes", lora]
    assert several[1].count("step 1/3 reward") == 3


@pytest.mark.slow
def test_two_processes_resumed_equal_two_uninterrupted(
    several: tuple[dict[str, RunLayout], str], tiny_base: Path, tmp_path: Path
) -> None:
    straight, killed = several[0]["lora"], RunLayout(tmp_path / "lora")
    shutil.copytree(straight.root, killed.root)
    shutil.rmtree(killed.snapshot(STEPS))
    # A crash after the main process wrote its part of a checkpoint, and before the other did.
    (killed.checkpoints / f"checkpoint-{STEPS}" / "rng_state_1.pth").unlink()
    assert "going on from step 2" in launch({killed.root: three_steps(tiny_base, "lora")}, "ddp_cpu.yaml")
    assert results(killed) == results(straight)


@pytest.mark.slow
def test_snapshots_under_fsdp_are_whole(alone: dict[str, RunLayout], tiny_base: Path, tmp_path: Path) -> None:
    launch({tmp_path / name: three_steps(tiny_base, name) for name in alone}, "fsdp.yaml", "--as-gpus")
    for name, one in alone.items():
        assert_same_update(one, RunLayout(tmp_path / name))
        assert asked(RunLayout(tmp_path / name)) == asked(one)


def in_bfloat16(base: Path, method: str) -> Recipe:
    return three_steps(base, method, model={"base": str(base), "dtype": "bfloat16"}, evaluation={"every": None})


def update(run: RunLayout) -> dict[str, torch.Tensor]:
    before, after = tensors(run, 0), tensors(run, STEPS)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    return {name: after[name] - before[name] for name in after}


def assert_trained_in_float32(
    where: Path, base: Path, patch: pytest.MonkeyPatch, methods: tuple[str, ...] = ("full", "layernorm")
) -> None:
    """Weights of the base that train in a bfloat16 run end where one process brings them, off the bfloat16 grid."""
    patch.setattr("trl.GRPOTrainer._generate_single_turn", generate)
    patch.setattr("spectra.training.loop.trainer.boxed_answer_reward", digits)
    for method in methods:
        ours = update(RunLayout(train(in_bfloat16(base, method), where / f"{method}-alone", quiet=True)))
        theirs = update(RunLayout(where / method))
        size = sum(float((tensor**2).sum()) for tensor in ours.values()) ** 0.5
        apart = sum(float(((theirs[name] - tensor) ** 2).sum()) for name, tensor in ours.items()) ** 0.5
        assert size > 0.01
        assert apart < HALF_TOLERANCE * size
        after = tensors(RunLayout(where / method), STEPS).values()
        off_the_grid = sum(int((tensor != tensor.bfloat16().float()).sum()) for tensor in after)
        assert off_the_grid > 0.5 * sum(tensor.numel() for tensor in after)


def launch_in_bfloat16(
    base: Path, where: Path, config: str, *options: str, methods: tuple[str, ...] = ("full", "layernorm")
) -> None:
    for method in methods:  # ZeRO-3 would spread the base of a second run while it is loaded
        launch({where / method: in_bfloat16(base, method)}, config, *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options", "method"),
    [
        ("ddp_cpu.yaml", (), "full"),
        ("ddp_cpu.yaml", (), "layernorm"),
        pytest.param(
            "fsdp.yaml",
            ("--as-gpus",),
            "full",
            marks=pytest.mark.xfail(
                strict=True, raises=AssertionError, reason="6.9 % of ‖ΔW‖ from one process; the cause is not known"
            ),
        ),
        ("fsdp.yaml", ("--as-gpus",), "layernorm"),
    ],
)
def test_a_bfloat16_run_trains_float32_weights_under_every_launcher(
    config: str, options: tuple[str, ...], method: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_in_bfloat16(tiny_base, tmp_path, config, *options, methods=(method,))
    assert_trained_in_float32(tmp_path, tiny_base, monkeypatch, (method,))


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
    stage: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_in_bfloat16(tiny_base, tmp_path, f"{stage}.yaml", "--as-gpus")
    assert_trained_in_float32(tmp_path, tiny_base, monkeypatch)
