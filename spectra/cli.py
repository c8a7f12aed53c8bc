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
from spectra.analysis.options import Depth, EngineName, Options
from spectra.commands.eval import EvalOptions
from spectra.commands.options import Base, Initial, Out, fields_are_options
from spectra.errors import SpectraError, UsageError

if TYPE_CHECKING:
    from spectra.analysis.analyze import Analysis

app = typer.Typer(
    name="spectra",
    help="What did fine-tuning do to the weights, and is it healthy?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directory, adapter or full checkpoint.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the --out directory of `spectra analyze`.")]
Jobs = Annotated[int | None, typer.Option(help="Number of worker processes (default: chosen from the workload).")]
Device = Annotated[str, typer.Option(help="Device to compute on, e.g. cpu or cuda.")]
Engine = Annotated[EngineName, typer.Option(help="Execution engine.")]
Deep = Annotated[Depth, typer.Option(help="Snapshots with the expensive tables (drift, coordinates, nulls).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
) -> None:
    """Train language models by RLVR and analyze what training did to the weights."""
    if debug:
        os.environ["SPECTRA_DEBUG"] = "1"
    if version:
        print(f"spectra {__version__}")
        raise typer.Exit


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="a.b=c",
            help="Override a recipe value, e.g. --set optimizer.learning_rate=3e-4. Repeatable.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (default: runs/<recipe name>).")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an existing run in --out and start over.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train one run with one method. Running the command again resumes."""
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
    """Write tables, verdict, figures and report of each run. Running the command again reuses finished work."""
    from spectra.commands.analyze import analyze as command
    from spectra.commands.compare import name_runs

    results: list[dict[str, Any]] = []
    faults: list[SpectraError] = []
    for name, run in name_runs(runs).items():
        # Several runs under one --out each get a directory of their own there.
        where = out if out is None or len(runs) == 1 else out / name
        options = replace(_options(base, where, jobs, device, engine), initial=initial, deep=deep)
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
    out: Annotated[Path | None, typer.Option(help="Output directory (default: `comparison` next to the runs).")] = None,
    base: Base = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: accuracy against trainable fraction, overlaid spectra, paired statistics."""
    from spectra.commands.compare import compare as command

    done = command(runs, out=out, options=_options(base, None, jobs, "cpu", "local"))
    if as_json:
        _say_json(_records(done.runs), as_json)
    else:
        _print_comparison(done.runs, quiet)
        _say(f"report: {done.report}", quiet)


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study: a grid of recipes.")],
    out: Annotated[Path | None, typer.Option(help="Study directory (default: runs/<study name>).")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of runs at the same time (default: set in the study).")
    ] = None,
    overwrite: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Delete this run and start it over. Repeatable.")
    ] = None,
    engine: Engine = "local",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a grid of runs, then compare them. Running the command again trains only unfinished runs."""
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
    """Redraw the figures of an analyzed run from its tables."""
    from spectra.commands.draw import figures as command

    for path in command(run):
        _say(str(path), quiet)


@app.command()
def report(run: Run, quiet: Quiet = False) -> None:
    """Rewrite the report page of an analyzed run from its tables."""
    from spectra.commands.draw import report as command

    _say(str(command(run)[0]), quiet)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, adapter or full checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output directory; must be new or empty.")],
    step: Annotated[int | None, typer.Option(help="Step of the snapshot to export (default: the last).")] = None,
    rank: Annotated[int | None, typer.Option(help="Maximum rank per matrix (default: keep all of ΔW).")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Smallest rank that keeps this fraction of ‖ΔW‖², in (0, 1].")
    ] = None,
    base: Base = None,
    initial: Initial = None,
    whole: Annotated[
        bool, typer.Option("--model", help="Write the full model in float32 instead of an adapter.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Export a snapshot as a plain LoRA adapter for the original base model, or as a full model."""
    from spectra.commands.export import export as command
    from spectra.commands.export import export_model

    if whole:
        if rank is not None or energy is not None:
            raise UsageError("--rank and --energy do not go with --model", hint="leave them out")
        model = export_model(run, out, step=step, base=base, initial=initial)
        _say_json({"path": str(model)}, as_json)
        _say(f"model: {model}", quiet or as_json)
        return
    done = command(run, out, step=step, rank=rank, energy=energy, base=base, initial=initial)
    _say_json({**asdict(done), "lost": done.lost}, as_json)
    _say(done.describe(), quiet or as_json)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Method to explain.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods that spectra trains, each with its ΔW."""
    from spectra.commands.methods import lines
    from spectra.commands.methods import methods as command

    found = command(name)
    if as_json:
        _say_json(found if name is None else found[0], as_json)
    elif name is None:
        _print_table([{**row, "ΔW": row["update"]} for row in found], ("name", "title", "trains", "ΔW", "source"))
    else:
        for line in lines(found[0]):
            print(line)


@app.command(name="eval")
@fields_are_options(EvalOptions)
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, adapter or full checkpoint.")],
    options: EvalOptions,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Sample and verify answers: Avg@k and Pass@k with intervals, on the right base model. Re-running resumes."""
    from spectra.commands.eval import evaluate as command

    with _progress(quiet or as_json, "problems") as progress:
        done = command(run, options, progress=progress)
    if as_json:
        _say_json(done.summaries, as_json)
    elif not quiet:
        rows = done.rows()
        _print_table(rows, tuple(dict.fromkeys(key for row in rows for key in row)))


@app.command()
def metrics(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Metric to explain; names used by other tools also work.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List every metric with its definition and its null value (what chance gives)."""
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
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Run directory, adapter or full checkpoint.")],
    base: Base = None,
    initial: Initial = None,
    as_json: AsJson = False,
) -> None:
    """Check an adapter or a run: base model, method label, merge drift. Exit code 1 if a check fails."""
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
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete all cached decompositions (recomputed on demand).")
    ] = False,
) -> None:
    """Show or clear the cache of decomposed base matrices."""
    from spectra.commands.cache import cache as command

    found = command(clear=clear)
    print(f"{found.directory}: {found.matrices} matrices, {found.size / 1e6:.1f} MB")


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 the run or data is faulty, 2 wrong usage."""
    try:
        code = app(standalone_mode=False)
    except SpectraError as error:
        _fail(error)
    except typer.TyperException as error:  # an option or a value that typer does not know
        _fail(_as_usage_error(error))
    except OSError as error:  # a full disk, a directory that may not be written
        where = error.filename or "a file"
        _fail(SpectraError(error.strerror or str(error), where=where, hint="choose another --out, or make room"))
    sys.exit(code)


def _as_usage_error(error: typer.TyperException) -> UsageError:
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if not message:  # `spectra` alone has printed its help
        sys.exit(error.exit_code)
    return UsageError(message.rstrip("."), hint="add --help to see the usage")


def _fail(error: SpectraError) -> NoReturn:
    if os.environ.get("SPECTRA_DEBUG"):
        raise error
    print(f"spectra: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _options(base: str | None, out: Path | None, jobs: int | None, device: str, engine: EngineName) -> Options:
    from spectra.analysis.pipeline.engine import check_device

    check_device(device)
    return Options(base=base, out=out, jobs=jobs, device=device, engine=engine)


def _show_study(runs: list[Path], options: Options, quiet: bool) -> dict[str, Any]:
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
def _progress(quiet: bool, unit: str = "modules") -> Iterator[Callable[[int, int, str], None] | None]:
    """Give a progress bar on a terminal, and a plain line now and then in a log."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress(unit)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total, module: bar.update(task, completed=done, total=total, description=module)


class _PlainProgress:
    """Prints how far it is, at most every half minute: what is short says nothing before its end."""

    _PAUSE = 30.0

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._next = time.monotonic() + self._PAUSE

    def __call__(self, done: int, total: int, module: str) -> None:
        if time.monotonic() >= self._next:
            print(f"{done}/{total} {self._unit}: {module}", file=sys.stderr, flush=True)
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
