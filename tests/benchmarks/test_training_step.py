"""What a step of ``spectra train`` costs beside plain TRL on the same work. Run by `make bench`.

Both train the base that ships with spectra by the demo's recipe: the same prompts, group size, completion length and
adapter, in one process, in turn. spectra writes snapshots and its log, plain TRL saves the adapter at the end. CPU
seconds are those of this process and of the children that ended; reward is right or wrong by the boxed answer.
"""

import resource
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from spectra.training.compat.library_warnings import quiet_libraries
from spectra.training.data.dataset import training_dataset
from spectra.training.loop.run import train
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe

ROUNDS = 3
STEPS = 20


def cpu_seconds(work: Callable[[], object]) -> float:
    def used() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start = used()
    work()
    return used() - start


def boxed(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    return [float(text.strip().endswith(rf"\boxed{{{gold}}}")) for text, gold in zip(completions, answer, strict=True)]


def plain_trl(recipe: Recipe, out: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    policy = build_policy(recipe)
    arguments = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        seed=recipe.seed,
        max_steps=recipe.steps,
        shuffle_dataset=False,
        per_device_train_batch_size=recipe.completions_per_step,
        loss_type=recipe.algorithm.name,
        epsilon=recipe.algorithm.epsilon_low,
        epsilon_high=recipe.algorithm.epsilon_high,
        num_generations=recipe.algorithm.generations,
        temperature=recipe.algorithm.temperature,
        top_k=0,
        max_completion_length=recipe.algorithm.max_completion_length,
        learning_rate=recipe.optimizer.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=recipe.optimizer.max_grad_norm,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = GRPOTrainer(
        model=policy.model,
        reward_funcs=[boxed],
        args=arguments,
        train_dataset=training_dataset(recipe),
        processing_class=policy.tokenizer,
    )
    with quiet_libraries():
        trainer.train()
    trainer.save_model(str(out))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_beside_plain_trl(method: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    section = {"name": method} if method == "full" else {"name": method, "r": 8, "alpha": 16}
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "method": section,
            "algorithm": {"name": "dapo"},
            "optimizer": {"learning_rate": 1e-4},
            "steps": STEPS,
            "prompts_per_step": 32,
            "snapshots": {"every": 5},
            "evaluation": {"every": None},
        }
    )
    cpu_seconds(lambda: train(recipe, tmp_path / "warm", quiet=True))
    pairs = [
        (
            cpu_seconds(lambda: plain_trl(recipe, tmp_path / f"plain{number}")),  # noqa: B023  # called here
            cpu_seconds(lambda: train(recipe, tmp_path / f"spectra{number}", quiet=True)),  # noqa: B023
        )
        for number in range(ROUNDS)
    ]
    ratio = median(ours / plain for plain, ours in pairs)
    plain, ours = (median(column) / STEPS for column in zip(*pairs, strict=True))
    print(f"\n{method}, per step: plain TRL {plain:.2f} CPU-s, spectra with snapshots {ours:.2f}: {ratio:.2f} times")
    assert ratio <= 1.05
