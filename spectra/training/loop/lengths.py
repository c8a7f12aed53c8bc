"""Check before training that prompts and completions fit into the model."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from spectra.errors import RecipeError
from spectra.training.data.carry_addition import Problem
from spectra.training.data.dataset import prompt_order
from spectra.training.recipe.recipe import Recipe
from spectra.training.sampling.transformers import positions, prompt_ids, room


def check_lengths(
    recipe: Recipe, tokenizer: Any, config: Any, training: Sequence[Problem], heldout: Sequence[Problem]
) -> None:
    """Refuse a run in which a prompt plus completion is longer than the model, or vLLM, allows.

    A model accepts tokens beyond its positions without an error, and its output there is noise. A held-out prompt must
    leave room for one token: an evaluation truncates its completions where the positions end.

    Parameters
    ----------
    recipe
        The recipe.
    tokenizer, config
        Tokenizer and config of the base model.
    training, heldout
        Problems to train and to evaluate on, in their prompt format.

    Raises
    ------
    RecipeError
        If a prompt of the run leaves no room for ``algorithm.max_completion_length`` tokens.
    UsageError
        If a held-out prompt leaves no room, or prompts are chats and the tokenizer has no chat template.
    """
    limits = [("the model's positions", "algorithm.max_completion_length", positions(config))]
    if recipe.rollout.engine == "vllm" and recipe.rollout.mode == "colocate":
        name = "rollout.max_model_length"
        limits.append((name, name, recipe.rollout.max_model_length))
    known = [(name, where, limit) for name, where, limit in limits if limit is not None]
    if not known:
        return
    tokens, problem = _longest(tokenizer, _met(recipe, training))
    wanted = recipe.algorithm.max_completion_length
    for name, where, limit in known:
        if tokens + wanted > limit:
            fault = (
                f"problem {problem.id!r} has {tokens} tokens; with a completion of {wanted} it exceeds {name}, {limit}"
            )
            raise RecipeError(fault, where=where, hint=_hint(where, tokens, wanted, limit))
    if heldout:
        room(config, _longest(tokenizer, heldout)[0], wanted)


def _met(recipe: Recipe, problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems that the run can use: those in its order, or all with dynamic sampling."""
    if recipe.algorithm.dynamic_rounds is not None:
        return list(problems)
    order = prompt_order(len(problems), recipe.steps * recipe.prompts_per_step, recipe.seed)
    return [problems[at] for at in sorted(set(order))]


def _longest(tokenizer: Any, problems: Iterable[Problem]) -> tuple[int, Problem]:
    """Return the length of the longest prompt in tokens, and its problem; repeated prompts are tokenized once."""
    distinct = {json.dumps(problem.prompt): problem for problem in problems}.values()
    lengths = [(len(prompt_ids(tokenizer, problem.prompt)), problem) for problem in distinct]
    return max(lengths, key=lambda pair: pair[0])


def _hint(where: str, tokens: int, wanted: int, limit: int) -> str:
    if where == "rollout.max_model_length":
        return f"set it to {tokens + wanted} or more"
    return f"set it to {limit - tokens} or less" if tokens < limit else "remove problems of this length"
