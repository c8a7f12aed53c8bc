"""Dynamic sampling: only groups with a gradient, bounded, counted, and the same ones after a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics
from spectra.training.data.dataset import prompt_order
from spectra.training.loop import trainer as trainer_module
from spectra.training.loop.dynamic_sampling import DynamicSampling, further_prompts, informative
from spectra.training.loop.run import train
from spectra.training.loop.trainer import build_trainer
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
SIZE = 4


def test_a_group_is_informative_where_it_is_neither_all_right_nor_all_wrong() -> None:
    right_or_wrong = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0.0])
    length = torch.arange(12.0)  # differs everywhere, and says nothing about right or wrong
    assert informative(torch.stack([right_or_wrong, length], 1), SIZE) == [False, False, True]


def test_the_order_of_further_prompts_depends_on_seed_and_step_alone() -> None:
    texts = [str(number) for number in range(100)]
    order = further_prompts(texts, range(8), 0, 3)
    assert order == further_prompts(texts, range(8), 0, 3)
    assert sorted(order) == list(range(8, 100))
    assert further_prompts(texts, range(8), 1, 3) != order != further_prompts(texts, range(8), 0, 4)


def test_a_prompt_that_stands_twice_in_the_data_comes_once() -> None:
    assert sorted("abcab"[at] for at in further_prompts("abcab", [0], 0, 0)) == ["b", "c"]


def by_prompt(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right or wrong by turns where the gold answer is even, all wrong where it is odd."""
    return [float(int(gold) % 2 == 0 and number % 2 == 0) for number, gold in enumerate(answer)]


def make(recipe_for: Maker, rounds: int | None, **sections: Any) -> Recipe:
    algorithm = {"generations": SIZE, "max_completion_length": 4, "dynamic_rounds": rounds}
    return recipe_for(algorithm=algorithm, prompts_per_step=6, **sections)


def groups(recipe: Recipe, where: Path) -> tuple[list[list[float]], Any]:
    trainer = build_trainer(recipe, build_policy(recipe), RunLayout(where), [])
    trainer.model.train()
    rows = [dict(row) for row in trainer.train_dataset.select(range(6)) for _ in range(SIZE)]
    batch = trainer._generate_and_score_completions(rows)
    return batch["advantages"].view(-1, SIZE).tolist(), trainer._metrics["train"]


def test_the_batch_is_filled_with_groups_that_give_a_gradient(
    recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "boxed_answer_reward", by_prompt)
    once, _ = groups(make(recipe_for, None), tmp_path / "once")
    filled, metrics = groups(make(recipe_for, 16), tmp_path / "filled")
    silent = sum(not any(group) for group in once)
    assert 0 < silent < 6
    assert len(filled) == 6
    assert all(any(group) for group in filled)
    assert filled[: 6 - silent] == [group for group in once if any(group)]  # the first draw is the same
    assert metrics["frac_reward_zero_std"] == [0.0]
    assert metrics["dynamic_sampling/unfilled_share"] == [0.0]
    assert 1 < metrics["dynamic_sampling/rounds"][0] <= 16
    assert metrics["reward"] == [pytest.approx((6 - silent) / 6 / 2)]  # of the prompts as they came
    assert metrics["dynamic_sampling/reward_kept"] == [0.5]


def test_the_rounds_are_bounded(recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def never(completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(len(completions))
        return [0.0] * len(completions)

    monkeypatch.setattr(trainer_module, "boxed_answer_reward", never)
    advantages, metrics = groups(make(recipe_for, 3), tmp_path / "run")
    assert calls == [24, 24, 24]
    assert not any(map(any, advantages))
    assert metrics["dynamic_sampling/rounds"] == [3.0]
    assert metrics["dynamic_sampling/zero_advantage_share"] == [1.0]
    assert metrics["dynamic_sampling/unfilled_share"] == [1.0]


def test_a_run_logs_it_and_repeats_itself(recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "boxed_answer_reward", by_prompt)
    recipe = make(recipe_for, 8)
    first, second = (RunLayout(train(recipe, tmp_path / name, quiet=True)) for name in ("first", "second"))
    logged = read_metrics(first.metrics).set_index("step")
    assert logged.loc[1:, "dynamic_sampling/rounds"].max() > 1
    assert (logged.loc[1:, "zero_advantage_share"] == 0).all()
    files = [layout.snapshot(2) / "adapter_model.safetensors" for layout in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_no_prompt_comes_twice_in_a_step(recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def never(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        asked.extend(prompts[::SIZE])
        return [0.0] * len(completions)

    monkeypatch.setattr(trainer_module, "boxed_answer_reward", never)
    data = [f"{number} + 1 =" for number in range(20)]
    source = write_problems(tmp_path / "problems.jsonl", data)
    recipe = make(recipe_for, 16, task={"name": "sums", "data": str(source)}, evaluation={"every": None})
    _, metrics = groups(recipe, tmp_path / "run")
    # 6 of 20 are the step's own; 6 and 6 more come next, and 2 at last.
    assert sorted(asked) == sorted(data)
    assert metrics["dynamic_sampling/rounds"] == [4.0]
    assert metrics["dynamic_sampling/unfilled_share"] == [1.0]


def write_problems(path: Path, prompts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "2"}) + "\n" for prompt in prompts))
    return path


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_get_shares_that_do_not_meet(count: int) -> None:
    drawn: list[list[str]] = []
    for index in range(count):
        sampler = DynamicSampling()
        sampler.problems = [{"prompt": str(number)} for number in range(30)]
        sampler.sampling_seed, sampler.step_prompts = 5, 6
        sampler.accelerator = SimpleNamespace(num_processes=count, process_index=index)
        sampler.state = SimpleNamespace(global_step=2)
        waiting = sampler._waiting()
        drawn.append([row["prompt"] for share in (4, 2, 2) for row in sampler._further(waiting, share, 1)])
    everything = [prompt for own in drawn for prompt in own]
    assert [len(own) for own in drawn] == [8] * count
    assert len(set(everything)) == 8 * count
    step = {str(at) for at in prompt_order(30, 18, 5)[12:]}
    assert not step & set(everything)
