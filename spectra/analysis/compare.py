"""Compare runs: what each reached, paired differences on the same problems, and how their updates relate."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.analyze import Analysis
from spectra.analysis.pairs import compare_updates, summarize_pairs
from spectra.analysis.verdict.alignment_vs_chance import initial_overlap, locate, matrices_at
from spectra.runs.evaluations import evaluations, problem_scores
from spectra.statistics.intervals import Paired, paired, seed_interval, wilson


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes
    ----------
    runs
        A row is a run: method, learning rate, size, reward, accuracy with its 95 % interval, size and alignment of ΔW,
        verdict.
    differences
        A row is a pair of runs × benchmark: difference of accuracy on the same problems, its 95 % interval and z.
    pairs
        A row is a pair of runs × module: how their updates relate, :func:`spectra.analysis.pairs.pair_rows`.
    pairs_summary
        A row is a pair of runs × metric: its mean over modules with a 95 % interval over layers.
    methods
        A row is a group of runs that differ only in their seed × metric: mean with a 95 % interval over seeds.
    notes
        What could not be compared, and why.
    """

    runs: pd.DataFrame
    differences: pd.DataFrame
    pairs: pd.DataFrame
    pairs_summary: pd.DataFrame
    methods: pd.DataFrame
    notes: tuple[str, ...]


def compare(analyses: Mapping[str, Analysis], cache: Path | None = None) -> Comparison:
    """Compare analyzed runs, given by name.

    Parameters
    ----------
    analyses
        The runs.
    cache
        Directory of decomposed bases; None disables the cache.
    """
    scores = {name: _scores(analysis) for name, analysis in analyses.items()}
    common = set.intersection(*(set(found) for found in scores.values())) if scores else set()
    benchmark = min(common, default=None)  # numbers of different benchmarks never share a column
    rows = [_row(name, analysis, scores[name].get(benchmark or "")) for name, analysis in analyses.items()]
    for row in rows:
        row["benchmark"] = benchmark
    runs = pd.DataFrame(rows)
    updates = compare_updates({name: analysis.plan for name, analysis in analyses.items()}, cache)
    summary = summarize_pairs(
        updates.pairs, {name: _at_initialization(analysis) for name, analysis in analyses.items()}
    )
    over_seeds = methods(analyses, runs)
    notes = (*updates.notes, *_seed_notes(over_seeds))
    return Comparison(runs, _differences(scores), updates.pairs, summary, over_seeds, notes)


def methods(analyses: Mapping[str, Analysis], runs: pd.DataFrame) -> pd.DataFrame:
    """Return, for runs that differ only in their seed, mean and 95 % interval of each metric over seeds.

    Runs without a recipe count as replicates if method and learning rate agree.

    Parameters
    ----------
    analyses
        The runs.
    runs
        Their rows in :class:`Comparison`.

    Returns
    -------
    pd.DataFrame
        Columns: name (common prefix of the run names), method, learning_rate, metric (accuracy_end, reward_end and
        those of the summary at the last step), runs, mean, lo, hi, note. One seed has no interval, and the note says
        so; neither do several runs of one seed, which are not independent.
    """
    values = pd.concat([_run_metrics(runs, name, analysis) for name, analysis in analyses.items()])
    keys = ["method", "learning_rate", "metric"]
    rows = [
        {"name": _shared_name(group["run"]), **dict(zip(keys, key[1:], strict=True)), **_over_seeds(group)}
        for key, group in values.groupby(["recipe", *keys], sort=False, dropna=False)
    ]
    return pd.DataFrame(rows, columns=["name", *keys, "runs", "mean", "lo", "hi", "note"])


def _shared_name(names: Iterable[str]) -> str:
    """Return the common prefix of names, or all names if there is none.

    >>> _shared_name(["lora-0", "lora-1"]), _shared_name(["a", "b"])
    ('lora', 'a, b')
    """
    return os.path.commonprefix([*names]).rstrip("-_. /") or ", ".join(names)


def _apart_from_seed(analysis: Analysis) -> str:
    recipe = analysis.run.recipe()
    return json.dumps({key: value for key, value in recipe.items() if key not in ("name", "seed")}, sort_keys=True)


def _seed_notes(over_seeds: pd.DataFrame) -> list[str]:
    return [] if over_seeds["lo"].notna().any() else ["every recipe has one seed: there is no interval over seeds"]


def _run_metrics(runs: pd.DataFrame, name: str, analysis: Analysis) -> pd.DataFrame:
    row = runs[runs["run"] == name].iloc[0]
    summary = analysis.tables.summary
    last = summary[summary["step"] == analysis.tables.last_step]
    values = {metric: row[metric] for metric in ("accuracy_end", "reward_end")}
    values |= dict(zip(last["metric"], last["value"], strict=True))
    manifest = analysis.run.manifest
    # A run of unknown seed counts as a seed of its own.
    seed = f"run {name}" if manifest is None else f"seed {manifest.seed}"
    identity = {
        "run": name,
        "recipe": _apart_from_seed(analysis),
        "method": row["method"],
        "learning_rate": row["learning_rate"],
        "seed": seed,
    }
    frame = pd.DataFrame({"metric": list(values), "value": list(values.values())}).astype({"value": "float64"})
    return frame.dropna(subset="value").assign(**identity)


def _over_seeds(group: pd.DataFrame) -> dict[str, Any]:
    seeds = group["seed"].nunique()
    # Runs of one seed are repeats of one draw: their mean counts once.
    mean, lo, hi = seed_interval(group.groupby("seed")["value"].mean().tolist())
    note = "one seed" if seeds == 1 else f"{seeds} seeds"
    return {"runs": len(group), "mean": mean, "lo": lo, "hi": hi, "note": note}


def _at_initialization(analysis: Analysis) -> frozenset[str]:
    """Return the sides of the last update of a run that have not left their initial subspace."""
    tables = analysis.tables
    found = {side: initial_overlap(tables, tables.last_step, side) for side in ("left", "right")}
    return frozenset(side for side, initial in found.items() if initial is not None and initial.holds)


def _row(name: str, analysis: Analysis, scores: tuple[pd.Series, pd.Series] | None) -> dict[str, Any]:
    plan, tables = analysis.plan, analysis.tables
    matrices = matrices_at(tables, tables.last_step)
    # Vectors count only if nothing else trains: they would dilute the matrices.
    sized = tables.modules[tables.modules["step"] == tables.last_step] if matrices.empty else matrices
    rate = curves.curve(tables.series, "learning_rate")
    return {
        "run": name,
        "method": plan.method,
        "learning_rate": float(rate.max()) if len(rate) else math.nan,
        "trainable_parameters": plan.trainable_parameters,
        "trainable_share": plan.trainable_parameters / plan.total_parameters,
        "steps": tables.last_step,
        **_reward(tables.series),
        **_accuracy(scores),
        "relative_fro": float(sized["relative_fro"].median()),
        "effective_rank": float(matrices["effective_rank"].median()),
        **_lifts(analysis),
        "verdict": analysis.verdict["verdict"],
        "onset_step": analysis.verdict["onset_step"],
    }


def _reward(series: pd.DataFrame) -> dict[str, float]:
    found = curves.change(curves.curve(series, "reward"))
    start, end = (math.nan, math.nan) if found is None else (found.start, found.end)
    return {"reward_start": start, "reward_end": end}


def _accuracy(scores: tuple[pd.Series, pd.Series] | None) -> dict[str, float]:
    """Return the accuracy at the first and the last evaluation, with the interval of the last."""
    if scores is None:
        return dict.fromkeys(("accuracy_start", "accuracy_end", "accuracy_low", "accuracy_high"), math.nan)
    first, last = scores
    low, high = wilson(float(last.mean()), len(last))
    return {
        "accuracy_start": float(first.mean()),
        "accuracy_end": float(last.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
    }


def _lifts(analysis: Analysis) -> dict[str, float]:
    found = {side: locate(analysis.tables, analysis.tables.last_step, side) for side in ("left", "right")}
    lifts = {f"lift_{side}": math.nan if place is None else place.lift for side, place in found.items()}
    return lifts | {f"z_{side}": math.nan if place is None else place.z for side, place in found.items()}


def _scores(analysis: Analysis) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Return each benchmark's per-problem scores at the first and the last evaluated step."""
    return {
        benchmark: (problem_scores(files[min(files)]), problem_scores(files[max(files)]))
        for benchmark, files in sorted(evaluations(analysis.run.path).items())
    }


def _differences(scores: Mapping[str, dict[str, tuple[pd.Series, pd.Series]]]) -> pd.DataFrame:
    rows = [
        {
            "run_a": a,
            "run_b": b,
            "benchmark": benchmark,
            **paired(scores[a][benchmark][1], scores[b][benchmark][1])._asdict(),
        }
        for a, b in combinations(scores, 2)
        for benchmark in scores[a]
        if benchmark in scores[b]
    ]
    columns = ["run_a", "run_b", "benchmark", *Paired._fields]
    return pd.DataFrame(rows, columns=columns)
