"""Train with a reward that a random model earns: called by the tests in a process that they may kill.

Usage: python train_with_reward.py RUN RECIPE.yaml
"""

import sys
from pathlib import Path
from typing import Any


def digits(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Share of a completion's characters that are digits."""
    return [sum(character.isdigit() for character in text) / 4 for text in completions]


if __name__ == "__main__":
    import torch

    from spectra.config import load
    from spectra.training.loop import run, trainer
    from spectra.training.recipe.recipe import Recipe

    torch.set_num_threads(1)
    trainer.boxed_answer_reward = digits
    run.train(load(Recipe, Path(sys.argv[2])), Path(sys.argv[1]))
