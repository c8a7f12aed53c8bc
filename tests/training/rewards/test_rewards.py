r"""The verifiable rewards: a table of answers in many notations, garbage, chat, threads, and the format."""

import csv
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spectra.training.loop import trainer
from spectra.training.recipe.recipe import Recipe
from spectra.training.rewards import rewards, sandbox
from spectra.training.rewards.rewards import boxed_answer_reward, format_reward, is_correct, is_formatted, last_box

PAIRS = Path(__file__).with_name("answer_pairs.tsv")
# Rows of the table that math-verify judges otherwise; a release of it that judges better lowers the number.
KNOWN = 15

# A problem restated is not solved, however its pieces are wrapped.
RESTATED = [
    r"27+35",
    r"(27+35)",
    r"x=27+35",
    r"62=27+35",
    r"x=y=27+35",
    r"\frac{27+35}{1}",
    r"\{27+35\}",
    r"31\cdot2",
    r"31*2",
    r"100-38",
]
PIECES = [
    *r"{}()[]019^_=<|!,;%$&x.-+ ",
    r"\frac",
    r"\sqrt",
    r"\sum",
    r"\int",
    r"\boxed{",
    r"\left",
    r"\right",
    r"\infty",
]
PIECES += [r"\text", r"\cdot", r"\lim", r"\to", r"\sin", r"\log", r"\begin{matrix}", r"\\", "\x00", "\n", "é", "√", "°"]


def pairs() -> list[tuple[str, str, str, str]]:
    lines = [line for line in PAIRS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row["gold"], row["answer"], row["verdict"], row["note"]) for row in rows]


def completion(answer: str) -> str:
    return answer if r"\boxed" in answer or "</think>" in answer else rf"\boxed{{{answer}}}"


def test_answers_in_many_notations_are_judged_as_the_table_says() -> None:
    rows = pairs()
    assert len({row[:2] for row in rows}) == len(rows) >= 200
    assert {row[2] for row in rows} == {"right", "wrong"}
    judged = boxed_answer_reward([completion(answer) for _, answer, _, _ in rows], [row[0] for row in rows])
    otherwise = [row for row, earned in zip(rows, judged, strict=True) if earned != float(row[2] == "right")]
    assert otherwise == [row for row in rows if row[3].startswith("known: ")]
    assert len(otherwise) == KNOWN


@pytest.mark.parametrize("content", RESTATED)
def test_a_restated_problem_earns_nothing(content: str) -> None:
    assert boxed_answer_reward([rf"\boxed{{{content}}}"], ["62"]) == [0.0]


def test_a_sum_is_an_answer_where_the_gold_answer_is_one() -> None:
    assert boxed_answer_reward([r"\boxed{1+\sqrt2}"], [r"\sqrt{2}+1"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{52} \boxed{62}", "62"),
        (r"\boxed{62}, no: \boxed{52}", "52"),
        (r"\boxed{62} \boxed{6", None),
        (r"\boxed{\frac{1}{2}} rest}", r"\frac{1}{2}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        ("no box }", None),
    ],
)
def test_the_last_box_counts(text: str, content: str | None) -> None:
    assert last_box(text) == content
    assert is_correct(text, "62") == (content == "62")


def test_math_verify_alone_joins_boxes_and_reads_outside_them() -> None:
    from math_verify import parse, verify

    gold = parse(r"\boxed{62}")
    assert not verify(gold, parse(r"\boxed{52} \boxed{62}"))
    assert verify(gold, parse("62"))


def test_chat_completions_earn_what_their_text_earns() -> None:
    chats = [[{"role": "assistant", "content": rf"\boxed{{{value}}}"}] for value in (62, 52)]
    silent = [[], [{"role": "assistant", "content": None}], [{"role": "assistant"}]]
    assert boxed_answer_reward([*chats, *silent], ["62"] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_dataset_columns_are_taken_and_lengths_must_agree() -> None:
    assert boxed_answer_reward([r"\boxed{62}"], ["62"], prompts=["27+35="], trainer_state=None) == [1.0]
    with pytest.raises(ValueError, match="shorter"):
        boxed_answer_reward([r"\boxed{62}"] * 2, ["62"])


@pytest.mark.timeout(120)
def test_garbage_never_raises() -> None:
    draw = random.Random(0)
    garbage = [r"\boxed{" + "".join(draw.choices(PIECES, k=draw.randint(1, 30))) + "}" for _ in range(500)]
    assert set(boxed_answer_reward(garbage, ["62"] * 500)) <= {0.0, 1.0}


def test_threads_agree_with_the_main_thread() -> None:
    completions = [rf"\boxed{{{value}.0}}" for value in range(40, 80)]
    rewards._checked.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda text: boxed_answer_reward([text], ["62"])[0], completions))
    rewards._checked.cache_clear()
    assert threaded == boxed_answer_reward(completions, ["62"] * 40)
    assert sum(threaded) == 1.0


def test_equal_answers_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[sandbox.Question] = []
    check: Callable[[str, sandbox.Question], bool] = sandbox.check
    monkeypatch.setattr(rewards, "check", lambda kind, question: asked.append(question) or check(kind, question))
    rewards._checked.cache_clear()
    texts = [rf"{'so ' * number} \boxed{{{answer}}}" for number in range(128) for answer in ("52.0", "62.0")]
    assert boxed_answer_reward(texts, ["62"] * 256) == [0.0, 1.0] * 128
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        (r"<think>27+35 is 62</think> \boxed{62}", True),
        (r"27+35 is 62</think> It is $\boxed{62}$.", True),
        (r"<think>\boxed{52}</think>\boxed{62}", True),
        (r"</think>\boxed{52}</think>\boxed{62}", False),
        (r"<think>\boxed{62}</think> 62", False),
        (r"\boxed{62}", False),
        (r"</think> \boxed{62", False),
        (r"</think> \boxed{ }", False),
        ("", False),
    ],
)
def test_the_format_is_one_ended_thought_and_a_box_after_it(text: str, formatted: bool) -> None:
    assert is_formatted(text) is formatted
    reward = format_reward(0.25)
    assert reward([text], answer=["62"]) == [0.25 * formatted]
    assert reward([[{"role": "assistant", "content": text}]]) == [0.25 * formatted]
    assert reward.__name__ == "format_reward"


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({}, ["boxed_answer_reward"]),
        ({"task": {"format_weight": 0.5}}, ["boxed_answer_reward", "format_reward"]),
        (
            {"task": {"format_weight": 0.5}, "algorithm": {"max_completion_length": 8, "overlong_buffer": 2}},
            ["boxed_answer_reward", "format_reward", "soft_overlong_punishment_reward"],
        ),
    ],
)
def test_right_or_wrong_comes_first_among_the_rewards(sections: dict[str, object], names: list[str]) -> None:
    functions = trainer._rewards(Recipe.model_validate(sections))
    assert [function.__name__ for function in functions] == names


def test_a_recipe_s_format_weight_is_what_the_format_earns() -> None:
    _, reward = trainer._rewards(Recipe.model_validate({"task": {"format_weight": 0.125}}))
    assert reward(completions=[r"</think>\boxed{1}", "1"], prompts=["", ""], completion_ids=[[], []]) == [0.125, 0.0]


INTEGERS = ["0", "-0", "00", "62", "062", "-62", "0062", "63", "1" + "0" * 30, "1" + "0" * 29 + "1", "9" * 200]


def test_integers_are_compared_as_math_verify_compares_them_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(content, gold) for content in INTEGERS for gold in INTEGERS]
    expected = [
        content == gold or sandbox.check("maths", {"gold": gold, "content": content}) for content, gold in pairs
    ]
    monkeypatch.setattr(rewards, "check", lambda *question: pytest.fail("a process was asked"))
    assert [is_correct(rf"\boxed{{{content}}}", gold) for content, gold in pairs] == expected
    assert 0 < sum(expected) < len(pairs)
