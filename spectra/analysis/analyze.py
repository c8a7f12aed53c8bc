"""Analyze a run: plan, compute missing rows, write tables and verdict."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.analysis.doctor import bookkeeping
from spectra.analysis.options import Options as Options
from spectra.analysis.pipeline.depth import DeepSteps, deep_steps, missing_work
from spectra.analysis.pipeline.digests import FileDigests
from spectra.analysis.pipeline.engine import choose_jobs, run_tasks
from spectra.analysis.pipeline.plan import Plan, content_keys, make_plan
from spectra.analysis.pipeline.row_store import RowStore
from spectra.analysis.pipeline.tasks import TaskRunner
from spectra.analysis.tables.matrix import Work
from spectra.analysis.tables.summary import summarize
from spectra.analysis.verdict.findings import record
from spectra.analysis.verdict.judge import judge
from spectra.config import cache_dir
from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json, write_json
from spectra.runs.directory import RunDirectory
from spectra.runs.layout import AnalysisLayout
from spectra.runs.lock import exclusive
from spectra.runs.tables import SCHEMAS, Tables, conform, read_table, write_table
from spectra.weights.opened_run import OpenedRun

# A killed analysis loses at most this many seconds of finished rows.
_FLUSH_SECONDS = 15.0

# Called as progress(done, total, module) when a module is finished.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Analysis:
    """Result of an analysis, and how much of it was reused.

    Attributes
    ----------
    run
        The run as recognized.
    where
        Directory of the results.
    tables
        The tables.
    verdict
        Content of ``verdict.json``.
    facts
        Facts for the report: run, base, method, steps, versions.
    plan
        The planned work.
    rows_reused, rows_computed, rows_dropped
        Module × snapshot pairs whose rows were reused, computed, or dropped because their snapshot changed or is gone.
    bases_reused, bases_computed
        Base decompositions read from the cache, or computed.
    changed
        Whether anything in the tables differs from what was on disk.
    """

    run: RunDirectory
    where: AnalysisLayout
    tables: Tables
    verdict: dict[str, Any]
    facts: dict[str, str]
    plan: Plan
    rows_reused: int
    rows_computed: int
    rows_dropped: int
    bases_reused: int
    bases_computed: int
    changed: bool

    def reuse(self) -> str:
        """Return one line on what was reused and what was computed."""
        gone = f", {self.rows_dropped} of snapshots that changed or are gone dropped" if self.rows_dropped else ""
        return (
            f"tables: {self.rows_reused} of {self.rows_reused + self.rows_computed} module snapshots reused, "
            f"{self.rows_computed} computed{gone}; bases: {self.bases_reused} reused, {self.bases_computed} decomposed"
        )


def analyze(path: Path, options: Options | None = None, progress: Progress | None = None) -> Analysis:
    """Analyze a run directory incrementally: rows on disk for the same content are reused.

    Parameters
    ----------
    path
        A run directory: ours, an HF Trainer or TRL one, one adapter, or one full checkpoint.
    options
        How to analyze.
    progress
        Called when a module is finished.

    Raises
    ------
    SpectraError
        If the run or its base cannot be read exactly; existing results are kept.
    """
    options = options or Options()
    opened = OpenedRun.open(path, options.base, options.initial)
    where = opened.run.analysis if options.out is None else AnalysisLayout(options.out)
    plan = make_plan(opened)
    with exclusive(where.lock, "analyzing into this directory"):
        return _analyze(plan, where, options, progress)


def _analyze(plan: Plan, where: AnalysisLayout, options: Options, progress: Progress | None) -> Analysis:
    run = plan.run
    digests = FileDigests(where.digests)
    keys = content_keys(plan, digests)
    digests.save()
    deep = deep_steps(plan, options.deep)
    store = RowStore(where, keys, thrifty=deep.thrifty)
    work = missing_work(plan, store, deep)
    computed = {(step, module) for module, missing in work.items() for step in missing.steps}
    bases = _measure(plan, work, store, options, progress)
    changed = bool(work or store.dropped or store.has_parts or _stale(where, run.series()))
    tables = _finish(plan, deep, store, where) if changed else Tables.read(where)
    facts = _facts(plan)
    only_start = run.initial is not None and len(run.snapshots) == 1
    checks = bookkeeping(plan.opened)
    verdict = judge(tables, coverage(plan), checks, only_start=only_start)
    verdict |= {"checks": [record(check) for check in checks], "facts": facts}
    if changed or _written(where) != verdict:
        where.report_html.unlink(missing_ok=True)  # never keep a page with outdated numbers
        write_json(where.verdict, verdict)
    return Analysis(
        run=run,
        where=where,
        tables=tables,
        verdict=verdict,
        facts=facts,
        plan=plan,
        rows_reused=len(plan.pairs - computed),
        rows_computed=len(computed),
        rows_dropped=store.dropped,
        bases_reused=bases[0],
        bases_computed=bases[1],
        changed=changed,
    )


def coverage(plan: Plan) -> dict[str, Any]:
    """Return what was analyzed and what was not, with the reasons."""
    analyzed = len(plan.matrices)
    vectors = len({module for modules in plan.modules.values() for module in modules}) - analyzed
    total = analyzed + len(plan.skipped)
    text = f"{analyzed}/{total} matrices, {len(plan.skipped)} skipped"
    return {
        "analysed": analyzed,
        "total": total,
        "vectors": vectors,
        "skipped": [{"module": module, "reason": reason} for module, reason in sorted(plan.skipped.items())],
        "ignored": [{"snapshot": name, "reason": reason} for name, reason in sorted(plan.run.ignored.items())],
        "text": text + (f", and {vectors} vectors" if vectors else ""),
    }


def _measure(
    plan: Plan, work: Mapping[str, Work], store: RowStore, options: Options, progress: Progress | None
) -> tuple[int, int]:
    """Run the missing tasks; return how many bases were reused and decomposed."""
    runner = TaskRunner(plan.opened, plan.method, (options.cache or cache_dir()) / "bases", options.device)
    tasks = plan.tasks(work)
    results = run_tasks(runner, tasks, jobs=choose_jobs(tasks, options.jobs), engine=options.engine)
    reused = made = 0
    flushed = time.monotonic()
    try:
        for number, result in enumerate(results, start=1):
            store.add(result.rows)
            reused += result.basis_reused is True
            made += result.basis_reused is False
            if progress is not None:
                progress(number, len(tasks), result.module)
            if time.monotonic() - flushed > _FLUSH_SECONDS:
                store.flush()
                flushed = time.monotonic()
    except BaseException:
        store.flush()
        raise
    return reused, made


def _finish(plan: Plan, deep: DeepSteps, store: RowStore, where: AnalysisLayout) -> Tables:
    where.report_html.unlink(missing_ok=True)
    frames = store.finish(deep.complete(plan))
    tables = Tables(**frames, series=conform("series", plan.run.series()))
    tables = replace(tables, summary=conform("summary", summarize(tables)))
    for name in ("series", "summary"):
        write_table(tables[name], where.table(name))
    return tables


def _stale(where: AnalysisLayout, series: pd.DataFrame) -> bool:
    """Return whether a table derived from other tables or from the log is missing or outdated."""
    if not all(where.table(name).exists() for name in SCHEMAS):
        return True
    try:
        return not read_table("series", where.table("series")).equals(conform("series", series))
    except CorruptFileError:
        return True


def _written(where: AnalysisLayout) -> dict[str, Any] | None:
    """Return the verdict on disk, None if there is no readable one."""
    try:
        return read_json(where.verdict) if where.verdict.exists() else None
    except CorruptFileError:
        return None


def _facts(plan: Plan) -> dict[str, str]:
    run = plan.run
    base = run.base_name if run.base_name is not None else str(plan.base)
    facts = {"run": str(run.path), "recognized as": run.describe(), "base": base, "method": plan.method}
    if plan.opened.initialization is not None:
        facts["initialization"] = plan.opened.initialization.origin
    share = plan.trainable_parameters / plan.total_parameters
    facts["trainable"] = f"{plan.trainable_parameters:,} of {plan.total_parameters:,} parameters ({share:.2%})"
    if run.manifest is not None:
        facts |= {"algorithm": run.manifest.algorithm, "seed": str(run.manifest.seed)}
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in run.manifest.versions.items())
    return facts
