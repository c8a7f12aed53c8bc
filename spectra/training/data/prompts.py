r"""Prompt formats: ask for the answer in ``\boxed{}``, where the reward looks for it, and for reasoning before it."""

from dataclasses import replace
from typing import Literal

from spectra.training.data.carry_addition import Message, Problem

PromptFormat = Literal["none", "boxed", "think"]

BOXED = r"Work it out step by step. Write the final answer inside \boxed{} at the end."
THINK = (
    "You solve problems by thinking before you answer. Write all of your reasoning between <think> and </think>. "
    r"After </think>, give a short answer whose result stands inside \boxed{}."
)


def formatted(problem: Problem, style: PromptFormat) -> Problem:
    r"""Return the problem with its prompt in a format.

    ``none`` leaves it as it is. The others make chat messages of it: ``boxed`` asks for the box in the last user
    message, ``think`` in a system message, after the text of an existing one.

    >>> formatted(Problem("1", "1+1=", "2"), "none").prompt
    '1+1='
    >>> [message["role"] for message in formatted(Problem("1", "1+1=", "2"), "think").prompt]
    ['system', 'user']
    """
    if style == "none":
        return problem
    prompt = problem.prompt
    messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return replace(problem, prompt=_asking(messages) if style == "boxed" else _thinking(messages))


def _asking(messages: list[Message]) -> list[Message]:
    last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=len(messages) - 1)
    asked = {**messages[last], "content": f"{messages[last]['content']}\n\n{BOXED}"}
    return [*messages[:last], asked, *messages[last + 1 :]]


def _thinking(messages: list[Message]) -> list[Message]:
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join([*system, THINK])}, *rest]
