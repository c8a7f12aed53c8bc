"""Losses and advantages of the trainer against their formulas, in float64 and by loops over tokens."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectra.runs.layout import RunLayout
from spectra.training.loop import trainer as trainer_module
from spectra.training.loop.trainer import build_trainer
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.optimization import CLIPS
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
LENGTH = 24  # longest completion; a random model stops before it now and then
OLD_SHIFT = 0.5  # how far the policy that sampled is from the one that learns: enough to clip on both sides


class Batch:
    """One batch of a trainer: its inputs, with an older policy's log-probabilities, and what the trainer computes."""

    def __init__(self, recipe: Recipe, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rewards: list[float] = []

        def reward(completions: list[str], **kwargs: Any) -> list[float]:
            generator = torch.Generator().manual_seed(7)
            drawn = (torch.rand(len(completions), generator=generator) < 0.5).double().tolist()
            rewards[:] = drawn
            return drawn

        monkeypatch.setattr(trainer_module, "boxed_answer_reward", reward)
        policy = build_policy(recipe)
        self.trainer = build_trainer(recipe, policy, RunLayout(where), [])
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        rows = list(self.trainer.train_dataset.select(range(recipe.prompts_per_step)))
        repeated = [dict(row) for row in rows for _ in range(recipe.algorithm.generations)]
        self.inputs = self.trainer._generate_and_score_completions(repeated)
        self.rewards = rewards
        self.mask = self.inputs["completion_mask"].bool()
        new = self._log_probabilities()
        shift = torch.randn(new.shape, generator=torch.Generator().manual_seed(1)) * OLD_SHIFT
        self.inputs["old_per_token_logps"] = (new + shift).detach()
        self.new, self.old = new.double().detach(), self.inputs["old_per_token_logps"].double()

    def _log_probabilities(self) -> Tensor:
        ids = torch.cat([self.inputs["prompt_ids"], self.inputs["completion_ids"]], 1)
        mask = torch.cat([self.inputs["prompt_mask"], self.inputs["completion_mask"]], 1)
        found, *_ = self.trainer._get_per_token_logps_and_entropies(
            self.trainer.model, ids, mask, self.inputs["completion_ids"].shape[1]
        )
        return found

    def loss(self) -> float:
        return float(self.trainer._compute_loss(self.trainer.model, self.inputs).detach())

    def surrogate(self, row: int, token: int, low: float, high: float) -> float:
        ratio = math.exp(float(self.new[row, token] - self.old[row, token]))
        advantage = float(self.inputs["advantages"][row])
        return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)

    def tokens(self, row: int) -> list[int]:
        return [token for token in range(self.mask.shape[1]) if self.mask[row, token]]


@pytest.fixture
def batch_of(recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Batch]:
    def make(**algorithm: Any) -> Batch:
        # A random model hardly ever stops by itself; a hot one does, now and then, so that lengths differ.
        sampling = {"generations": 4, "max_completion_length": LENGTH, "temperature": 3.0}
        return Batch(recipe_for(algorithm={**sampling, **algorithm}), tmp_path / "run", monkeypatch)

    return make


def group_advantages(rewards: list[float], size: int, *, scaled: bool) -> list[float]:
    out = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        mean = sum(group) / size
        sd = math.sqrt(sum((reward - mean) ** 2 for reward in group) / (size - 1))
        out += [(reward - mean) / (sd + 1e-4) if scaled else reward - mean for reward in group]
    return out


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo"])
def test_advantages(name: str, batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(name=name)
    expected = group_advantages(batch.rewards, 4, scaled=name != "dr_grpo")
    assert any(expected)
    assert batch.inputs["advantages"].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_losses(name: str, batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(name=name)
    low, high = CLIPS.get(name, (0.2, 0.2))
    rows = range(len(batch.new))
    values = [[batch.surrogate(row, token, low, high) for token in batch.tokens(row)] for row in rows]
    lengths = {len(tokens) for tokens in values}
    assert len(lengths) > 1, "completions of one length cannot tell the normalisers apart"
    expected = {
        "grpo": sum(sum(tokens) / len(tokens) for tokens in values) / len(values),
        "dapo": sum(map(sum, values)) / sum(map(len, values)),
        "bnpo": sum(map(sum, values)) / sum(map(len, values)),
        "dr_grpo": sum(map(sum, values)) / (len(values) * LENGTH),
    }
    assert batch.loss() == pytest.approx(-expected[name], rel=1e-5)


def test_clip_higher_lets_unlikely_tokens_rise(batch_of: Callable[..., Batch]) -> None:
    wide, narrow = batch_of(name="dapo"), batch_of(name="dapo", epsilon_high=0.2)
    between = [
        1.2 < math.exp(float(wide.new[row, token] - wide.old[row, token])) and float(wide.inputs["advantages"][row]) > 0
        for row in range(len(wide.new))
        for token in wide.tokens(row)
    ]
    assert any(between)
    assert wide.loss() < narrow.loss()


def test_gspo_takes_one_ratio_a_sequence(batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(name="gspo", epsilon_low=0.2, epsilon_high=0.2)
    total = 0.0
    for row in range(len(batch.new)):
        tokens = batch.tokens(row)
        ratio = math.exp(sum(float(batch.new[row, t] - batch.old[row, t]) for t in tokens) / len(tokens))
        advantage = float(batch.inputs["advantages"][row])
        total += min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert batch.loss() == pytest.approx(-total / len(batch.new), rel=1e-5)


@pytest.mark.parametrize("name", ["cispo", "sapo", "luspo", "vespo"])
def test_other_losses_are_reached(name: str, batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(name=name)
    assert batch.trainer.loss_type == name
    assert math.isfinite(batch.loss())


def test_kl_is_that_of_the_base(batch_of: Callable[..., Batch]) -> None:
    """The k3 estimator π₀/π − ln(π₀/π) − 1, weighted by β, per token; zero before the first step."""
    batch = batch_of(name="grpo", beta=0.5)
    batch.inputs["old_per_token_logps"] = None
    without = -sum(float(batch.inputs["advantages"][row]) for row in range(len(batch.new))) / len(batch.new)
    assert batch.loss() == pytest.approx(without, abs=1e-5)  # the reference is the policy itself
    shifted = batch.inputs["ref_per_token_logps"] - 0.3
    batch.inputs["ref_per_token_logps"] = shifted
    k3 = math.exp(-0.3) + 0.3 - 1
    assert batch.loss() == pytest.approx(without + 0.5 * k3, rel=1e-4)


def test_soft_overlong_punishment(batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(name="dapo", overlong_buffer=12)
    lengths = batch.mask.sum(1).tolist()
    assert min(lengths) < LENGTH == max(lengths)
    punished = [
        reward + min(0.0, ((LENGTH - 12) - length) / 12) for reward, length in zip(batch.rewards, lengths, strict=True)
    ]
    expected = group_advantages(punished, 4, scaled=True)
    assert batch.inputs["advantages"].tolist() == pytest.approx(expected, abs=1e-5)
