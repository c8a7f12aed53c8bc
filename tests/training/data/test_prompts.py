"""Prompt formats ask for a box, and for a thought before it."""

import pytest

from spectra.training.data.carry_addition import Problem
from spectra.training.data.prompts import BOXED, THINK, PromptFormat, formatted

TEXT = Problem("1", "1+1=", "2")
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "1+1="}
TURN = {"role": "assistant", "content": "What do you mean?"}


@pytest.mark.parametrize("prompt", ["1+1=", [USER], [SYSTEM, USER]])
def test_none_changes_nothing(prompt: object) -> None:
    problem = Problem("1", prompt, "2")  # type: ignore[arg-type]
    assert formatted(problem, "none") is problem


def test_boxed_asks_the_user_s_last_message() -> None:
    asked = {"role": "user", "content": f"1+1=\n\n{BOXED}"}
    assert formatted(TEXT, "boxed") == Problem("1", [asked], "2")
    chat = Problem("1", [SYSTEM, {"role": "user", "content": "Hello"}, TURN, USER], "2")
    assert formatted(chat, "boxed").prompt == [SYSTEM, {"role": "user", "content": "Hello"}, TURN, asked]


def test_think_puts_a_system_message_first_after_what_it_says_already() -> None:
    assert formatted(TEXT, "think").prompt == [{"role": "system", "content": THINK}, USER]
    joined = {"role": "system", "content": f"Be brief.\n\n{THINK}"}
    assert formatted(Problem("1", [SYSTEM, USER], "2"), "think").prompt == [joined, USER]


@pytest.mark.parametrize(
    ("style", "words"), [("boxed", [r"\boxed{}"]), ("think", ["<think>", "</think>", r"\boxed{}"])]
)
def test_formats_ask_for_what_the_rewards_look_for(style: PromptFormat, words: list[str]) -> None:
    prompt = formatted(TEXT, style).prompt
    assert all(word in str([message["content"] for message in prompt]).replace("\\\\", "\\") for word in words)  # type: ignore[index]
