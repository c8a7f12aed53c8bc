"""Evaluations on disk: killed at any moment, they go on; finished, they are left alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from spectra.errors import CorruptFileError, RunExistsError
from spectra.runs.evaluations import OpenEvaluation, evaluations, problem_outcomes, read_summary, summary_file
from spectra.runs.layout import RunLayout

SETTINGS = {"benchmark": "aime24", "seed": 1}


def rows(problem: str, marks: str = "10", text: str = "x") -> list[dict[str, Any]]:
    return [{"problem": problem, "sample": n, "completion": text, "correct": m == "1"} for n, m in enumerate(marks)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return RunLayout(tmp_path).evaluation("aime24", 64)


def opened(file: Path, **settings: Any) -> OpenEvaluation:
    evaluation = OpenEvaluation(file, {**SETTINGS, **settings}, samples=2)
    evaluation.resume()
    return evaluation


def test_rows_are_written_in_the_problems_order_with_a_summary(file: Path, tmp_path: Path) -> None:
    evaluation = opened(file)
    for problem in ("b", "a"):
        evaluation.add(rows(problem))
    assert evaluations(tmp_path) == {}  # what is at work is no evaluation yet
    evaluation.finish(["a", "b"], {"average": 0.5})
    assert list(problem_outcomes(file).items()) == [("a", [True, False]), ("b", [True, False])]
    assert read_summary(file) == {"settings": SETTINGS, "average": 0.5}
    assert evaluations(tmp_path) == {"aime24": {64: file}}
    assert sorted(path.name for path in file.parent.iterdir()) == ["step_000064.json", "step_000064.jsonl"]


@pytest.mark.parametrize("torn", ['{"problem": "c", "sam', '{"problem": "c", "sample": 0, "correct": true}\n', "\xff"])
def test_what_a_crash_left_half_done_is_done_again(file: Path, torn: str) -> None:
    evaluation = opened(file)
    evaluation.add(rows("a"))
    evaluation.add(rows("b"))
    with evaluation.partial.open("ab") as stream:
        stream.write(torn.encode("latin-1"))
    again = opened(file)
    assert list(again.done) == ["a", "b"]
    again.add(rows("c"))
    assert list(opened(file).done) == ["a", "b", "c"]


def test_a_crash_at_any_byte_keeps_every_whole_problem(file: Path) -> None:
    evaluation = opened(file)
    for problem in "abc":
        evaluation.add(rows(problem, text="two\u2028lines\x85 and é"))
    content = evaluation.partial.read_bytes()
    ends = [len(content)]
    for _ in "bc":
        ends.insert(0, content.rindex(b'{"problem"', 0, content.rindex(b'{"problem"', 0, ends[0])))
    for size in range(0, len(content), 7):
        evaluation.partial.write_bytes(content[:size])
        # A whole line whose end alone is missing is whole.
        assert len(opened(file).done) in {sum(size >= end - slack for end in ends) for slack in (0, 1)}


def test_work_of_other_settings_is_not_gone_on_with(file: Path) -> None:
    opened(file).add(rows("a"))
    assert opened(file, seed=2).done == {}


def test_a_finished_one_is_known_by_its_settings(file: Path) -> None:
    evaluation = opened(file)
    assert evaluation.finished() is None
    evaluation.add(rows("a"))
    evaluation.finish(["a"], {"average": 0.5})
    assert evaluation.finished() == {"settings": SETTINGS, "average": 0.5}
    with pytest.raises(RunExistsError, match="contains an evaluation with seed = 1, but 2 was requested"):
        OpenEvaluation(file, {**SETTINGS, "seed": 2}, 2).finished()
    with pytest.raises(RunExistsError, match="with k = None, but 4 was requested"):
        OpenEvaluation(file, {**SETTINGS, "k": 4}, 2).finished()
    evaluation.discard()
    assert evaluation.finished() is None


def test_one_that_training_made_is_not_overwritten_unasked(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(rows("a")[0]) + "\n")
    assert read_summary(file) is None
    with pytest.raises(RunExistsError, match="not made by `spectra eval`"):
        OpenEvaluation(file, SETTINGS, 2).finished()


def test_completions_may_hold_any_character(file: Path) -> None:
    evaluation = opened(file)
    evaluation.add(rows("a", text="\u2028\x85\x1c\n\r\x00é"))
    evaluation.finish(["a"], {})
    assert problem_outcomes(file) == {"a": [True, False]}


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "contains no generation"), ('{"problem": "a", "correct": true}\nx\n', r":2: is not a gen")],
)
def test_files_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(CorruptFileError, match=message):
        problem_outcomes(tmp_path / "a.jsonl")


def test_the_summary_is_beside_it(file: Path) -> None:
    assert summary_file(file).name == "step_000064.json"
