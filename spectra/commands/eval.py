"""``spectra eval``: Avg@k and Pass@k of snapshots on benchmarks, with intervals, on the right base model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from spectra.commands.options import Base, Initial, Out
from spectra.errors import CorruptFileError, UsageError

if TYPE_CHECKING:
    from spectra.training.evaluation.evaluate import Request
    from spectra.training.evaluation.snapshot_model import EvaluatedModel

HELDOUT = "heldout"
STUDY = "study"
# Settings of the study: temperature 0.7, top-p 0.9, and room for long reasoning.
STUDY_TOKENS = 31744


@dataclass(frozen=True)
class EvalOptions:
    """How to evaluate; ``spectra eval`` has an option for each field.

    Empty ``benchmarks`` means ``heldout``, or the name of ``data``. ``max_tokens`` None means 31744, and for
    ``heldout`` the limit of the run. ``style`` None means ``boxed``, and for ``heldout`` the format of the task. For
    ``generator``, ``dtype``, ``device``, ``batch_size`` and ``memory`` see
    :class:`spectra.training.evaluation.evaluate.Engine`.
    """

    benchmarks: Annotated[
        Sequence[str],
        Option(
            "--benchmark",
            help="aime24 …, study (its six benchmarks) or heldout (held-out problems of the run). Repeatable.",
        ),
    ] = ()
    data: Annotated[str | None, Option(help="Your own problems: a file, a directory or a Hub id.")] = None
    split: Annotated[str, Option(help="Split of --data to use.")] = "test"
    prompt: Annotated[str, Option("--prompt-column", help="Column of --data that holds the problem.")] = "prompt"
    answer: Annotated[str, Option("--answer-column", help="Column of --data that holds the reference answer.")] = (
        "answer"
    )
    problems: Annotated[int | None, Option(help="Evaluate only the first N problems.")] = None
    steps: Annotated[Sequence[int], Option("--step", help="Step of the snapshot (default: the last). Repeatable.")] = ()
    k: Annotated[int | None, Option(help="Completions per problem (default: 32 or 4, set by the benchmark).")] = None
    temperature: Annotated[float, Option(help="Sampling temperature.")] = 0.7
    top_p: Annotated[float, Option(help="Nucleus sampling threshold (top-p).")] = 0.9
    seed: Annotated[int, Option(help="Sampling seed.")] = 42
    max_tokens: Annotated[int | None, Option(help="Maximum number of new tokens per completion.")] = None
    style: Annotated[
        Literal["none", "boxed", "think"] | None,
        Option("--format", help="Prompt format (default: boxed; for heldout, that of the run)."),
    ] = None
    generator: Annotated[Literal["hf", "vllm"], Option(help="Generation backend.")] = "hf"
    dtype: Annotated[Literal["float32", "bfloat16"], Option(help="Data type of the weights W + ΔW.")] = "float32"
    device: Annotated[str | None, Option(help="Device to compute on (default: a GPU if available).")] = None
    batch_size: Annotated[int, Option(help="Completions per batch.")] = 64
    memory: Annotated[float, Option(help="Fraction of GPU memory for vLLM (gpu_memory_utilization).")] = 0.9
    base: Base = None
    initial: Initial = None
    out: Out = None
    overwrite: Annotated[bool, Option("--overwrite", help="Discard existing results and evaluate again.")] = False


@dataclass(frozen=True)
class Evaluated:
    """Result of an evaluation.

    Attributes
    ----------
    summaries
        One per snapshot and benchmark, as in the files ``evals/<benchmark>/step_XXXXXX.json``.
    averages
        For each step, the mean over benchmarks with its interval, if there are several.
    """

    summaries: Sequence[Mapping[str, Any]]
    averages: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per snapshot and benchmark, fractions in percent; the mean over benchmarks comes last."""
        rows = [_row(summary) for summary in self.summaries]
        return rows + [{"step": step, "benchmark": "mean", **_shares(one)} for step, one in self.averages.items()]


def evaluate(
    run: Path, options: EvalOptions | None = None, *, progress: Callable[[int, int, str], None] | None = None
) -> Evaluated:
    """Evaluate snapshots of a run; calling it again with the same arguments resumes.

    Parameters
    ----------
    run
        A run directory, an adapter, or a full checkpoint.
    options
        How to evaluate.
    progress
        Called as progress(problems done, problems in total, benchmark).

    Raises
    ------
    UsageError
        If options conflict, or name something that does not exist.
    SpectraError
        If the run, its base, its update or the problems cannot be read.
    """
    from spectra.training.compat.library_warnings import quiet_libraries
    from spectra.training.evaluation.evaluate import Engine, evaluate_all
    from spectra.training.evaluation.snapshot_model import EvaluatedModel
    from spectra.weights.opened_run import OpenedRun

    options = options or EvalOptions()
    engine = Engine(options.generator, options.dtype, options.device, options.batch_size, options.memory)
    opened = OpenedRun.open(run, options.base, options.initial)
    models = [EvaluatedModel.of(opened, step) for step in options.steps or (None,)]
    requests = _requests(models[0], options)
    summaries: dict[int, list[dict[str, Any]]] = {}
    with quiet_libraries():
        for model in models:
            summaries[model.step] = evaluate_all(
                model, requests, engine, options.out or run, overwrite=options.overwrite, progress=progress
            )
    flat = [summary for found in summaries.values() for summary in found]
    return Evaluated(flat, {step: _mean(found) for step, found in summaries.items() if len(found) > 1})


def _requests(model: "EvaluatedModel", options: EvalOptions) -> list["Request"]:
    from spectra.training.data.sources import benchmarks

    names = list(options.benchmarks)
    if options.data is not None:
        if len(names) > 1:
            raise UsageError("--data is a single benchmark", hint="pass at most one name with --benchmark")
        return [_own_data(options.data, names[0] if names else Path(options.data).stem, options)]
    wanted = dict.fromkeys(
        part for name in names or [HELDOUT] for part in (benchmarks.STUDY if name == STUDY else [name])
    )
    return [_heldout(model, options) if name == HELDOUT else _benchmark(name, options) for name in wanted]


def _benchmark(name: str, options: EvalOptions) -> "Request":
    from spectra.training.data.sources.benchmarks import benchmark_source, find_benchmark

    return _request(name, benchmark_source(name), options, find_benchmark(name).samples)


def _own_data(data: str, name: str, options: EvalOptions) -> "Request":
    from spectra.training.data.sources.source import Source

    source = Source(data, split=options.split, prompt=options.prompt, answer=options.answer)
    if source.kind == "file" and not Path(data).expanduser().is_file():
        raise UsageError("--data not found", where=data, hint="pass a file, a directory or a Hub id")
    try:
        return _request(name, source, options, 4)
    except CorruptFileError as error:
        # The error names recipe keys; name the options instead.
        options_by_key = {"task.prompt": "--prompt-column", "task.answer": "--answer-column"}
        hint = reduce(lambda text, key: text.replace(key, options_by_key[key]), options_by_key, error.hint or "")
        raise CorruptFileError(error.what, where=error.where, hint=hint) from error


def _request(name: str, source: Any, options: EvalOptions, samples: int) -> "Request":
    from spectra.training.data.prompts import formatted
    from spectra.training.data.sources.reading import read
    from spectra.training.evaluation.evaluate import Request

    style = options.style or "boxed"
    problems = [formatted(problem, style) for problem in read(source)]
    sampling = _sampling(options, samples, STUDY_TOKENS)
    return Request(_directory(name), source.name, _first(problems, options), style, sampling)


def _heldout(model: "EvaluatedModel", options: EvalOptions) -> "Request":
    from spectra.training.data.dataset import all_heldout_problems
    from spectra.training.evaluation.evaluate import Request

    recipe = model.recipe
    if recipe is None:
        hint = "name a benchmark with --benchmark, or pass --data"
        raise UsageError(
            "held-out problems are only known for runs trained by spectra", where=model.run.path, hint=hint
        )
    task = recipe.task
    if options.style is not None and task.data is None and options.style != "none":
        raise UsageError(f"{task.name} has a fixed prompt format", hint="omit --format")
    style = options.style or task.format
    problems = all_heldout_problems(task.model_copy(update={"format": style}))
    if not problems:
        raise UsageError(
            "the task of this run has no held-out problems",
            where=model.run.path,
            hint="name a benchmark with --benchmark",
        )
    sampling = _sampling(options, recipe.evaluation.samples, recipe.algorithm.max_completion_length)
    return Request(f"{task.name}-{HELDOUT}", task.heldout or task.name, _first(problems, options), style, sampling)


def _sampling(options: EvalOptions, samples: int, tokens: int) -> Any:
    from spectra.training.sampling.transformers import Sampling

    return Sampling(
        samples=samples if options.k is None else options.k,
        temperature=float(options.temperature),
        top_p=float(options.top_p),
        max_new_tokens=tokens if options.max_tokens is None else options.max_tokens,
        seed=options.seed,
    )


def _first(problems: list[Any], options: EvalOptions) -> list[Any]:
    if options.problems is None:
        return problems
    if not 1 <= options.problems <= len(problems):
        raise UsageError(
            f"--problems must be between 1 and {len(problems)}, got {options.problems}",
            hint="choose a number in that range",
        )
    return problems[: options.problems]


def _directory(name: str) -> str:
    import re

    from spectra.config import NAME_PATTERN

    if re.match(NAME_PATTERN, name) is None:
        raise UsageError(f"{name!r} is not a valid directory name", hint="name the benchmark with --benchmark")
    return name


def _mean(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    from spectra.training.evaluation.pass_at_k import Estimate, average

    parts = [
        Estimate(**{key: float("nan") if value is None else value for key, value in summary["average"].items()})
        for summary in summaries
    ]
    return average(parts).as_json()


def _row(summary: Mapping[str, Any]) -> dict[str, Any]:
    most = max(summary["pass"], key=int)
    return {
        "step": summary["step"],
        "benchmark": summary["settings"]["benchmark"],
        "problems": summary["problems"],
        "k": summary["samples"],
        **_shares(summary["average"]),
        "pass@k": 100 * summary["pass"][most]["value"],
        "finished": 100 * summary["finished_share"],
        "boxed": 100 * summary["boxed_share"],
    }


def _shares(estimate: Mapping[str, float | None]) -> dict[str, Any]:
    value, low, high = (100 * float(estimate[key] or 0.0) for key in ("value", "low", "high"))
    return {"avg@k": value, "95 % interval": f"{low:.1f}–{high:.1f}"}
