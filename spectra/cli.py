"""The command line: typer commands that open, call one function of ``spectra.commands``, and print.

Nothing heavy is imported at module level: ``spectra --help`` needs no torch.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from spectra import __version__
from spectra.errors import SpectraError

if TYPE_CHECKING:
    from spectra.analysis.analyze import Analysis, Options

app = typer.Typer(
    name="spectra",
    help="What did fine-tuning do to the weights, and is it healthy?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directory, adapter, or full checkpoint.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or what `analyze --out` wrote.")]
Base = Annotated[str | None, typer.Option(help="Base model: directory or hub id. Default: what the run names.")]
Initial = Annotated[
    Path | None,
    typer.Option(help="Step-0 adapter or residual base of PiSSA and relatives, where the run does not hold it."),
]
Out = Annotated[Path | None, typer.Option(help="Where results go.")]
Jobs = Annotated[int | None, typer.Option(help="Processes. Default: as many cores as the work is worth.")]
Device = Annotated[str, typer.Option(help="Torch device of the arithmetic, such as cpu or cuda.")]
Engine = Annotated[str, typer.Option(help="local or ray.")]
Deep = Annotated[
    str, typer.Option(help="Snapshots that get the costly tables (drift, coordinates, nulls): auto, all, last or none.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train by RLVR, and analyse what it did to the weights."""
    if debug:
        os.environ["SPECTRA_DEBUG"] = "1"
    if version:
        print(f"spectra {__version__}")
        raise typer.Exit


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change a value.")] = None,
    out: Out = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again where a run is.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train one run by RLVR under one method; called again, it resumes."""
    from spectra.commands.train import outcome
    from spectra.commands.train import train as command

    run = command(recipe, overrides=overrides or [], out=out, overwrite=overwrite, quiet=quiet or as_json)
    if os.environ.get("RANK", "0") != "0":  # of several processes that a launcher started, the first one speaks
        return
    if as_json:
        _say_json(outcome(run), as_json)
    else:
        _say(f"run: {run}", quiet)


@app.command()
def analyze(
    runs: Runs,
    base: Base = None,
    initial: Initial = None,
    out: Out = None,
    jobs: Jobs = None,
    device: Device = "cpu",
    engine: Engine = "local",
    deep: Deep = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write tables, verdict, figures and report of each run; called again, it reuses what is there."""
    from spectra.analysis.pipeline.depth import as_depth
    from spectra.commands.analyze import analyze as command
    from spectra.commands.compare import name_runs

    results: list[dict[str, Any]] = []
    faults: list[SpectraError] = []
    for name, run in name_runs(runs).items():
        # Several runs under one --out each get a directory of their own there.
        where = out if out is None or len(runs) == 1 else out / name
        options = replace(_options(base, where, jobs, device, engine), initial=initial, deep=as_depth(deep))
        try:
            with _progress(quiet or as_json) as progress:
                done = command(run, options, progress=progress)
        except SpectraError as error:  # the others are analysed all the same
            faults.append(error)
            continue
        results.append({"run": str(run), "report": str(done.where.report_html), **done.verdict})
        _say_analysis(run, done, quiet or as_json)
    if results:
        _say_json(results if len(runs) > 1 else results[0], as_json)
    for fault in faults[:-1]:
        print(f"spectra: {fault}", file=sys.stderr)
    if faults:
        raise faults[-1]


@app.command()
def compare(
    runs: Runs,
    out: Out = None,
    base: Base = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: accuracy against trainable share, spectra overlaid, paired statistics."""
    from spectra.commands.compare import compare as command

    done = command(runs, out=out, options=_options(base, None, jobs, "cpu", "local"))
    if as_json:
        _say_json(_records(done.runs), as_json)
    else:
        _print_comparison(done.runs, quiet)
        _say(f"report: {done.report}", quiet)


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    out: Out = None,
    workers: Annotated[int | None, typer.Option(help="Runs at once. Default: what the study says.")] = None,
    overwrite: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Start this run again. May be repeated.")
    ] = None,
    engine: Engine = "local",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a grid of runs, then compare them; called again, it finishes what is not finished."""
    from spectra.commands.study import study as command

    done = command(recipe, out=out, workers=workers, overwrite=overwrite or (), quiet=quiet or as_json)
    found: dict[str, Any] = {"runs": [], "report": None, "failed": dict(done.faults)}
    try:
        if done.finished:
            found |= _show_study(done.finished, _options(None, None, workers, "cpu", engine), quiet or as_json)
    except SpectraError as error:
        if done.error is None:
            raise
        print(f"spectra: {error}", file=sys.stderr)
    _say_json(found, as_json)
    if done.error is not None:
        raise done.error


@app.command()
def figures(run: Run, quiet: Quiet = False) -> None:
    """Draw the figures of an analysed run again."""
    from spectra.commands.draw import figures as command

    for path in command(run):
        _say(str(path), quiet)


@app.command()
def report(run: Run, quiet: Quiet = False) -> None:
    """Write the report page of an analysed run again."""
    from spectra.commands.draw import report as command

    _say(str(command(run)[0]), quiet)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, adapter, or full checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the adapter; new or empty.")],
    step: Annotated[int | None, typer.Option(help="Snapshot to export. Default: the last.")] = None,
    rank: Annotated[int | None, typer.Option(help="At most this rank a matrix. Default: all of ΔW.")] = None,
    energy: Annotated[float | None, typer.Option(help="Smallest rank that holds this share of ‖ΔW‖².")] = None,
    base: Base = None,
    initial: Initial = None,
    whole: Annotated[bool, typer.Option("--model", help="Write the whole model in float32 instead.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a snapshot as a plain LoRA adapter on the original base, or as a whole model."""
    from spectra.commands.export import export as command
    from spectra.commands.export import export_model
    from spectra.errors import UsageError

    if whole:
        if rank is not None or energy is not None:
            raise UsageError("--rank and --energy do not go with --model", cure="leave them out")
        model = export_model(run, out, step=step, base=base, initial=initial)
        _say_json({"path": str(model)}, as_json)
        _say(f"model: {model}", quiet or as_json)
        return
    done = command(run, out, step=step, rank=rank, energy=energy, base=base, initial=initial)
    _say_json({**asdict(done), "lost": done.lost}, as_json)
    _say(done.describe(), quiet or as_json)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Explain one method.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what spectra trains, with each method's ΔW."""
    from spectra.commands.methods import methods as command

    found = command(name)
    if as_json:
        _say_json(found if name is None else found[0], as_json)
    elif name is None:
        _print_table([{**row, "ΔW": row["update"]} for row in found], ("name", "title", "trains", "ΔW", "source"))
    else:
        for key, value in found[0].items():
            print(f"{key}: {value}")


@app.command(name="eval")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, adapter, or full checkpoint.")],
    benchmark: Annotated[
        list[str] | None, typer.Option(help="aime24 …, study (its six), or heldout (the run's own). May be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Problems of your own: a file, a directory or a hub id.")] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    prompt_column: Annotated[str, typer.Option(help="Column of --data with the problem.")] = "prompt",
    answer_column: Annotated[str, typer.Option(help="Column of --data with the gold answer.")] = "answer",
    problems: Annotated[int | None, typer.Option(help="The first so many problems.")] = None,
    step: Annotated[list[int] | None, typer.Option(help="Snapshot; the last by default. May be repeated.")] = None,
    k: Annotated[int | None, typer.Option(help="Completions a problem. Default: the benchmark's own, 32 or 4.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Mass that is sampled.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 42,
    max_tokens: Annotated[int | None, typer.Option(help="Longest completion.")] = None,
    format: Annotated[str | None, typer.Option(help="Prompt format: none, boxed or think.")] = None,
    generator: Annotated[str, typer.Option(help="hf or vllm.")] = "hf",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Torch device; a GPU where there is one.")] = None,
    batch_size: Annotated[int, typer.Option(help="Completions at once.")] = 64,
    memory: Annotated[float, typer.Option(help="Share of the device's memory that vLLM takes.")] = 0.9,
    base: Base = None,
    initial: Initial = None,
    out: Out = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Evaluate again what is there.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Sample and verify answers: Avg@k and Pass@k with intervals, on the right base; called again, it goes on."""
    from spectra.commands.eval import EvalOptions
    from spectra.commands.eval import evaluate as command

    options = EvalOptions(
        benchmarks=benchmark or (),
        data=data,
        split=split,
        prompt=prompt_column,
        answer=answer_column,
        problems=problems,
        steps=step or (),
        k=k,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        max_tokens=max_tokens,
        style=cast(Any, _one_of(format, "format", ("none", "boxed", "think"))),
        generator=cast(Any, _one_of(generator, "generator", ("hf", "vllm"))),
        dtype=cast(Any, _one_of(dtype, "dtype", ("float32", "bfloat16"))),
        device=device,
        batch_size=batch_size,
        memory=memory,
        base=base,
        initial=initial,
        out=out,
        overwrite=overwrite,
    )
    with _progress(quiet or as_json, "problems of") as progress:
        done = command(run, options, progress=progress)
    if as_json:
        _say_json(done.summaries, as_json)
    elif not quiet:
        rows = done.rows()
        _print_table(rows, tuple(dict.fromkeys(key for row in rows for key in row)))


@app.command()
def metrics(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Explain one, or another tool's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every metric with its definition and what chance gives."""
    from spectra.commands.metrics import lines
    from spectra.commands.metrics import metrics as command

    found = command(name)
    if as_json:
        _say_json(found, as_json)
    elif name is None:
        _print_table(found, ("name", "table", "formula", "null"))
    else:
        for metric in found:
            print("\n".join(lines(metric)))


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Adapter, run directory, or full checkpoint.")],
    base: Base = None,
    initial: Initial = None,
    as_json: AsJson = False,
) -> None:
    """Check the bookkeeping of an adapter or a run: right base, right label, no drift. Exit code 1 on a fault."""
    from spectra.commands.doctor import doctor as command

    found = command(path, base=base, initial=initial)
    if as_json:
        _say_json(found.as_json(), as_json)
    else:
        for line in found.lines():
            print(line)
    if found.faults:
        raise typer.Exit(1)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Empty it; every entry can be made again.")] = False,
) -> None:
    """Show the cache of decomposed bases, or empty it."""
    from spectra.commands.cache import cache as command

    found = command(clear=clear)
    print(f"{found.directory}: {found.matrices} matrices, {found.size / 1e6:.1f} MB")


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 the run or data is faulty, 2 wrong usage."""
    try:
        app()
    except SpectraError as error:
        _fail(error)
    except OSError as error:  # a full disk, a directory that may not be written
        where = error.filename or "a file"
        _fail(SpectraError(error.strerror or str(error), where=where, cure="choose another --out, or make room"))


def _fail(error: SpectraError) -> NoReturn:
    if os.environ.get("SPECTRA_DEBUG"):
        raise error
    print(f"spectra: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _one_of(value: str | None, option: str, choices: tuple[str, ...]) -> str | None:
    from spectra.errors import UsageError

    if value is not None and value not in choices:
        raise UsageError(f"--{option} is {value!r}", cure=f"choose {' or '.join(choices)}")
    return value


def _options(base: str | None, out: Path | None, jobs: int | None, device: str, engine: str) -> "Options":
    from spectra.analysis.analyze import Options
    from spectra.analysis.pipeline.engine import check_device
    from spectra.errors import UsageError

    if engine not in ("local", "ray"):
        raise UsageError(f"--engine is {engine!r}", cure="choose local or ray")
    check_device(device)
    return Options(base=base, out=out, jobs=jobs, device=device, engine=cast(Any, engine))


def _show_study(runs: list[Path], options: "Options", quiet: bool) -> dict[str, Any]:
    """Analyse a study's one finished run, or compare several; return it for machines."""
    if len(runs) == 1:
        from spectra.commands.analyze import analyze

        one = analyze(runs[0], options)
        _say_analysis(runs[0], one, quiet)
        return {"runs": [{"run": str(runs[0]), **one.verdict}], "report": str(one.where.report_html)}
    from spectra.commands.compare import compare

    several = compare(runs, out=runs[0].parent, options=options)
    _print_comparison(several.runs, quiet)
    _say(f"report: {several.report}", quiet)
    return {"runs": _records(several.runs), "report": str(several.report)}


def _say_analysis(run: Path, done: "Analysis", quiet: bool) -> None:
    _say(f"{run}: {done.run.describe()}", quiet)
    _say(f"  coverage: {done.verdict['coverage']['text']}", quiet)
    for skip in done.verdict["coverage"]["skipped"]:
        _say(f"  skipped {skip['module']}: {skip['reason']}", quiet)
    for ignored in done.verdict["coverage"]["ignored"]:
        _say(f"  ignored {ignored['snapshot']}: {ignored['reason']}", quiet)
    _say(f"  {done.reuse()}", quiet)
    _say(f"  {done.verdict['summary']}", quiet)
    _say(f"  report: {done.where.report_html}", quiet)


@contextmanager
def _progress(quiet: bool, counted: str = "modules, last") -> Iterator[Callable[[int, int, str], None] | None]:
    """Give a progress bar on a terminal, and a plain line now and then in a log: so many of what, and its name."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress(counted)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(counted.split()[0].rstrip(","), total=None)
        yield lambda done, total, module: bar.update(task, completed=done, total=total, description=module)


class _PlainProgress:
    """Prints how far it is, at most every half minute: what is short says nothing before its end."""

    _PAUSE = 30.0

    def __init__(self, counted: str) -> None:
        self._counted = counted
        self._next = time.monotonic() + self._PAUSE

    def __call__(self, done: int, total: int, module: str) -> None:
        if time.monotonic() >= self._next:
            print(f"{done}/{total} {self._counted} {module}", file=sys.stderr, flush=True)
            self._next = time.monotonic() + self._PAUSE


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, flush=True)


def _say_json(value: Any, wanted: bool) -> None:
    if wanted:
        print(json.dumps(value, indent=2, allow_nan=False, default=str))


def _records(frame: Any) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], json.loads(frame.to_json(orient="records")))


def _print_comparison(frame: Any, quiet: bool) -> None:
    if not quiet:
        shown = ("run", "method", "learning_rate", "trainable_share", "accuracy_start", "accuracy_end", "relative_fro")
        _print_table(_records(frame), (*shown, "lift_left", "lift_right", "verdict"))


def _print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # A log has no width: the table then takes what it needs.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=200, highlight=False)
    console.print(table, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
