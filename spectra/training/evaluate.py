"""Sample from a causal language model, verify every generation, and count: greedy accuracy, Avg@k, Pass@k.

Evaluating leaves no trace: the global random streams, the model's mode and the tokenizer come back as they were.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spectra.errors import UsageError
from spectra.training.embedded.task import Problem
from spectra.training.rewards import boxed_answer_reward

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


# What is not set here, transformers takes from the checkpoint's own generation_config.json.
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
FULL_DISTRIBUTION = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@dataclass(frozen=True)
class Generation:
    """One verified generation.

    Attributes
    ----------
    problem
        ``Problem.id`` of what was asked.
    sample
        Index among the samples of that problem, from 0.
    completion
        Generated text without special tokens.
    correct
        Whether the reward verified the answer.
    tokens
        Generated tokens, the end-of-sequence token included.
    finished
        Whether the model ended by itself; False where ``max_new_tokens`` cut it off.
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
    """Generate ``samples`` completions a problem from the whole distribution (no top-k, no penalty …) and verify each.

    Parameters
    ----------
    model
        Any Hugging Face causal language model, with or without a peft adapter.
    tokenizer
        Its tokenizer. Chat prompts go through its chat template.
    problems
        What to ask.
    samples
        Completions a problem; must be 1 where ``temperature`` is 0.
    temperature
        Sampling temperature; 0 is greedy decoding.
    max_new_tokens
        Longest completion, in tokens.
    seed
        Seeds a random stream of its own. Equal arguments, ``batch_size`` among them, give equal generations.
    batch_size
        Sequences generated at once.

    Returns
    -------
    list of Generation
        ``samples`` rows a problem, in the order of ``problems``.

    Raises
    ------
    UsageError
        If the arguments cannot work together.
    """
    if samples < 1 or (temperature == 0 and samples > 1):
        raise UsageError(
            f"cannot draw {samples} samples at temperature {temperature}",
            cure="ask for one sample, or sample at a temperature above 0",
        )
    ends = _ends(model, tokenizer)
    config = _generation_config(tokenizer, ends, temperature, max_new_tokens)
    rows = [(problem, sample) for problem in problems for sample in range(samples)]
    generations: list[Generation] = []
    with _evaluating(model, seed):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            generations += _verified(batch, _sample(model, tokenizer, batch, config), tokenizer, ends)
    return generations


def _sample(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    batch: Sequence[tuple[Problem, int]],
    config: "GenerationConfig",
) -> list[list[int]]:
    prompts = [_prompt_ids(tokenizer, problem.prompt) for problem, _ in batch]
    longest = max(map(len, prompts))
    padded = [[config.pad_token_id] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
    )
    completions: list[list[int]] = output[:, longest:].tolist()
    return completions


def _prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str | list[dict[str, str]]) -> list[int]:
    # A chat template writes the special tokens itself; a plain prompt gets those that the tokenizer adds.
    plain = isinstance(prompt, str)
    text = prompt if plain else tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=plain)["input_ids"]
    return ids


def _verified(
    batch: Sequence[tuple[Problem, int]],
    completions: list[list[int]],
    tokenizer: "PreTrainedTokenizerBase",
    ends: list[int],
) -> Iterator[Generation]:
    ended = [_ended(tokens, ends) for tokens in completions]
    texts = tokenizer.batch_decode([tokens for tokens, _ in ended], skip_special_tokens=True)
    rewards = boxed_answer_reward(texts, [problem.answer for problem, _ in batch])
    for (problem, sample), (tokens, finished), text, reward in zip(batch, ended, texts, rewards, strict=True):
        yield Generation(problem.id, sample, text, reward == 1.0, len(tokens), finished)


def _ended(tokens: list[int], ends: list[int]) -> tuple[list[int], bool]:
    end = next((index for index, token in enumerate(tokens) if token in ends), None)
    return (tokens, False) if end is None else (tokens[: end + 1], True)


def _ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    # Instruct models end a turn and a text differently, and only their generation config knows both.
    known = model.generation_config.eos_token_id
    several = known if isinstance(known, list) else [known]
    return sorted({end for end in (*several, tokenizer.eos_token_id) if end is not None})


def _generation_config(
    tokenizer: "PreTrainedTokenizerBase", ends: list[int], temperature: float, max_new_tokens: int
) -> "GenerationConfig":
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=next(iter([*ends, 0])) if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **NEUTRAL,
        **({} if temperature == 0 else {"temperature": temperature, **FULL_DISTRIBUTION}),
    )


@contextmanager
def _evaluating(model: "PreTrainedModel", seed: int) -> Iterator[None]:
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(seed)
            yield
    finally:
        model.train(training)


def accuracy(generations: Sequence[Generation]) -> float:
    """Return the share of correct generations in [0, 1]: greedy accuracy or Avg@k, by what was sampled.

    NaN where there are none.
    """
    return sum(row.correct for row in generations) / len(generations) if generations else math.nan


def pass_at_k(generations: Sequence[Generation], k: int) -> float:
    r"""Return Pass@k in [0, 1], the mean over problems of the unbiased estimator of Chen et al. 2021, eq. 1.

    With n samples a problem of which c are correct, :math:`1 - \binom{n-c}{k} / \binom{n}{k}`.

    Raises
    ------
    UsageError
        If a problem has fewer than ``k`` samples.
    """
    counts: dict[str, list[bool]] = {}
    for row in generations:
        counts.setdefault(row.problem, []).append(row.correct)
    fewest = min((len(outcomes) for outcomes in counts.values()), default=0)
    if not 1 <= k <= fewest:
        raise UsageError(f"Pass@{k} of {fewest} samples a problem is undefined", cure="draw at least k samples")
    misses = [math.comb(outcomes.count(False), k) / math.comb(len(outcomes), k) for outcomes in counts.values()]
    return 1.0 - math.fsum(misses) / len(misses)
