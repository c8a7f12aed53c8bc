"""Problems from files, and an order of prompts that a resumed run repeats."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra.config import load
from spectra.errors import CorruptFileError, RecipeError
from spectra.training.data.carry_addition import Problem, problems
from spectra.training.data.dataset import (
    all_heldout_problems,
    data_source,
    heldout_problems,
    pinned,
    prompt_order,
    training_dataset,
    training_problems,
)
from spectra.training.data.sources.reading import digest
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe

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
    with pytest.raises(RecipeError, match=r"evaluation\.problems: must be at most 256, .* got 9999"):
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


def test_text_among_chats_names_the_row(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "2+2="}]
    path = jsonl(tmp_path, [ROWS[0], {"question": chat, "gold": "4"}])
    with pytest.raises(CorruptFileError, match=r"row 2 has chat messages in 'question', and those before it text"):
        training_problems(recipe(path).task)
    # A prompt format makes chats of all.
    assert [type(problem.prompt) for problem in training_problems(recipe(path, format="boxed").task)] == [list, list]


def test_a_file_of_another_encoding_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "a", "gold": "b"}\n{"question": "caf\xe9", "gold": "b"}\n')
    with pytest.raises(CorruptFileError, match=r"rows\.jsonl:2: is not UTF-8 \(byte 18 of the line\)"):
        training_problems(recipe(path).task)


def test_a_run_knows_its_data(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    known = pinned(recipe(path))
    assert known.task.data_sha256 is not None
    assert known.task.data_sha256 == known.task.heldout_sha256
    assert pinned(known) == known
    path.write_text(path.read_text() + "\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"differs from the digest in task\.data_sha256"):
        pinned(known)


def test_a_missing_data_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"task\.data cannot be read"):
        pinned(recipe(tmp_path / "absent.jsonl"))


@pytest.mark.parametrize("name", ["data", "nowhere/at-all", "./absent", "reasoning_gym"])
def test_a_source_that_is_not_there(name: str) -> None:
    with pytest.raises(RecipeError, match=r"task\.data cannot be read as a dataset \(default, train\)"):
        pinned(recipe(Path(name)))


def test_held_out_problems_of_another_set_have_their_own_split_and_keep_the_columns(
    tmp_path: Path, datasets_cache: None
) -> None:
    parts = {"train": [{"q": "cut 1+1=", "a": "x #### 2"}], "test": [{"q": "2+2=", "a": "y #### 4"}]}
    for split, rows in parts.items():
        (tmp_path / "set").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(tmp_path / "set" / f"{split}-0.parquet")
    section = {"prompt": "q", "answer": "a", "answer_after": "####", "heldout": str(tmp_path / "set")}
    same = recipe(tmp_path / "set", **section).task
    assert training_problems(same) == [Problem("0", "cut 1+1=", "2")]
    assert all_heldout_problems(same) == [Problem("0", "2+2=", "4")]
    other = jsonl(tmp_path, [{"q": "cut 1+1=", "a": "#### 2"}])
    assert all_heldout_problems(recipe(other, **section, remove=["cut"]).task) == [Problem("0", "2+2=", "4")]


def test_both_parts_of_a_task_have_its_prompt_format(tmp_path: Path) -> None:
    task = recipe(jsonl(tmp_path), format="think").task
    for problem in (*training_problems(task), *all_heldout_problems(task)):
        assert [message["role"] for message in problem.prompt] == ["system", "user"]  # type: ignore[index]


def test_chat_prompts_reach_the_trainer_as_messages(tmp_path: Path) -> None:
    loaded = recipe(jsonl(tmp_path), format="boxed")
    rows = training_dataset(loaded.model_copy(update={"steps": 1, "prompts_per_step": 2}))
    assert all([message["role"] for message in row["prompt"]] == ["user"] for row in rows)
    assert sorted(row["answer"] for row in rows) == ["2", "4"]


def test_a_run_trains_on_a_dataset_of_nested_columns(
    tmp_path: Path, recipe_for: Any, datasets_cache: None, easy_reward: None
) -> None:
    rows = [{"text": [f"{a}+1="], "gold": {"value": str(a + 1)}} for a in (1, 2, 3, 4)] * 5
    for split in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(tmp_path / "set" / f"{split}-0.parquet")
    source = {"name": "mine", "data": str(tmp_path / "set"), "heldout": str(tmp_path / "set")}
    columns = {"prompt": "text.0", "answer": "gold.value", "unique": True, "format_weight": 0.5}
    run = train(recipe_for(task={**source, **columns}, snapshots={"every": 2}), tmp_path / "run", quiet=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("format" in key for record in records for key in record)
    assert (run / "evals" / "mine" / "step_000002.jsonl").exists()
    assert load(Recipe, run / "recipe.yaml").task.data_sha256 == digest(
        data_source(recipe_for(task={**source, **columns}).task)
    )
