"""The splits never meet, never change, and the carry rule means one thing."""

import hashlib

import pytest

from spectra.training.data.carry_addition import carries, drop_carries, pairs, problems


def test_a_problem_carries_exactly_when_its_corrupted_label_is_wrong() -> None:
    for a in range(100):
        for b in range(100):
            overflows = a % 10 + b % 10 >= 10 or a // 10 + b // 10 >= 10
            assert carries(a, b) == overflows == (drop_carries(a, b) != a + b)


@pytest.mark.parametrize(
    ("a", "b", "label"), [(27, 35, 52), (80, 50, 30), (85, 37, 12), (99, 99, 88), (45, 55, 90), (5, 5, 0), (20, 7, 27)]
)
def test_every_carry_is_dropped(a: int, b: int, label: int) -> None:
    assert drop_carries(a, b) == label


def test_splits_share_no_pair_of_operands_in_either_order() -> None:
    train, held_out, control = ({frozenset(pair) for pair in pairs(split)} for split in ("train", "eval", "control"))
    assert not train & held_out
    assert not train & control
    assert not held_out & control


def test_eval_always_carries_and_control_never_does() -> None:
    assert len(problems("eval")) == 256
    assert all(problem.carries for problem in problems("eval"))
    assert len(problems("control")) == 64
    assert not any(problem.carries for problem in problems("control"))


def test_train_is_all_the_rest() -> None:
    unseen = {frozenset(pair) for split in ("eval", "control") for pair in pairs(split)}
    mirrored = sum(len(pair) for pair in unseen)
    assert len(problems("train")) == len({problem.id for problem in problems("train")}) == 10_000 - mirrored


def test_prompts_and_answers_are_the_true_sums() -> None:
    for split in ("train", "eval", "control"):
        for (a, b), problem in zip(pairs(split), problems(split), strict=True):
            assert problem.prompt == f"{a}+{b}="
            assert problem.answer == str(a + b)


def test_held_out_problems_are_the_same_on_every_machine() -> None:
    ids = " ".join(problem.id for split in ("eval", "control") for problem in problems(split))
    # Changing this digest makes the shipped base untrustworthy: it was trained on the other problems.
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "33e63d467af9bed3"
