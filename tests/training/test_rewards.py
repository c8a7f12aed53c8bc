r"""The verifiable reward: right and wrong answers in many notations, hostile ones, chat, threads."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spectra.training.rewards import boxed_answer_reward, is_correct, last_box

RIGHT = [
    ("62", r"\boxed{62}"),
    ("62", r"The sum is $\boxed{62}$."),
    ("62", r"\boxed{ 62 }"),
    ("62", r"\boxed{$62$}"),
    ("62", r"\boxed{062}"),
    ("62", r"\boxed{62.0}"),
    ("62", r"\boxed{+62}"),
    ("62", r"\boxed{\text{62}}"),
    ("62", r"\boxed{62 \text{ cm}}"),
    ("62", r"\boxed{\frac{124}{2}}"),
    ("62", r"\boxed{x = 62}"),
    ("62", r"\boxed{27+35=62}"),
    ("62", r"\boxed{a=b=62}"),
    ("62", r"\boxed{x\in\{62\}}"),
    ("62", r"\boxed{62^\circ}"),
    ("62", r"\boxed{\boxed{62}}"),
    ("-62", r"\boxed{-(62)}"),
    ("0.5", r"\boxed{\frac12}"),
    ("1/2", r"\boxed{0.5}"),
    (r"\frac{1}{2}", r"\boxed{50\%}"),
    ("3.5", r"\boxed{3\frac{1}{2}}"),
    ("1,000", r"\boxed{1000}"),
    ("2000", r"\boxed{2\times10^3}"),
    ("1024", r"\boxed{2^{10}}"),
    (r"2+\sqrt{3}", r"\boxed{\sqrt{3}+2}"),
    (r"\{1,2\}", r"\boxed{2,1}"),
    (r"\{1,2\}", r"\boxed{\{2, 1\}}"),
    ("x^2+2x+1", r"\boxed{(x+1)^2}"),
    (r"\text{Paris}", r"\boxed{Paris}"),
    (r"\boxed{62}", r"\boxed{62}"),
    ("$62$", r"\boxed{62}"),
]
WRONG = [
    ("62", r"\boxed{52}"),
    ("62", r"\boxed{-62}"),
    ("62", r"\boxed{62.01}"),
    ("62", r"\boxed{6 2}"),
    ("62", r"\boxed{620}"),
    ("62", "62"),
    ("62", "the answer is 62"),
    ("62", ""),
    ("62", r"\boxed{}"),
    ("62", r"\boxed{  }"),
    ("62", r"\boxed{62"),
    ("62", r"\boxed{\{62}"),
    ("62", r"\boxed 62"),
    ("62", r"\boxed{x}"),
    ("62", r"\boxed{sixty-two}"),
    ("62", r"\boxed{61, 62}"),
    ("1/2", r"\boxed{\frac13}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    ("x^2+2x+1", r"\boxed{(x+1)^3}"),
]
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
# Each of these keeps sympy or the parser busy for seconds to years when nothing guards them.
HOSTILE = [
    r"9^{9^{9}}",
    r"9^{9999999}",
    r"99999999!",
    r"(99999!)!",
    r"\binom{100000000}{50000000}",
    r"\gcd(10^{99999999},3)",
    r"\det\begin{pmatrix}10^{99999999}&2\\3&4\end{pmatrix}",
    r"\sum_{n=1}^{100000000}\sin(n)",
    r"\prod_{n=1}^{10000000}n",
    r"\int_0^1x^{900}\sin(x^3)dx",
    r"(x+y+z+w)^{300}",
    "(" * 100 + "1" + ")" * 100,
    "{" * 100 + "1" + "}" * 100,
    "x^" * 100 + "2",
    "|" * 200 + "1",
    "1+" * 500 + "1",
    r"\frac{0}{0}",
    r"\frac{",
    "\x00\ud800é",
    r"\begin{matrix}&\\",
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
PIECES += [r"\text", r"\cdot", r"\lim", r"\to", r"\sin", r"\log", r"\begin{matrix}", r"\\", "\x00", "\n", "é"]


@pytest.mark.parametrize(("gold", "completion"), RIGHT)
def test_right_answers_earn_one(gold: str, completion: str) -> None:
    assert boxed_answer_reward([completion], [gold]) == [1.0]


@pytest.mark.parametrize(("gold", "completion"), WRONG)
def test_wrong_answers_earn_nothing(gold: str, completion: str) -> None:
    assert boxed_answer_reward([completion], [gold]) == [0.0]


@pytest.mark.parametrize("content", RESTATED)
def test_a_restated_problem_earns_nothing(content: str) -> None:
    assert boxed_answer_reward([rf"\boxed{{{content}}}"], ["62"]) == [0.0]


def test_a_sum_is_an_answer_where_the_gold_answer_is_one() -> None:
    assert boxed_answer_reward([r"\boxed{1+\sqrt2}"], [r"\sqrt{2}+1"]) == [1.0]


@pytest.mark.parametrize(
    ("completion", "content"),
    [
        (r"\boxed{52} \boxed{62}", "62"),
        (r"\boxed{62}, no: \boxed{52}", "52"),
        (r"\boxed{62} \boxed{6", None),
        (r"\boxed{\frac{1}{2}} rest}", r"\frac{1}{2}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        ("no box }", None),
    ],
)
def test_the_last_box_counts(completion: str, content: str | None) -> None:
    assert last_box(completion) == content
    assert is_correct(completion, "62") == (content == "62")


def test_math_verify_alone_joins_boxes_and_reads_outside_them() -> None:
    from math_verify import parse, verify

    gold = parse(r"\boxed{62}")
    assert not verify(gold, parse(r"\boxed{52} \boxed{62}"))
    assert verify(gold, parse("62"))


def test_a_gold_answer_that_is_no_mathematics_is_compared_as_text() -> None:
    assert boxed_answer_reward([r"\boxed{???}", r"\boxed{??}"], ["???", "???"]) == [1.0, 0.0]


def test_chat_completions_earn_what_their_text_earns() -> None:
    chats = [[{"role": "assistant", "content": rf"\boxed{{{value}}}"}] for value in (62, 52)]
    silent = [[], [{"role": "assistant", "content": None}], [{"role": "assistant"}]]
    assert boxed_answer_reward([*chats, *silent], ["62"] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_dataset_columns_are_taken_and_lengths_must_agree() -> None:
    assert boxed_answer_reward([r"\boxed{62}"], ["62"], prompts=["27+35="], trainer_state=None) == [1.0]
    with pytest.raises(ValueError, match="shorter"):
        boxed_answer_reward([r"\boxed{62}"] * 2, ["62"])


@pytest.mark.timeout(60)
def test_hostile_answers_earn_nothing_and_end_soon_without_a_timeout() -> None:
    completions = [rf"\boxed{{{content}}}" for content in HOSTILE]
    assert _in_thread(completions) == [0.0] * len(HOSTILE)


@pytest.mark.timeout(60)
def test_garbage_never_raises() -> None:
    draw = random.Random(0)
    garbage = [r"\boxed{" + "".join(draw.choices(PIECES, k=draw.randint(1, 30))) + "}" for _ in range(500)]
    assert set(_in_thread(garbage)) <= {0.0, 1.0}


def test_threads_agree_with_the_main_thread() -> None:
    completions = [rf"\boxed{{{value}.0}}" for value in range(40, 80)]
    is_correct.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda completion: boxed_answer_reward([completion], ["62"])[0], completions))
    is_correct.cache_clear()
    assert threaded == boxed_answer_reward(completions, ["62"] * 40)
    assert sum(threaded) == 1.0


def test_equal_completions_are_verified_once() -> None:
    is_correct.cache_clear()
    boxed_answer_reward([r"\boxed{52}", r"\boxed{62}"] * 128, ["62"] * 256)
    assert is_correct.cache_info().misses == 2


def _in_thread(completions: list[str]) -> list[float]:
    rewards: list[float] = []
    thread = threading.Thread(
        target=lambda: rewards.extend(boxed_answer_reward(completions, ["62"] * len(completions)))
    )
    thread.start()
    thread.join()
    return rewards
