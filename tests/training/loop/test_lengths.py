"""Prompts with their completions fit into the model, or the run does not begin."""

from types import SimpleNamespace
from typing import Any

import pytest

from spectra.errors import RecipeError, UsageError
from spectra.training.data.carry_addition import Problem
from spectra.training.loop.lengths import check_lengths
from spectra.training.recipe.recipe import Recipe

PROBLEMS = [Problem("short", "1+1=", "2"), Problem("long", "1+1+1+1+1=", "5")]  # 4 and 10 characters


class Characters:
    """A tokenizer whose tokens are characters."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def apply_chat_template(self, prompt: Any, **options: bool) -> str:
        raise ValueError("no template")


def check(positions: int | None, heldout: list[Problem] | None = None, **sections: Any) -> None:
    value = {"steps": 1, "prompts_per_step": 2, "algorithm": {"max_completion_length": 6}, **sections}
    config = SimpleNamespace() if positions is None else SimpleNamespace(max_position_embeddings=positions)
    check_lengths(Recipe.model_validate(value), Characters(), config, PROBLEMS, heldout or [])


def test_the_longest_prompt_decides() -> None:
    check(16)
    check(None)
    fault = "problem 'long' has 10 tokens; with a completion of 6 it exceeds the model's positions, 15"
    with pytest.raises(RecipeError, match=f"algorithm.max_completion_length: {fault}; set it to 5 or less"):
        check(15)
    with pytest.raises(RecipeError, match="remove problems of this length"):
        check(10)


def test_only_problems_that_the_run_meets_count() -> None:
    def refused(seed: int, **algorithm: Any) -> bool:
        sections = {"max_completion_length": 6, **algorithm}
        try:
            check(15, prompts_per_step=1, seed=seed, algorithm=sections)
        except RecipeError:
            return True
        return False

    assert {refused(seed) for seed in range(20)} == {False, True}
    # Dynamic sampling may draw any of them.
    assert {refused(seed, dynamic_rounds=2) for seed in range(20)} == {True}


def test_a_colocated_sampler_has_its_own_limit() -> None:
    check(100, rollout={"engine": "vllm", "max_model_length": 16})
    check(100, rollout={"engine": "hf", "max_model_length": 15})
    check(100, rollout={"engine": "vllm", "mode": "server", "max_model_length": 15})
    with pytest.raises(RecipeError, match=r"rollout\.max_model_length: .* exceeds .*, 15; set it to 16 or more"):
        check(100, rollout={"engine": "vllm", "max_model_length": 15})


def test_a_held_out_prompt_must_leave_room_for_a_token() -> None:
    check(17, [Problem("held", "1" * 16, "2")])
    with pytest.raises(UsageError, match="a prompt has 17 tokens, and the model has 17 positions"):
        check(17, [Problem("held", "1" * 17, "2")])


def test_chats_without_a_template_are_refused_here() -> None:
    with pytest.raises(UsageError, match="no chat template"):
        check(100, [Problem("chat", [{"role": "user", "content": "1+1="}], "2")])
