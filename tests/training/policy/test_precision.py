"""What trains is kept in float32 also where the base is bfloat16: small steps are not rounded away."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectra.analysis.analyze import Options
from spectra.commands.analyze import analyze
from spectra.commands.doctor import doctor
from spectra.commands.export import export_model
from spectra.runs.layout import ADAPTER_WEIGHTS, RunLayout
from spectra.training.loop.run import train
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_full_weights
from tests.training.evaluated_model import evaluated_model
from tests.training.loop.test_kill_and_resume import results
from tests.training.loop.train_on_fixed_completions import generate
from tests.training.loop.train_with_reward import digits

IDS = torch.arange(5, 25).reshape(2, 10)
STEPS = 10
# bfloat16 rounds the gradients, and Adam divides their size out: measured 0.2 % on the tiny base.
CLOSE = 0.03
KINDS = {
    "float32": {"dtype": "float32"},
    "masters": {"dtype": "bfloat16"},
    "pure": {"dtype": "bfloat16", "trainable_dtype": "bfloat16"},
}


def make(base: Path, kind: str, method: str, **sections: Any) -> Recipe:
    own = {
        "model": {"base": str(base), **KINDS[kind]},
        "method": {"name": method},
        "steps": STEPS,
        "prompts_per_step": 4,
        "algorithm": {"generations": 4, "max_completion_length": 4},
        "optimizer": {"learning_rate": 1e-6},
        "snapshots": {"every": 5},
        "checkpoints": {"every": 5},
        "evaluation": {"every": None},
    }
    return Recipe.model_validate({**own, **sections})


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunLayout]:
    """Ten steps of full fine-tuning a kind, all from the same completions."""
    where = tmp_path_factory.mktemp("precision")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.GRPOTrainer._generate_single_turn", generate)
        patch.setattr("spectra.training.loop.trainer.boxed_answer_reward", digits)
        found = {}
        for kind in KINDS:
            found[kind] = RunLayout(train(make(tiny_base, kind, "full"), where / kind, quiet=True))
    return found


def change(layout: RunLayout, base: Path) -> tuple[float, float]:
    """‖ΔW‖, and the share of weights that changed."""
    before = TensorStore.open_model(base)
    after = open_full_weights(layout.snapshot(STEPS), before)
    pairs = [(after[name], before[name].to(after[name].dtype)) for name in after]
    norm = sum(float(((now.double() - then.double()) ** 2).sum()) for now, then in pairs) ** 0.5
    return norm, sum(int((now != then).sum()) for now, then in pairs) / sum(now.numel() for now, _ in pairs)


def test_small_steps_add_up_as_in_float32(runs: dict[str, RunLayout], tiny_base: Path) -> None:
    norms, shares = zip(*(change(runs[kind], tiny_base) for kind in KINDS), strict=True)
    assert norms[1] == pytest.approx(norms[0], rel=CLOSE)
    assert shares[1] == pytest.approx(shares[0], abs=CLOSE)
    assert shares[0] > 0.8
    # What the recipe key keeps reachable loses most of them.
    assert shares[2] < 0.2


@pytest.mark.usefixtures("one_picture")
def test_the_snapshot_is_the_model_and_every_command_reads_it(
    runs: dict[str, RunLayout], tiny_base: Path, tmp_path: Path
) -> None:
    run = runs["masters"]
    trained = open_full_weights(run.snapshot(STEPS), TensorStore.open_model(tiny_base))
    assert {trained[name].dtype for name in trained} == {torch.float32}
    assert change(run, tiny_base)[0] < 1e-2  # the base was not rounded on the way
    exported = load_file(export_model(run.root, tmp_path / "model") / "model.safetensors")
    with evaluated_model(run.root).directory(torch.float32) as where:
        evaluated = load_file(where / "model.safetensors")
    for name in trained:
        assert torch.equal(exported[name], trained[name])
        assert torch.equal(evaluated[name], trained[name])
    assert doctor(run.root).exit_code == 0
    modules = analyze(run.root, Options(deep="none")).tables["modules"]
    last = modules[modules.step == STEPS].delta_fro
    assert float((last**2).sum() ** 0.5) == pytest.approx(change(run, tiny_base)[0], rel=1e-6)


def test_resumed_from_a_checkpoint_it_ends_with_the_same_bits(
    runs: dict[str, RunLayout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    monkeypatch.setattr("trl.GRPOTrainer._generate_single_turn", generate)
    monkeypatch.setattr("spectra.training.loop.trainer.boxed_answer_reward", digits)
    straight, killed = runs["masters"], RunLayout(tmp_path / "killed")
    shutil.copytree(straight.root, killed.root)
    shutil.rmtree(killed.snapshot(STEPS))
    shutil.rmtree(killed.checkpoints / f"checkpoint-{STEPS}")
    train(make(tiny_base, "masters", "full"), killed.root, quiet=True)
    assert results(killed) == results(straight)


@pytest.mark.parametrize("method", ["full", "layernorm", "shadow", "lora", "ia3"])
def test_what_trains_is_float32_and_what_is_frozen_bfloat16(method: str, tiny_base: Path) -> None:
    model = build_policy(make(tiny_base, "masters", method)).model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} <= {torch.bfloat16}
    assert model.generate(IDS, max_new_tokens=2, min_new_tokens=2).shape == (2, 12)


@pytest.mark.parametrize("method", ["full", "layernorm"])
def test_weights_of_the_base_can_train_in_bfloat16(method: str, tiny_base: Path) -> None:
    model = build_policy(make(tiny_base, "pure", method)).model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.bfloat16}


@pytest.mark.usefixtures("easy_reward")
def test_norms_on_a_bfloat16_base_move_by_small_steps(tiny_base: Path, tmp_path: Path) -> None:
    def moved(kind: str) -> Tensor:
        recipe = make(tiny_base, kind, "layernorm", steps=2, snapshots={"every": 2})
        layout = RunLayout(train(recipe, tmp_path / kind, quiet=True))
        start, end = (load_file(layout.snapshot(step) / ADAPTER_WEIGHTS) for step in (0, 2))
        return torch.cat([end[name] - start[name] for name in start])

    assert (moved("masters") != 0).float().mean() > 0.5
    assert not moved("pure").any()


def test_a_float32_base_starts_unrounded(tiny_base: Path) -> None:
    store = TensorStore.open_model(tiny_base)
    policy = build_policy(make(tiny_base, "masters", "full"))
    assert all(torch.equal(tensor, store[name]) for name, tensor in policy.model.state_dict().items() if name in store)
