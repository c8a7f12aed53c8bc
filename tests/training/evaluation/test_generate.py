"""Sampling is seeded, leaves no trace, and is counted without bias."""

import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from spectra.errors import UsageError
from spectra.training.data.carry_addition import Problem, problems
from spectra.training.embedded import WEIGHTS
from spectra.training.embedded.tokenizer import build_tokenizer
from spectra.training.evaluation.generate import Generation, accuracy, generate_and_verify, pass_at_k


@pytest.fixture(scope="module")
def base() -> tuple[LlamaForCausalLM, object]:
    return AutoModelForCausalLM.from_pretrained(WEIGHTS), AutoTokenizer.from_pretrained(WEIGHTS)


def sample(base, chosen=None, **changes) -> list[Generation]:
    arguments = {"samples": 2, "temperature": 1.0, "max_new_tokens": 8, "seed": 0, **changes}
    return generate_and_verify(*base, problems("eval")[:20] if chosen is None else chosen, **arguments)


def test_rows_are_problems_times_samples_in_order(base) -> None:
    rows = sample(base, samples=3)
    assert [(row.problem, row.sample) for row in rows] == list(
        itertools.product([problem.id for problem in problems("eval")[:20]], range(3))
    )


def test_rows_agree_with_their_own_text(base) -> None:
    answers = {problem.id: problem.answer for problem in problems("eval")}
    rows = sample(base, samples=8)
    assert any(row.correct for row in rows)
    for row in rows:
        assert row.correct == (row.finished and row.completion == rf"\boxed{{{answers[row.problem]}}}")
        assert row.tokens == len(base[1](row.completion)["input_ids"]) + row.finished


def test_a_cut_off_completion_is_not_finished(base) -> None:
    rows = sample(base, max_new_tokens=2)
    assert {(row.tokens, row.finished, row.correct) for row in rows} == {(2, False, False)}


def test_equal_seeds_agree_and_others_do_not(base) -> None:
    assert sample(base) == sample(base)
    assert sample(base) != sample(base, seed=1)


def test_evaluating_leaves_no_trace(base) -> None:
    model, tokenizer = base
    model.train()
    torch.manual_seed(7)
    state, config, side = torch.get_rng_state(), model.generation_config.to_dict(), tokenizer.padding_side
    sample(base)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.generation_config.to_dict() == config
    assert tokenizer.padding_side == side
    model.eval()


def test_greedy_does_not_depend_on_batches_or_on_the_seed(base) -> None:
    one_by_one = sample(base, samples=1, temperature=0.0, batch_size=1)
    assert sample(base, samples=1, temperature=0.0, seed=5) == one_by_one


def test_a_low_temperature_approaches_greedy(base) -> None:
    greedy = sample(base, samples=1, temperature=0.0)
    assert [row.completion for row in sample(base, samples=1, temperature=1e-4)] == [row.completion for row in greedy]


def test_the_checkpoints_own_sampling_settings_do_not_count(base) -> None:
    model, tokenizer = base
    expected, before = sample(base), model.generation_config
    greedy = sample(base, samples=1, temperature=0.0)
    model.generation_config = GenerationConfig(
        top_k=1, top_p=0.1, min_p=0.5, repetition_penalty=5.0, temperature=0.1, do_sample=True, eos_token_id=1
    )
    try:
        assert sample(base) == expected
        assert sample(base, samples=1, temperature=0.0) == greedy
    finally:
        model.generation_config = before


def test_every_end_that_the_checkpoint_knows_ends_a_completion(base) -> None:
    model, tokenizer = base
    before = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=[1, tokenizer.convert_tokens_to_ids("}")])
    try:
        rows = sample(base)
    finally:
        model.generation_config = before
    assert all(row.finished and row.tokens == len(tokenizer(row.completion)["input_ids"]) for row in rows)


def test_chat_prompts_are_rendered(base) -> None:
    plain = problems("eval")[:5]
    chat = [Problem(p.id, [{"role": "user", "content": str(p.prompt)}], p.answer) for p in plain]
    assert sample(base, chat) == sample(base, plain)


def test_any_causal_model_is_evaluated() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=81, **sizes))
    rows = sample((model, tokenizer), [Problem("a", "1+1=", "2"), Problem("b", "say 1/2: ", r"\frac12")])
    assert [row.problem for row in rows] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("samples", "temperature", "fault"),
    [(2, 0.0, "cannot draw 2 samples"), (0, 1.0, "samples must be at least 1, got 0")],
)
def test_samples_that_cannot_be_drawn_are_refused(base, samples: int, temperature: float, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        sample(base, samples=samples, temperature=temperature)


def rows_of(**outcomes: str) -> list[Generation]:
    return [
        Generation(problem, index, "", mark == "1", 1, True)
        for problem, marks in outcomes.items()
        for index, mark in enumerate(marks)
    ]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    outcomes = {"a": "0100", "b": "0000", "c": "0111", "d": "1111"}
    subsets = [
        any(mark == "1" for mark in pick) for marks in outcomes.values() for pick in itertools.combinations(marks, k)
    ]
    assert pass_at_k(rows_of(**outcomes), k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-15)


def test_pass_at_one_is_accuracy() -> None:
    rows = rows_of(a="0100", b="1110")
    assert pass_at_k(rows, 1) == accuracy(rows) == 0.5


def test_pass_at_more_than_was_drawn_is_refused() -> None:
    with pytest.raises(UsageError, match="Pass@3 of 2 samples"):
        pass_at_k(rows_of(a="010", b="01"), 3)
    with pytest.raises(UsageError, match="Pass@1 of 0 samples"):
        pass_at_k([], 1)
    assert math.isnan(accuracy([]))
