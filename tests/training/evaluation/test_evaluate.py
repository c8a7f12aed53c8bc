"""Evaluations end to end: written once, gone on with after a kill, and the same either way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from spectra.commands.eval import EvalOptions, Evaluated, evaluate
from spectra.errors import (
    BaseModelError,
    CorruptFileError,
    MissingDependencyError,
    RecipeError,
    RunExistsError,
    UsageError,
)
from spectra.runs.evaluations import problem_outcomes, problem_scores
from spectra.runs.layout import RunLayout
from spectra.training.data.dataset import all_heldout_problems
from spectra.training.evaluation import evaluate as evaluation
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from spectra.training.sampling.transformers import ModelGenerator, Prompt, Sampling
from tests.builders import lora_config, small_factors, write_adapter

Maker = Callable[..., Recipe]
OPTIONS = EvalOptions(problems=6, k=4, temperature=1.0, top_p=1.0, batch_size=8)


@pytest.fixture
def run(recipe_for: Maker, tmp_path: Path, easy_reward: None) -> Path:
    return train(recipe_for(snapshots={"every": 2}, evaluation={"every": None}), tmp_path / "run", quiet=True)


def with_(**changes: Any) -> EvalOptions:
    return EvalOptions(**{**OPTIONS.__dict__, **changes})


def file(run: Path, step: int = 2) -> Path:
    return RunLayout(run).evaluation("carry_addition-heldout", step)


def test_an_evaluation_is_a_file_of_generations_and_a_summary(run: Path) -> None:
    told: list[tuple[int, int, str]] = []
    done = evaluate(run, OPTIONS, progress=lambda *args: told.append(args))
    rows = [json.loads(line) for line in file(run).read_text().splitlines()]
    assert [(row["problem"], row["sample"]) for row in rows] == [
        (problem.id, sample) for problem in all_heldout_problems(Recipe().task)[:6] for sample in range(4)
    ]
    assert set(rows[0]) == {"problem", "sample", "completion", "correct", "tokens", "finished"}
    assert told == [
        (2, 6, "carry_addition-heldout"),
        (4, 6, "carry_addition-heldout"),
        (6, 6, "carry_addition-heldout"),
    ]
    (summary,) = done.summaries
    assert summary == json.loads(file(run).with_suffix(".json").read_text())
    assert summary["average"]["value"] == pytest.approx(problem_scores(file(run)).mean())
    assert list(summary["pass"]) == ["1", "2", "4"]
    assert summary["settings"]["temperature"] == 1.0
    assert summary["settings"]["dtype"] == "float32"
    assert (summary["problems"], summary["samples"], summary["step"]) == (6, 4, 2)
    assert 0 < summary["tokens"] <= 4


def test_a_finished_one_is_left_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(run, OPTIONS)
    before = file(run).stat().st_mtime_ns
    monkeypatch.setattr(evaluation, "_generator", None)  # no model is loaded
    assert evaluate(run, OPTIONS) == first
    assert file(run).stat().st_mtime_ns == before


def test_other_settings_are_refused_until_overwriting_is_asked_for(run: Path) -> None:
    evaluate(run, OPTIONS)
    with pytest.raises(RunExistsError, match="with samples = 4, but 2 was requested"):
        evaluate(run, with_(k=2))
    again = evaluate(run, with_(k=2, overwrite=True))
    assert again.summaries[0]["samples"] == 2
    assert all(len(marks) == 2 for marks in problem_outcomes(file(run)).values())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("parts", [1, 2])
def test_a_killed_evaluation_goes_on_and_ends_as_an_uninterrupted_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    evaluate(run, with_(out=tmp_path / "whole"))
    whole = file(tmp_path / "whole").read_bytes()
    drawn: list[Sequence[Prompt]] = []
    generate = ModelGenerator.generate

    def dying(self: ModelGenerator, prompts: Sequence[Prompt], sampling: Sampling) -> Any:
        if len(drawn) == parts:
            raise Killed
        drawn.append(prompts)
        return generate(self, prompts, sampling)

    monkeypatch.setattr(ModelGenerator, "generate", dying)
    with pytest.raises(Killed):
        evaluate(run, OPTIONS)
    assert not file(run).exists()
    partial = file(run).with_name("step_000002.partial.jsonl")
    with partial.open("a") as stream:
        stream.write('{"problem": "torn", "samp')
    drawn.clear()
    monkeypatch.setattr(ModelGenerator, "generate", lambda *args: drawn.append(args[1]) or generate(*args))
    evaluate(run, OPTIONS)
    assert len(drawn) == 3 - parts
    assert file(run).read_bytes() == whole
    assert not partial.exists()


def test_a_part_that_was_half_written_is_drawn_again_alike(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(run, with_(out=tmp_path / "whole"))
    add = evaluation.OpenEvaluation.add
    added: list[Any] = []

    def dying(self: Any, rows: Any) -> None:
        if len(added) == 3:  # between the two problems of the second part
            raise Killed
        added.append(rows)
        add(self, rows)

    monkeypatch.setattr(evaluation.OpenEvaluation, "add", dying)
    with pytest.raises(Killed):
        evaluate(run, OPTIONS)
    monkeypatch.setattr(evaluation.OpenEvaluation, "add", add)
    evaluate(run, OPTIONS)
    assert file(run).read_bytes() == file(tmp_path / "whole").read_bytes()


def test_a_process_that_is_killed_leaves_work_that_goes_on(run: Path, tmp_path: Path) -> None:
    slow = (
        "import sys, time; from pathlib import Path; from spectra.commands.eval import evaluate, EvalOptions;"
        "evaluate(Path(sys.argv[1]), EvalOptions(problems=60, k=4, temperature=1.0, top_p=1.0, batch_size=8),"
        "progress=lambda *args: time.sleep(0.2))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", slow, str(run)], env=environment, stderr=subprocess.DEVNULL)
    partial = file(run).with_name("step_000002.partial.jsonl")
    while not (partial.exists() and partial.read_text().count("\n") > 20):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    before = partial.read_text().count("\n") // 4
    told: list[int] = []
    evaluate(run, with_(problems=60), progress=lambda done, *rest: told.append(done))
    assert before >= 4
    assert len(problem_outcomes(file(run))) == 60
    evaluate(run, with_(problems=60, out=tmp_path / "whole"))
    assert file(run).read_bytes() == file(tmp_path / "whole").read_bytes()


def test_several_steps_and_a_file_of_one_s_own(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text('{"q": "1+1=", "a": "2"}\n{"q": "2+2=", "a": "4"}\n')
    options = with_(data=str(data), prompt="q", answer="a", style="none", max_tokens=4, steps=(0, 2), problems=None)
    done = evaluate(run, options)
    assert [summary["step"] for summary in done.summaries] == [0, 2]
    assert RunLayout(run).evaluation("mine", 0).exists()
    assert done.averages == {}
    assert [row["benchmark"] for row in done.rows()] == ["mine", "mine"]


def test_a_mean_over_benchmarks_comes_last(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectra.training.data.carry_addition import problems
    from spectra.training.data.sources import benchmarks, reading

    monkeypatch.setattr(reading, "read", lambda source: problems("control" if "aime" in source.name else "eval"))
    monkeypatch.setattr("spectra.training.data.prompts.formatted", lambda problem, style: problem)
    done = evaluate(run, with_(benchmarks=("study",), k=1, max_tokens=6))
    assert [summary["settings"]["benchmark"] for summary in done.summaries] == list(benchmarks.STUDY)
    mean = sum(summary["average"]["value"] for summary in done.summaries) / 6
    assert done.averages[2]["value"] == pytest.approx(mean)
    assert done.rows()[-1]["benchmark"] == "mean"


def test_benchmarks_have_the_study_s_sampling_unless_told_otherwise(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[evaluation.Request] = []
    monkeypatch.setattr(
        "spectra.training.data.sources.reading.read", lambda source: all_heldout_problems(Recipe().task)
    )
    monkeypatch.setattr(evaluation, "evaluate_all", lambda model, requests, *rest, **more: asked.extend(requests) or [])
    evaluate(run, EvalOptions(benchmarks=("aime24", "math500")))
    assert [request.sampling for request in asked] == [
        Sampling(32, 0.7, 0.9, 31744, 42),
        Sampling(4, 0.7, 0.9, 31744, 42),
    ]
    assert {request.style for request in asked} == {"boxed"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EvalOptions(data="a.jsonl", benchmarks=("a", "b")), "--data is a single benchmark"),
        (EvalOptions(benchmarks=("aime2024",)), "did you mean 'aime24'"),
        (EvalOptions(problems=999), "--problems must be between 1 and 256, got 999"),
        (EvalOptions(style="think"), "carry_addition has a fixed prompt format"),
        (EvalOptions(steps=(9,)), "no snapshot of step 9"),
        (EvalOptions(k=0), "samples must be at least 1, got 0"),
        (EvalOptions(batch_size=0), "--batch-size must be at least 1, got 0"),
        (EvalOptions(batch_size=-4), "--batch-size must be at least 1, got -4"),
        (EvalOptions(memory=0.0), r"--memory must be in \(0, 1\], got 0\.0"),
        (EvalOptions(memory=90.0), r"--memory must be in \(0, 1\], got 90\.0"),
        (EvalOptions(device="cuda:99"), r"--device cuda:99 cannot be used \(.*use cpu, or cuda if a GPU is available"),
        (EvalOptions(device="banana"), r"--device banana cannot be used \(.*use cpu"),
        (EvalOptions(device="meta"), "--device meta cannot be used"),
        (EvalOptions(data="nope.jsonl"), "nope.jsonl: --data not found; pass a file, a directory or a Hub id"),
    ],
)
def test_options_that_do_not_go_together(run: Path, options: EvalOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(run, options)
    assert not file(run).parent.exists()  # nothing was begun


def test_a_column_that_is_not_there_is_named_as_the_command_has_it(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text('{"question": "1 + 1 =", "answer": "2"}\n')
    message = r"row 1 has no 'prompt' \(it has question, answer\); set --prompt-column and --answer-column"
    with pytest.raises(CorruptFileError, match=message):
        evaluate(run, with_(data=str(data)))
    data.write_text('{"question": 3, "answer": "2"}\n')
    with pytest.raises(CorruptFileError, match="in 'question'; set --prompt-column to the right column"):
        evaluate(run, with_(data=str(data), prompt="question"))


def test_a_run_of_another_tool_has_no_held_out_problems(run: Path) -> None:
    with pytest.raises(UsageError, match="name a benchmark with --benchmark"):
        evaluate(RunLayout(run).snapshot(2), OPTIONS)


def test_held_out_problems_that_changed_are_noticed(recipe_for: Maker, tmp_path: Path, easy_reward: None) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    task = {"name": "mine", "data": str(data), "heldout": str(data)}
    run = train(recipe_for(task=task, evaluation={"every": None}), tmp_path / "run", quiet=True)
    assert evaluate(run, with_(problems=1)).summaries[0]["settings"]["benchmark"] == "mine-heldout"
    data.write_text('{"prompt": "1+1=", "answer": "3"}\n')
    with pytest.raises(RecipeError, match=r"differs from the digest in task\.heldout_sha256"):
        evaluate(run, with_(problems=1, overwrite=True))


def test_the_rounding_of_bfloat16_is_in_the_summary(run: Path) -> None:
    summary = evaluate(run, with_(dtype="bfloat16", problems=2)).summaries[0]
    assert summary["update_lost_to_rounding"] > 0.01


def test_vllm_is_asked_for_by_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match="the generator vllm needs vLLM"):
        evaluate(run, with_(generator="vllm"))


def test_two_evaluations_are_of_the_same_problems(run: Path) -> None:
    evaluate(run, with_(steps=(0, 2)))
    first, last = (problem_scores(file(run, step)) for step in (0, 2))
    assert first.index.equals(last.index)
    assert len(first) == 6


def test_a_table_s_rows() -> None:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75, "error": 0.1, "sampling_error": None}
    summary = {
        "settings": {"benchmark": "aime24"},
        "step": 2,
        "problems": 30,
        "samples": 4,
        "average": estimate,
        "pass": {"1": estimate, "4": {**estimate, "value": 0.8}},
        "finished_share": 1.0,
        "boxed_share": 0.9,
    }
    (row,) = Evaluated([summary]).rows()
    assert row["avg@k"] == 50.0
    assert row["pass@k"] == 80.0
    assert row["95 % interval"] == "25.0–75.0"


def beside_its_base(directory: Path, tiny_base: Path) -> Path:
    """Write a Trainer run whose adapter names its base ``base``, which lies beside the run."""
    shutil.copytree(tiny_base, directory / "base")
    factors = small_factors(layers=1, width=32)
    query = "model.layers.0.self_attn.q_proj"
    for step in (2, 10):
        write_adapter(directory / "run" / f"checkpoint-{step}", lora_config("base"), {query: factors[query]})
    return directory / "run"


def test_a_base_that_lies_beside_the_run_is_found(tiny_base: Path, tmp_path: Path) -> None:
    run = beside_its_base(tmp_path, tiny_base)
    data = tmp_path / "sums.jsonl"
    data.write_text('{"q": "1+1=", "a": "2"}\n')
    options = with_(data=str(data), prompt="q", answer="a", style="none", max_tokens=4, problems=None)
    (summary,) = evaluate(run, options).summaries
    assert (summary["step"], summary["problems"]) == (10, 1)


def test_a_quantized_base_is_refused_with_the_one_to_give(tiny_base: Path, tmp_path: Path) -> None:
    run = beside_its_base(tmp_path, tiny_base)
    config = run / "checkpoint-10" / "adapter_config.json"
    config.write_text(json.dumps(lora_config("unsloth/Tiny-1B-bnb-4bit")))
    with pytest.raises(BaseModelError, match="likely --base unsloth/Tiny-1B$"):
        evaluate(run, with_(benchmarks=("gsm8k",)))
