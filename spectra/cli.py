"""The command line: typer commands that open, call one function of ``spectra.commands``, and print.

Nothing heavy is imported at module level: ``spectra --help`` needs no torch.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from spectra import __version__
from spectra.analysis.options import Depth, EngineName, Options
from spectra.commands.drawing_record import Figures as FiguresName
from spectra.commands.eval import EvalOptions
from spectra.commands.options import Base, Origin, Out, fields_are_options
from spectra.commands.output import AsJson, Output, Quiet
from spectra.errors import SpectraError, UsageError

if TYPE_CHECKING:
    import pandas as pd

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
Figures = Annotated[
    FiguresName, typer.Option(help="Draw nothing, the report with its figures, or also a PDF of every figure.")
]
Deep = Annotated[Depth, typer.Option(help="Snapshots with the expensive tables (drift, coordinates, nulls).")]


@dataclass(frozen=True)
class Execution:
    """What computes an analysis."""

    jobs: Jobs = None
    device: Device = "cpu"
    engine: Engine = "local"


@dataclass
class Settings:
    """What the options before a command decide.

    Attributes
    ----------
    debug
        Show the traceback of an error.
    """

    debug: bool = False


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
) -> None:
    """Train language models by RLVR and analyze what training did to the weights."""
    context.ensure_object(Settings).debug = debug
    if version:
        print(f"spectra {__version__}")
        raise typer.Exit


@app.command()
@fields_are_options
def train(
    *,
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
    output: Output,
) -> None:
    """Train one run with one method. Running the command again resumes."""
    from spectra.commands.train import outcome, reports
    from spectra.commands.train import train as command

    run = command(recipe, overrides=overrides or [], out=out, overwrite=overwrite, quiet=output.is_silent)
    if not reports():  # only rank 0 of a multi-process launch prints
        return
    output.lines(f"run: {run}")
    if output.as_json:
        output.json(outcome(run))


@app.command()
@fields_are_options
def analyze(
    *,
    runs: Runs,
    origin: Origin,
    out: Out = None,
    execution: Execution,
    deep: Deep = "auto",
    figures: Figures = "all",
    output: Output,
) -> None:
    """Write tables, verdict, figures and report of each run. Running the command again reuses finished work."""
    from spectra.commands.analyze import draw_analysis, measure
    from spectra.commands.compare import name_runs

    results: list[dict[str, Any]] = []
    faults: list[SpectraError] = []
    for name, run in name_runs(runs).items():
        # Several runs under one --out each get a directory of their own there.
        where = out if out is None or len(runs) == 1 else out / name
        options = replace(_options(origin.base, where, execution), initial=origin.initial, deep=deep)
        try:
            with output.progress() as progress:
                done = measure(run, options, progress)
            _describe(run, done, output)
            page = draw_analysis(done, figures)
        except SpectraError as error:  # continue with the other runs
            faults.append(error)
            continue
        results.append({"run": str(run), "report": page and str(page), **done.verdict})
        output.lines(*_report(page, "  "))
    if results:
        output.json(results if len(runs) > 1 else results[0])
    for fault in faults[:-1]:
        print(f"spectra: {fault}", file=sys.stderr)
    if faults:
        raise faults[-1]


@app.command()
@fields_are_options
def compare(
    *,
    runs: Runs,
    out: Annotated[Path | None, typer.Option(help="Output directory (default: `comparison` next to the runs).")] = None,
    base: Base = None,
    jobs: Jobs = None,
    figures: Figures = "all",
    output: Output,
) -> None:
    """Compare runs: accuracy against trainable fraction, overlaid spectra, paired statistics."""
    from spectra.commands.compare import compare as command

    options = _options(base, None, Execution(jobs))
    done = command(
        runs, out=out, options=options, figures=figures, announce=lambda found: _describe_comparison(found, output)
    )
    output.lines(*_report(done.report))
    output.json(_records(done.runs))


@app.command()
@fields_are_options
def study(
    *,
    recipe: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study: a grid of recipes.")],
    out: Annotated[Path | None, typer.Option(help="Study directory (default: runs/<study name>).")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of runs at the same time (default: set in the study).")
    ] = None,
    overwrite: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Delete this run and start it over. Repeatable.")
    ] = None,
    engine: Engine = "local",
    figures: Figures = "all",
    output: Output,
) -> None:
    """Train a grid of runs, then compare them. Running the command again trains only unfinished runs."""
    from spectra.commands.study import study as command

    done = command(recipe, out=out, workers=workers, overwrite=overwrite or (), quiet=output.is_silent)
    found: dict[str, Any] = {"runs": [], "report": None, "failed": dict(done.faults)}
    try:
        if done.finished:
            options = _options(None, None, Execution(workers, engine=engine))
            found |= _show_study(done.finished, options, figures, output)
    except SpectraError as error:
        if done.error is None:
            raise
        print(f"spectra: {error}", file=sys.stderr)
    output.json(found)
    if done.error is not None:
        raise done.error


@app.command()
def figures(run: Run, quiet: Quiet = False) -> None:
    """Redraw the figures of an analyzed run from its tables."""
    from spectra.commands.draw import figures as command

    Output(quiet).lines(*map(str, command(run)))


@app.command()
def report(run: Run, quiet: Quiet = False) -> None:
    """Rewrite the report page of an analyzed run from its tables."""
    from spectra.commands.draw import report as command

    Output(quiet).lines(str(command(run)[0]))


@app.command()
@fields_are_options
def export(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, adapter or full checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output directory; must be new or empty.")],
    step: Annotated[int | None, typer.Option(help="Step of the snapshot to export (default: the last).")] = None,
    rank: Annotated[int | None, typer.Option(help="Maximum rank per matrix (default: keep all of ΔW).")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Smallest rank that keeps this fraction of ‖ΔW‖², in (0, 1].")
    ] = None,
    origin: Origin,
    whole: Annotated[
        bool, typer.Option("--model", help="Write the full model in float32 instead of an adapter.")
    ] = False,
    output: Output,
) -> None:
    """Export a snapshot as a plain LoRA adapter for the original base model, or as a full model."""
    from spectra.commands.export import export as command
    from spectra.commands.export import export_model

    if whole:
        if rank is not None or energy is not None:
            raise UsageError("--rank and --energy cannot be combined with --model", hint="omit them")
        model = export_model(run, out, step=step, base=origin.base, initial=origin.initial)
        output.json({"path": str(model)})
        output.lines(f"model: {model}")
        return
    done = command(run, out, step=step, rank=rank, energy=energy, base=origin.base, initial=origin.initial)
    output.json({**asdict(done), "lost": done.lost})
    output.lines(done.describe())


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Method to explain.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods that spectra trains, each with its ΔW."""
    from spectra.commands.methods import lines
    from spectra.commands.methods import methods as command

    output, found = Output(as_json=as_json), command(name)
    output.json(found if name is None else found[0])
    if name is None:
        output.table([{**row, "ΔW": row["update"]} for row in found], ("name", "title", "trains", "ΔW", "source"))
    else:
        output.lines(*lines(found[0]))


@app.command(name="eval")
@fields_are_options
def evaluate(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, adapter or full checkpoint.")],
    options: EvalOptions,
    output: Output,
) -> None:
    """Sample and verify answers: Avg@k and Pass@k with intervals, on the right base model. Re-running resumes."""
    from spectra.commands.eval import evaluate as command

    with output.progress("problems") as progress:
        done = command(run, options, progress=progress)
    output.json(done.summaries)
    rows = done.rows()
    output.table(rows, dict.fromkeys(key for row in rows for key in row))


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

    output, found = Output(as_json=as_json), command(name)
    output.json(found)
    if name is None:
        output.table(found, ("name", "table", "formula", "null"))
    else:
        output.lines(*(line for metric in found for line in lines(metric)))


@app.command()
@fields_are_options
def doctor(
    *,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Run directory, adapter or full checkpoint.")],
    origin: Origin,
    as_json: AsJson = False,
) -> None:
    """Check an adapter or a run: base model, method label, merge drift. Exit code 1 if a check fails."""
    from spectra.commands.doctor import doctor as command

    output, found = Output(as_json=as_json), command(path, base=origin.base, initial=origin.initial)
    output.json(found.as_json())
    output.lines(*found.lines())
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
    """Run the command line. Exit codes: 0 success, 1 faulty run or data, 2 wrong usage."""
    settings = Settings()
    try:
        code = app(standalone_mode=False, obj=settings)
    except SpectraError as error:
        _fail(error, settings)
    except typer.TyperException as error:  # an option or a value that typer does not know
        _fail(_as_usage_error(error), settings)
    except OSError as error:  # disk full, no write permission
        where = error.filename or "a file"
        fault = SpectraError(error.strerror or str(error), where=where, hint="choose another --out, or free disk space")
        _fail(fault, settings)
    sys.exit(code)


def _as_usage_error(error: typer.TyperException) -> UsageError:
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if not message:  # `spectra` alone has printed its help
        sys.exit(error.exit_code)
    return UsageError(message.rstrip("."), hint="add --help to see the usage")


def _fail(error: SpectraError, settings: Settings) -> NoReturn:
    if settings.debug:
        raise error
    print(f"spectra: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _options(base: str | None, out: Path | None, execution: Execution) -> Options:
    from spectra.analysis.pipeline.engine import check_device

    check_device(execution.device)
    return Options(base=base, out=out, jobs=execution.jobs, device=execution.device, engine=execution.engine)


def _show_study(runs: list[Path], options: Options, figures: FiguresName, output: Output) -> dict[str, Any]:
    """Analyze a study's one finished run, or compare several; return it for programs."""
    if len(runs) == 1:
        from spectra.commands.analyze import draw_analysis, measure

        one = measure(runs[0], options)
        _describe(runs[0], one, output)
        page = draw_analysis(one, figures)
        output.lines(*_report(page, "  "))
        return {"runs": [{"run": str(runs[0]), **one.verdict}], "report": page and str(page)}
    from spectra.commands.compare import compare

    several = compare(
        runs,
        out=runs[0].parent,
        options=options,
        figures=figures,
        announce=lambda found: _describe_comparison(found, output),
    )
    output.lines(*_report(several.report))
    return {"runs": _records(several.runs), "report": several.report and str(several.report)}


def _describe(run: Path, done: "Analysis", output: Output) -> None:
    coverage = done.verdict["coverage"]
    output.lines(
        f"{run}: {done.run.describe()}",
        f"  coverage: {coverage['text']}",
        *(f"  skipped {skip['module']}: {skip['reason']}" for skip in coverage["skipped"]),
        *(f"  ignored {ignored['snapshot']}: {ignored['reason']}" for ignored in coverage["ignored"]),
        f"  {done.reuse()}",
        f"  {done.verdict['summary']}",
    )


def _report(page: Path | None, indent: str = "") -> list[str]:
    """Return the line that names a page, if there is one."""
    return [] if page is None else [f"{indent}report: {page}"]


def _describe_comparison(runs: "pd.DataFrame", output: Output) -> None:
    shown = ("run", "method", "learning_rate", "trainable_share", "accuracy_start", "accuracy_end", "relative_fro")
    output.table(_records(runs), (*shown, "lift_left", "lift_right", "verdict"))


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], json.loads(frame.to_json(orient="records")))
