"""Sample from a causal language model, verify every completion, and compute greedy accuracy, Avg@k and Pass@k.

Evaluation does not change the global random state, the mode of the model or the tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectra.training.data.carry_addition import Problem
from spectra.training.evaluation.pass_at_k import estimate_pass
from spectra.training.rewards.rewards import boxed_answer_reward
from spectra.training.sampling.transformers import Completion, ModelGenerator, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """One verified generation.

    Attributes
    ----------
    problem
        ``Problem.id`` of the problem.
    sample
        Index among the samples of that problem, from 0.
    completion
        Generated text without special tokens.
    correct
        Whether the reward verified the answer.
    tokens
        Generated tokens, the end-of-sequence token included.
    finished
        Whether the completion has an end token; False if ``max_new_tokens`` truncated it.
    """

    problem: str
    sample: int
    completion: str
    correct: bool
    tokens: int
    finished: bool


def generate_and_verify(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 256,
) -> list[Generation]:
    """Generate ``samples`` completions per problem from the full distribution (no top-k, no penalty …) and verify them.

    Parameters
    ----------
    model
        Any Hugging Face causal language model, with or without a peft adapter.
    tokenizer
        Its tokenizer. Chat prompts go through its chat template.
    problems
        Problems to sample completions of.
    samples
        Completions per problem; must be 1 where ``temperature`` is 0.
    temperature
        Sampling temperature; 0 is greedy decoding.
    max_new_tokens
        Maximum length of a completion, in tokens.
    seed
        Seed of a separate random stream. Equal arguments, including ``batch_size``, give equal generations.
    batch_size
        Sequences generated at once.

    Returns
    -------
    list of Generation
        ``samples`` rows per problem, in the order of ``problems``.

    Raises
    ------
    UsageError
        If the sampling settings are invalid.
    """
    sampling = Sampling(samples, float(temperature), 1.0, max_new_tokens, seed)
    generator = ModelGenerator(model, tokenizer, batch_size=batch_size)
    return verified(problems, generator.generate([problem.prompt for problem in problems], sampling))


def verified(problems: Sequence[Problem], completions: Sequence[Sequence[Completion]]) -> list[Generation]:
    """Verify the completions of each problem."""
    rows = [
        (problem, sample, completion)
        for problem, drawn in zip(problems, completions, strict=True)
        for sample, completion in enumerate(drawn)
    ]
    rewards = boxed_answer_reward([row.text for *_, row in rows], [problem.answer for problem, *_ in rows])
    return [
        Generation(problem.id, sample, row.text, reward == 1.0, row.tokens, row.finished)
        for (problem, sample, row), reward in zip(rows, rewards, strict=True)
    ]


def accuracy(generations: Sequence[Generation]) -> float:
    """Return the fraction of correct generations in [0, 1]: greedy accuracy or Avg@k, depending on the sampling.

    NaN if there are none.
    """
    return sum(row.correct for row in generations) / len(generations) if generations else math.nan


def pass_at_k(generations: Sequence[Generation], k: int) -> float:
    """Return Pass@k in [0, 1]; raises as :func:`spectra.training.evaluation.pass_at_k.estimate_pass`."""
    counts: dict[str, list[bool]] = {}
    for row in generations:
        counts.setdefault(row.problem, []).append(row.correct)
    return estimate_pass(counts, k).value
