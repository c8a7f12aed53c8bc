"""Train with completions that are a fixed function of prompt and index: launched by the tests in several processes.

Each process notes what dynamic sampling draws, one line a round, in ``RUN.drawn.<process>``.

Usage: python train_on_fixed_completions.py [--as-gpus] RUN RECIPE.yaml [RUN RECIPE.yaml ...]
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from tests.training.distributed.cpu_as_gpu import pretend
from tests.training.loop.train_with_reward import digits


def generate(
    trainer: Any, prompts: list[list[int]], images: Any, fields: Any, generations: int, has_tool_images: bool = False
) -> tuple[list[list[int]], None]:
    """Stand in for the trainer's own sampling; the completions of a prompt are neighbours."""
    end = trainer.processing_class.eos_token_id
    return [complete(ids, at % generations, end) for at, ids in enumerate(prompts)], None


def complete(prompt: list[int], index: int, end: int) -> list[int]:
    generator = random.Random(f"{prompt}/{index}")
    return [generator.randrange(3, 60) for _ in range(generator.randint(1, 3))] + [end]


def noting(draw: Any, out: Path) -> Any:
    """Return dynamic sampling's draw, which now writes down its prompts."""

    def noted(trainer: Any, rows: list[dict[str, Any]]) -> Any:
        index, size = trainer.accelerator.process_index, trainer.num_generations
        line = {"process": index, "step": trainer.state.global_step, "prompts": [r["prompt"] for r in rows[::size]]}
        with out.with_name(f"{out.name}.drawn.{index}").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return draw(trainer, rows)

    return noted


if __name__ == "__main__":
    import torch
    from trl import GRPOTrainer

    from spectra.config import load
    from spectra.training.loop import run, trainer
    from spectra.training.loop.dynamic_sampling import DynamicSampling
    from spectra.training.recipe.recipe import Recipe

    torch.set_num_threads(1)
    words = sys.argv[1:]
    if words[0] == "--as-gpus":
        pretend()
        words.pop(0)
    trainer.boxed_answer_reward = digits
    GRPOTrainer._generate_single_turn = generate
    draw = DynamicSampling.draw
    for out, recipe in zip(words[::2], words[1::2], strict=True):
        DynamicSampling.draw = noting(draw, Path(out))  # type: ignore[method-assign]
        run.train(load(Recipe, Path(recipe)), Path(out))
    # Threads of gloo can abort a process while it exits, after all its runs; what is tested is the runs.
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
