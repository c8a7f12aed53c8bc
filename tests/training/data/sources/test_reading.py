"""Sources of problems: nested columns, repeated prompts, datasets in directories, and data that changed."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spectra.errors import CorruptFileError, RecipeError
from spectra.training.data.carry_addition import Problem
from spectra.training.data.sources.reading import digest, problems_digest, read
from spectra.training.data.sources.source import Source

BEFORE, AFTER = "Solve this.\n\n", '\n\nWrite "Answer:" before the answer.'


def dapo(repeats: int = 3) -> list[dict[str, Any]]:
    """Rows as DAPO-Math-17k has them: messages, a nested gold answer, and every prompt many times."""
    return [
        {
            "data_source": "math",
            "prompt": [{"content": f"{BEFORE}{a}+1={AFTER}", "role": "user"}],
            "reward_model": {"ground_truth": str(a + 1), "style": "rule"},
            "extra_info": {"index": f"{repeat}-{a}"},
        }
        for repeat in range(repeats)
        for a in (1, 2)
    ]


@pytest.fixture
def directory(tmp_path: Path, datasets_cache: None) -> Path:
    """A dataset as the hub has them: parquet files in ``data``."""
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    pd.DataFrame(dapo()).to_parquet(data / "train-00000-of-00001.parquet")
    return tmp_path / "set"


def written(tmp_path: Path, rows: list[Any], suffix: str = ".jsonl") -> str:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pd.DataFrame(rows).to_parquet(path)
    return str(path)


def test_nested_columns_and_repeated_prompts_of_a_directory(directory: Path) -> None:
    source = Source(str(directory), answer="reward_model.ground_truth", unique=True)
    found = read(source)
    assert [(p.id, p.answer) for p in found] == [("0", "2"), ("1", "3")]
    assert found[0].prompt == [{"role": "user", "content": f"{BEFORE}1+1={AFTER}"}]
    assert len(read(Source(str(directory), answer="reward_model.ground_truth"))) == 6


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_gives_what_a_directory_gives(tmp_path: Path, directory: Path, suffix: str) -> None:
    columns = {"prompt": "prompt.0.content", "answer": "reward_model.ground_truth"}
    settings: dict[str, Any] = {**columns, "unique": True, "remove": (BEFORE.strip(), AFTER.strip())}
    expected = [Problem("0", "1+1=", "2"), Problem("1", "2+1=", "3")]
    assert read(Source(written(tmp_path, dapo(), suffix), **settings)) == expected
    assert read(Source(str(directory), **settings)) == expected


def test_texts_are_removed_from_messages_and_must_be_there(tmp_path: Path) -> None:
    name = written(tmp_path, dapo(1))
    source = Source(name, answer="reward_model.ground_truth", remove=(BEFORE.strip(), AFTER.strip()))
    assert read(source)[0].prompt == [{"role": "user", "content": "1+1="}]
    with pytest.raises(RecipeError, match=r"task\.remove: 'Solve that\.' does not occur in any prompt"):
        read(Source(name, answer="reward_model.ground_truth", remove=(BEFORE.strip(), "Solve that.")))


@pytest.mark.parametrize(
    ("answer", "expected"), [("2", "2"), (2, "2"), (2.0, "2.0"), (["2"], "2"), ("so 1+1\n#### 2", "2")]
)
def test_gold_answers_of_several_shapes(tmp_path: Path, answer: Any, expected: str) -> None:
    after = "####" if "####" in str(answer) else None
    name = written(tmp_path, [{"prompt": "1+1=", "answer": answer}])
    assert read(Source(name, answer_after=after))[0].answer == expected


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"prompt": "a", "answer": None}, {}, "row 1 does not have a single answer in 'answer'"),
        ({"prompt": "a", "answer": ["1", "2"]}, {}, r"row 1 does not have a single answer .* such as answer\.0"),
        ({"prompt": "a", "answer": "1"}, {"answer_after": "####"}, "row 1 has no '####' in 'answer'"),
        ({"prompt": "a"}, {}, r"row 1 has no 'answer' \(it has prompt\)"),
        ({"prompt": {"text": "a"}, "answer": "1"}, {"prompt": "prompt.texts"}, r"row 1 has no 'prompt\.texts'"),
        ({"prompt": ["a"], "answer": "1"}, {"prompt": "prompt.1"}, r"row 1 has no 'prompt\.1'"),
        ({"prompt": 3, "answer": "1"}, {}, "row 1 has neither text nor chat messages in 'prompt'"),
        ({"prompt": [{"content": "a"}], "answer": "1"}, {}, "row 1 has neither text nor chat messages"),
    ],
)
def test_rows_that_hold_no_problem(tmp_path: Path, row: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read(Source(written(tmp_path, [row]), **settings))


def test_a_column_whose_name_has_a_dot(tmp_path: Path) -> None:
    rows = [{"a.prompt": "1+1=", "a.answer": "2"}]
    source = {"prompt": "a.prompt", "answer": "a.answer"}
    assert read(Source(written(tmp_path, rows), **source)) == [Problem("0", "1+1=", "2")]
    assert read(Source(written(tmp_path, rows, ".parquet"), **source)) == [Problem("0", "1+1=", "2")]


def test_names_that_do_not_tell_problems_apart_are_numbers(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": str(at), "answer": "1"} for at, name in enumerate("aab")]
    assert [p.id for p in read(Source(written(tmp_path, rows)))] == ["0", "1", "2"]
    assert [p.id for p in read(Source(written(tmp_path, rows[1:])))] == ["a", "b"]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    name = written(tmp_path, [{"prompt": "1+1=", "answer": "2"}])
    Path(name).write_text(Path(name).read_text() + "\n\n", encoding="utf-8")
    assert len(read(Source(name))) == 1


def test_a_changed_directory_is_read_again_and_has_another_digest(directory: Path) -> None:
    source = Source(str(directory), answer="reward_model.ground_truth", unique=True)
    before = digest(source)
    assert before == digest(source) == problems_digest(read(source))
    rows = [{**row, "reward_model": {"ground_truth": "9", "style": "rule"}} for row in dapo(4)]
    pd.DataFrame(rows).to_parquet(directory / "data" / "train-00000-of-00001.parquet")
    assert {problem.answer for problem in read(source)} == {"9"}
    assert digest(source) != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"split": "validation"}, "(default, validation)"), ({"subset": "cn"}, "(cn, train)")],
)
def test_a_dataset_without_such_a_part(directory: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(Source(str(directory), answer="reward_model.ground_truth", **settings))
    assert message in str(caught.value)


def test_code_of_a_dataset_is_never_run(tmp_path: Path, datasets_cache: None) -> None:
    directory = tmp_path / "evil"
    directory.mkdir()
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(RecipeError, match="cannot be read as a dataset"):
        read(Source(str(directory)))
    assert not (tmp_path / "ran").exists()


def test_the_hub_is_asked_for_what_the_source_names(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    import datasets

    asked: list[Any] = []
    local = datasets.load_dataset

    def hub(name: str, *part: Any, **settings: Any) -> Any:
        asked.append((name, *part, settings))
        return local(str(directory), split="train")

    monkeypatch.setattr(datasets, "load_dataset", hub)
    source = Source("owner/set", subset="en", split="train", revision="abc", answer="reward_model.ground_truth")
    assert len(read(source)) == 6
    assert asked == [("owner/set", "en", {"split": "train", "revision": "abc"})]


def test_the_hub_out_of_reach_is_told(tmp_path: Path, datasets_cache: None) -> None:
    with pytest.raises(RecipeError, match=r"owner/absent: cannot be read as a dataset .*; give a \.jsonl"):
        read(Source("owner/absent"))
