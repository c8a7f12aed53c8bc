"""Evaluate a snapshot on benchmarks, problem by problem, so that a killed evaluation can resume."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from spectra.errors import UnsupportedMethodError, UsageError
from spectra.runs.evaluations import OpenEvaluation
from spectra.runs.layout import RunLayout
from spectra.runs.lock import exclusive
from spectra.runs.manifest import describe_environment, now
from spectra.training.data.carry_addition import Problem
from spectra.training.data.sources.reading import problems_digest
from spectra.training.evaluation.generate import verified
from spectra.training.evaluation.pass_at_k import scores
from spectra.training.evaluation.snapshot_model import EvaluatedModel
from spectra.training.rewards.rewards import last_box
from spectra.training.sampling.transformers import Generator, ModelGenerator, Sampling

GeneratorName = Literal["hf", "vllm"]
# Called after each batch with the number of finished problems, the number of problems, and the benchmark.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Request:
    """One benchmark to evaluate on.

    Attributes
    ----------
    benchmark
        Name of the benchmark and of its directory.
    source
        Source of the problems.
    problems
        The problems, in their prompt format.
    style
        Name of the prompt format.
    sampling
        Sampling settings.
    """

    benchmark: str
    source: str
    problems: Sequence[Problem]
    style: str
    sampling: Sampling


@dataclass(frozen=True)
class Engine:
    """Settings of the generator.

    Attributes
    ----------
    name
        ``hf`` or ``vllm``.
    dtype
        Data type of the weights W + ΔW. In bfloat16 most of a small ΔW is rounded away; the summary has the fraction.
    device
        Torch device of ``hf``; None takes the GPU if there is one.
    batch_size
        Sequences at once, for ``hf``. Samples depend on it.
    memory
        Fraction of GPU memory, for ``vllm`` (gpu_memory_utilization).

    Raises
    ------
    UsageError
        If a value is out of range, or the device is not available.
    """

    name: GeneratorName = "hf"
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str | None = None
    batch_size: int = 64
    memory: float = 0.9

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, got {self.batch_size}", hint="choose a larger number")
        if not 0 < self.memory <= 1:
            raise UsageError(f"--memory must be in (0, 1], got {self.memory}", hint="choose a fraction such as 0.9")
        if self.device is not None:
            _check_device(self.device, self.dtype)


def _check_device(device: str, dtype: str) -> None:
    import torch

    try:
        torch.zeros(1, dtype=getattr(torch, dtype), device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        hint = "use cpu, or cuda if a GPU is available"
        raise UsageError(f"--device {device} cannot be used ({reason})", hint=hint) from error


def evaluate_all(
    model: EvaluatedModel,
    requests: Sequence[Request],
    engine: Engine,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a snapshot on benchmarks; finished evaluations are skipped.

    Parameters
    ----------
    model
        The snapshot.
    requests
        The benchmarks.
    engine
        Settings of the generator. The model is loaded once, and only if an evaluation is unfinished.
    out
        Run directory to write to: ``evals/<benchmark>/step_XXXXXX.jsonl``, and a summary next to it.
    overwrite
        Repeat finished evaluations.
    progress
        Called with the progress, see :data:`Progress`.

    Returns
    -------
    list of dict
        The summary of each benchmark.

    Raises
    ------
    RunExistsError
        If an evaluation with other settings exists, or another process is working on it.
    SpectraError
        If the model cannot be rebuilt exactly, or cannot generate.
    """
    identity = model.identity()
    opened = [_open(model, request, engine, identity, out) for request in requests]
    found = [None if overwrite else one.finished() for one in opened]
    if all(summary is not None for summary in found):
        return [summary for summary in found if summary is not None]
    with _generator(model, engine) as generator:
        facts = _facts(model, engine)
        return [
            summary or _evaluate(one, request, generator, facts, overwrite, progress)
            for one, request, summary in zip(opened, requests, found, strict=True)
        ]


def _open(
    model: EvaluatedModel, request: Request, engine: Engine, identity: dict[str, Any], out: Path
) -> OpenEvaluation:
    settings = {
        "benchmark": request.benchmark,
        "source": request.source,
        "problems": len(request.problems),
        "problems_sha256": problems_digest(list(request.problems)),
        "format": request.style,
        **asdict(request.sampling),
        "generator": engine.name,
        "dtype": engine.dtype,
        **({"batch_size": engine.batch_size} if engine.name == "hf" else {}),
        **identity,
    }
    file = RunLayout(out).evaluation(request.benchmark, model.step)
    return OpenEvaluation(file, settings, request.sampling.samples)


def _evaluate(
    opened: OpenEvaluation,
    request: Request,
    generator: Generator,
    facts: dict[str, Any],
    overwrite: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    with exclusive(opened.lock, "evaluating this benchmark"):
        if overwrite:
            opened.discard()
        opened.resume()
        for chunk in _chunks(request, generator.prompts_at_once(request.sampling)):
            _complete(opened, request, generator, chunk)
            if progress is not None:
                progress(len(opened.done), len(request.problems), request.benchmark)
        summary = {**_summary(opened), **facts}
        opened.finish([problem.id for problem in request.problems], summary)
    return {"settings": opened.settings, **summary}


def _chunks(request: Request, size: int) -> list[Sequence[Problem]]:
    """Return the problems in fixed parts, so that a resumed evaluation draws the same samples."""
    return [request.problems[start : start + size] for start in range(0, len(request.problems), size)]


def _complete(opened: OpenEvaluation, request: Request, generator: Generator, chunk: Sequence[Problem]) -> None:
    if all(problem.id in opened.done for problem in chunk):
        return
    # Each part has its own random stream, independent of the parts before it.
    named = f"{request.sampling.seed}/{request.benchmark}/{chunk[0].id}".encode()
    seed = int.from_bytes(hashlib.sha256(named).digest()[:4]) % 2**31
    completions = generator.generate([problem.prompt for problem in chunk], replace(request.sampling, seed=seed))
    for problem, drawn in zip(chunk, completions, strict=True):
        if problem.id not in opened.done:
            opened.add([asdict(row) for row in verified([problem], [drawn])])


def _summary(opened: OpenEvaluation) -> dict[str, Any]:
    rows = [row for found in opened.done.values() for row in found]
    outcomes = {problem: [bool(row["correct"]) for row in found] for problem, found in opened.done.items()}
    return {
        **scores(outcomes),
        "tokens": fmean(row["tokens"] for row in rows),
        "finished_share": fmean(row["finished"] for row in rows),
        "boxed_share": fmean(bool((last_box(row["completion"]) or "").strip()) for row in rows),
    }


def _facts(model: EvaluatedModel, engine: Engine) -> dict[str, Any]:
    import torch

    versions, _, hardware = describe_environment()
    facts = {"step": model.step, "created": now(), "versions": versions, "hardware": hardware}
    if engine.dtype == "float32":
        return facts
    lost = model.rounding(getattr(torch, engine.dtype))
    return {**facts, "update_lost_to_rounding": None if lost != lost else lost}


@contextmanager
def _generator(model: EvaluatedModel, engine: Engine) -> Iterator[Generator]:
    import torch

    dtype = getattr(torch, engine.dtype)
    if engine.name == "hf":
        device = engine.device or ("cuda" if torch.cuda.is_available() else "cpu")
        with model.loaded(dtype, device) as loaded:
            yield ModelGenerator(loaded, model.tokenizer(), batch_size=engine.batch_size)
        return
    from spectra.training.sampling.vllm import VLLMGenerator

    try:
        with (
            model.directory(dtype) as where,
            closing(VLLMGenerator(where, model.tokenizer(), dtype=engine.dtype, memory=engine.memory)) as generator,
        ):
            yield generator
    except UnsupportedMethodError as error:
        raise UnsupportedMethodError(error.what, where=error.where, hint="use --generator hf") from error
