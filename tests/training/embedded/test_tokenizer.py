"""One character a token, one token a box, and the same tokens by every route."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectra.training.data.carry_addition import problems
from spectra.training.embedded import WEIGHTS
from spectra.training.embedded.tokenizer import BOX, VOCABULARY, build_tokenizer


@pytest.fixture(params=["built", "reloaded", "shipped"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedTokenizerBase:
    if request.param == "shipped":
        return AutoTokenizer.from_pretrained(WEIGHTS)
    built = build_tokenizer()
    if request.param == "built":
        return built
    built.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(tmp_path)


def test_vocabulary_is_81_distinct_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) == len(set(VOCABULARY)) == 81
    assert tokenizer.convert_tokens_to_ids(list(VOCABULARY)) == list(range(81))


def test_every_other_text_comes_back(tokenizer: PreTrainedTokenizerBase) -> None:
    for text in ["27+35=", r"\boxed{62}", "So a*b = (x-y)/2?\n No: 3^2, 1.5.", " two  spaces ", r"}\boxed{\boxed{1}}"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_box_is_one_token_and_an_answer_five(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize(r"\boxed{62}<eos>") == [BOX, "6", "2", "}", "<eos>"]


def test_unknown_characters_are_unknown(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("é\\{")["input_ids"] == [tokenizer.unk_token_id] * 3


def test_padding_is_neither_the_end_nor_on_the_right(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    batch = tokenizer(["1+2=", "27+35="], padding=True)
    assert batch["input_ids"][0][:2] == [tokenizer.pad_token_id] * 2
    assert batch["attention_mask"] == [[0, 0, 1, 1, 1, 1], [1] * 6]


def test_a_chat_message_renders_to_the_plain_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    for problem in problems("control"):
        messages = [{"role": "user", "content": problem.prompt}]
        assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == problem.prompt
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert rendered["input_ids"] == tokenizer(problem.prompt)["input_ids"]


def test_an_assistant_message_ends_as_the_training_text_does(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "user", "content": "27+35="}, {"role": "assistant", "content": r"\boxed{62}"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == r"27+35=\boxed{62}<eos>"
