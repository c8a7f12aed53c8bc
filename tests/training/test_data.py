"""Problems from files, and an order of prompts that a resumed run repeats."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra.errors import CorruptFileError, RecipeError
from spectra.training.data import heldout_problems, pinned, prompt_order, training_dataset, training_problems
from spectra.training.embedded.task import Problem, problems
from spectra.training.recipe import Recipe

ROWS = [{"question": "1+1=", "gold": 2}, {"question": "2+2=", "gold": "4"}]


def recipe(path: Path, **task: Any) -> Recipe:
    section = {"name": "mine", "data": str(path), "heldout": str(path), "prompt": "question", "answer": "gold", **task}
    return Recipe.model_validate({"task": section, "evaluation": {"problems": 1}})


def jsonl(tmp_path: Path, rows: list[Any] = ROWS) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@given(available=st.integers(1, 40), wanted=st.integers(0, 200), seed=st.integers(0, 2**32 - 1))
def test_prompts_come_in_shuffled_passes(available: int, wanted: int, seed: int) -> None:
    order = prompt_order(available, wanted, seed)
    assert len(order) == wanted
    for start in range(0, wanted, available):
        part = order[start : start + available]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(available))


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_longer_run_begins_as_a_shorter_one(shorter: int, more: int) -> None:
    assert prompt_order(30, shorter + more, seed=3)[:shorter] == prompt_order(30, shorter, seed=3)


def test_the_seed_decides_the_order() -> None:
    assert prompt_order(100, 100, seed=0) != prompt_order(100, 100, seed=1)


def test_the_built_in_task_trains_and_holds_out_different_problems() -> None:
    default = Recipe.model_validate({"evaluation": {"problems": 100}})
    held_out = heldout_problems(default)
    assert held_out == problems("eval")[:100]
    assert not {p.id for p in held_out} & {p.id for p in training_problems(default.task)}


def test_no_evaluation_needs_no_problems() -> None:
    assert heldout_problems(Recipe.model_validate({"evaluation": {"every": None}})) == []


def test_more_problems_than_there_are() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.problems: 9999 problems, and carry_addition has 256"):
        heldout_problems(Recipe.model_validate({"evaluation": {"problems": 9999}}))


def test_a_row_of_the_dataset_is_one_prompt_of_one_step() -> None:
    dataset = training_dataset(Recipe.model_validate({"steps": 3, "prompts_per_step": 5}))
    assert dataset.num_rows == 15
    assert set(dataset.column_names) == {"prompt", "answer"}
    assert all(eval(row["prompt"].rstrip("=")) == int(row["answer"]) for row in dataset)


def test_json_lines_and_parquet_hold_the_same_problems(tmp_path: Path) -> None:
    parquet = tmp_path / "rows.parquet"
    pd.DataFrame([{**row, "gold": str(row["gold"])} for row in ROWS]).to_parquet(parquet)
    expected = [Problem("0", "1+1=", "2"), Problem("1", "2+2=", "4")]
    assert training_problems(recipe(jsonl(tmp_path)).task) == expected
    assert training_problems(recipe(parquet).task) == expected


def test_chat_prompts_stay_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "1+1="}]
    path = tmp_path / "chat.parquet"
    pd.DataFrame({"question": [messages], "gold": ["2"]}).to_parquet(path)
    assert training_problems(recipe(path).task)[0].prompt == messages


@pytest.mark.parametrize(
    ("rows", "message"),
    [([{"question": "1+1="}], "row 1 has no 'gold'"), ([], "holds no problems"), (["text"], "row 1 has no 'question'")],
)
def test_a_file_without_problems(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        training_problems(recipe(jsonl(tmp_path, rows)).task)


def test_torn_files_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "gold": "b"}\n{"quest', encoding="utf-8")
    with pytest.raises(CorruptFileError, match=r"rows\.jsonl:2: is not JSON"):
        training_problems(recipe(path).task)
    other = tmp_path / "rows.parquet"
    other.write_bytes(b"PAR1 nothing")
    with pytest.raises(CorruptFileError, match="cannot be read as parquet"):
        training_problems(recipe(other).task)


def test_a_run_knows_its_data(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    known = pinned(recipe(path))
    assert known.task.data_sha256 is not None
    assert known.task.data_sha256 == known.task.heldout_sha256
    assert pinned(known) == known
    path.write_text(path.read_text() + "\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"is not the file that task\.data_sha256 names"):
        pinned(known)


def test_a_missing_data_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"task\.data cannot be read"):
        pinned(recipe(tmp_path / "absent.jsonl"))
