"""Completions: top-p cuts the tail, a chat needs a template, and the model's positions bound what follows."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectra.errors import UsageError
from spectra.training.data.carry_addition import problems
from spectra.training.embedded import WEIGHTS
from spectra.training.embedded.tokenizer import build_tokenizer
from spectra.training.sampling.transformers import Completion, ModelGenerator, Sampling, end_tokens, prompt_ids, room

FREE = Sampling(samples=4, temperature=1.0, top_p=1.0, max_new_tokens=8, seed=0)


@pytest.fixture(scope="module")
def base() -> tuple[object, object]:
    return AutoModelForCausalLM.from_pretrained(WEIGHTS), AutoTokenizer.from_pretrained(WEIGHTS)


def generator(base: tuple[object, object], batch_size: int = 64) -> ModelGenerator:
    return ModelGenerator(*base, batch_size=batch_size)  # type: ignore[arg-type]


PROMPTS = [problem.prompt for problem in problems("eval")[:8]]


def test_each_prompt_gets_its_completions_in_order(base: tuple[object, object]) -> None:
    found = generator(base).generate(PROMPTS, FREE)
    assert [len(drawn) for drawn in found] == [4] * 8
    alone = [generator(base).generate([prompt], Sampling(1, 0.0, 1.0, 8, 0))[0] for prompt in PROMPTS]
    together = generator(base, batch_size=3).generate(PROMPTS, Sampling(1, 0.0, 1.0, 8, 0))
    assert together == alone
    assert isinstance(found[0][0], Completion)


def test_a_small_top_p_draws_what_greedy_decoding_takes(base: tuple[object, object]) -> None:
    greedy = generator(base).generate(PROMPTS, Sampling(1, 0.0, 1.0, 8, 0))
    cut = generator(base).generate(PROMPTS, Sampling(4, 1.0, 1e-6, 8, 0))
    assert [set(drawn) for drawn in cut] == [set(drawn) for drawn in greedy]
    assert any(
        set(drawn) != set(best) for drawn, best in zip(generator(base).generate(PROMPTS, FREE), greedy, strict=True)
    )


def test_top_p_keeps_the_tokens_that_hold_the_share(base: tuple[object, object]) -> None:
    model, tokenizer = base
    prompt, hot = PROMPTS[0] + r"\boxed{", 4.0
    ids = tokenizer(prompt)["input_ids"]  # type: ignore[operator]
    with torch.inference_mode():
        shares = (model(torch.tensor([ids])).logits[0, -1].double() / hot).softmax(0)  # type: ignore[operator]
    order = shares.argsort(descending=True)
    kept = set(order[: int((shares[order].cumsum(0) < 0.9).sum()) + 1].tolist())
    cut, free = (
        {tokenizer(row.text)["input_ids"][0] for row in drawn if row.text}  # type: ignore[operator]
        for drawn in (generator(base).generate([prompt], Sampling(300, hot, p, 1, 0))[0] for p in (0.9, 1.0))
    )
    assert 1 < len(cut) <= len(kept)
    assert cut <= kept
    assert not free <= kept


def test_how_many_prompts_fill_a_batch(base: tuple[object, object]) -> None:
    assert generator(base, 64).prompts_at_once(Sampling(32, 1.0, 1.0, 8, 0)) == 2
    assert generator(base, 8).prompts_at_once(Sampling(32, 1.0, 1.0, 8, 0)) == 1


def test_the_positions_of_the_model_bound_the_completion() -> None:
    config = SimpleNamespace(max_position_embeddings=64)
    assert room(config, 60, 100) == 4
    assert room(config, 10, 8) == 8
    assert room(SimpleNamespace(), 10, 8) == 8
    with pytest.raises(UsageError, match="a prompt has 64 tokens, and the model has 64 positions"):
        room(config, 64, 1)


def test_a_chat_needs_a_template() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="the tokenizer has no chat template; use the prompt format `none`"):
        prompt_ids(tokenizer, [{"role": "user", "content": "1+1="}])


def test_every_known_end_counts() -> None:
    tokenizer = SimpleNamespace(eos_token_id=2)
    assert end_tokens([3, 1], tokenizer) == [1, 2, 3]  # type: ignore[arg-type]
    assert end_tokens(None, tokenizer) == [2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((2, 0.0, 1.0, 8, 0), "cannot draw 2 samples at temperature 0"),
        ((0, 1.0, 1.0, 8, 0), "samples must be at least 1, got 0"),
        ((1, -1.0, 1.0, 8, 0), "temperature -1"),
        ((1, 1.0, 0.0, 8, 0), "top-p 0"),
        ((1, 1.0, 1.5, 8, 0), "top-p 1.5"),
        ((1, 1.0, 1.0, 0, 0), "0 tokens"),
    ],
)
def test_what_cannot_be_sampled(settings: tuple[int, float, float, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(*settings)
