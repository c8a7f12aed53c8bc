"""What three objectives learn over three seeds, and what dynamic sampling does to groups without a gradient.

    spectra study training/paper/embedded/algorithms.yaml --out runs/algorithms
    python analysis/algorithms.py runs/algorithms --report reports/algorithms.md

Reads the metrics and evaluations of the runs; writes the report, and its figure beside it.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from spectra.figures.data.summaries import smoothing_window
from spectra.figures.style.panels import stacked, step_axis
from spectra.figures.style.style import figure_of, legend_above, run_style, save, styled
from spectra.runs.evaluations import evaluations, problem_scores
from spectra.runs.layout import AnalysisLayout, RunLayout
from spectra.runs.series import read_metrics
from spectra.statistics.intervals import seed_interval

RUN = re.compile(r"(?P<name>.+)-(?P<seed>\d+)")
WORDS = {
    "grpo": "GRPO",
    "dapo": "DAPO, dynamic sampling",
    "dapo-once": "DAPO, sampled once",
    "dr_grpo": "Dr. GRPO",
}
DRAWN = "drawn_zero_advantage"
ROUNDS = "dynamic_sampling/rounds"
_FEW = 10  # points that are marked one by one
PANELS = {
    "reward": "reward of\nprompts drawn",
    "accuracy": "held-out\naccuracy",
    "zero_advantage_share": "groups without\na gradient, learned",
}


@dataclass(frozen=True)
class Group:
    """The runs of one objective, of one seed each.

    Attributes
    ----------
    name
        In the study.
    series
        Metrics of each run, by step.
    accuracy
        Held-out accuracy of each run, by step.
    """

    name: str
    series: list[pd.DataFrame]
    accuracy: list["pd.Series[float]"]

    @property
    def words(self) -> str:
        """The objective in words."""
        return WORDS.get(self.name, self.name)


def read(study: Path) -> list[Group]:
    """Return the runs of a study whose names end in a seed, by the rest of the name."""
    groups: dict[str, Group] = {}
    for path in sorted(study.iterdir()):
        found = RUN.fullmatch(path.name)
        if found is None or not RunLayout(path).metrics.exists():
            continue
        group = groups.setdefault(found["name"], Group(found["name"], [], []))
        group.series.append(_series(path))
        group.accuracy.append(_accuracy(path))
    if not groups:
        raise SystemExit(f"{study}: holds no run; train it first: see this script's first lines")
    return [groups[name] for name in (*WORDS, *sorted(set(groups) - set(WORDS))) if name in groups]


def _series(path: Path) -> pd.DataFrame:
    series = read_metrics(RunLayout(path).metrics).set_index("step")
    own = "dynamic_sampling/zero_advantage_share"
    # Of what was drawn: without dynamic sampling that is what was learned from.
    return series.assign(**{DRAWN: series[own] if own in series else series["zero_advantage_share"]})


def _accuracy(path: Path) -> "pd.Series[float]":
    (files,) = evaluations(path).values()
    return pd.Series({step: float(problem_scores(file).mean()) for step, file in files.items()}).sort_index()


def table(groups: list[Group]) -> list[str]:
    """Return the table of results, with Student's 95 % intervals over seeds."""
    lines = [
        "| objective | seeds | accuracy at step 0 | accuracy at the end | reward, last 20 steps | "
        "rounds of sampling a step | groups without a gradient: drawn | learned from |",
        "|---|---:|---:|---|---|---:|---:|---:|",
    ]
    for group in groups:
        end = _interval([float(run.iloc[-1]) for run in group.accuracy])
        start = sum(float(run.iloc[0]) for run in group.accuracy) / len(group.accuracy)
        reward = _interval([float(run["reward"].iloc[-20:].mean()) for run in group.series])
        drawn, learned = (_mean(group, column) for column in (DRAWN, "zero_advantage_share"))
        lines.append(
            f"| {group.words} | {len(group.series)} | {start:.3f} | {end} | {reward} | "
            f"{_rounds(group)} | {drawn:.3f} | {learned:.3f} |"
        )
    return lines


def thirds(groups: list[Group]) -> list[str]:
    """Return how the share of groups without a gradient changes while the model learns."""
    lines = [
        "| objective | drawn: first third | middle | last | learned from: first third | middle | last |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for group in groups:
        cells = [
            f"{sum(_third(run[column], part) for run in group.series) / len(group.series):.3f}"
            for column in (DRAWN, "zero_advantage_share")
            for part in range(3)
        ]
        lines.append(f"| {group.words} | {' | '.join(cells)} |")
    return lines


def _third(values: "pd.Series[float]", part: int) -> float:
    size = len(values) // 3
    return float(values.iloc[part * size : (part + 1) * size].mean())


def _mean(group: Group, column: str) -> float:
    return sum(float(run[column].mean()) for run in group.series) / len(group.series)


def _rounds(group: Group) -> str:
    rounds = [run[ROUNDS] if ROUNDS in run else pd.Series(1.0, run.index) for run in group.series]
    return f"{sum(float(run.mean()) for run in rounds) / len(rounds):.2f}"


def _interval(values: list[float]) -> str:
    found = seed_interval(values)
    return f"{found.value:.3f} [{found.lo:.3f}, {found.hi:.3f}]"


def draw(groups: list[Group], path: Path) -> Path:
    """Draw mean and range over seeds of reward, accuracy and groups without a gradient, over steps."""
    with styled():
        panels = stacked(len(PANELS), 5.6)
        for ax, (column, label) in zip(panels, PANELS.items(), strict=True):
            ax.set_ylabel(label)
            for index, group in enumerate(groups):
                runs = group.accuracy if column == "accuracy" else [run[column] for run in group.series]
                _band(ax, runs, group.words, index)
        step_axis(panels[-1])
        legend_above(panels[0])
        return save(figure_of(panels[0]), path)


def _band(ax: Axes, runs: list["pd.Series[float]"], label: str, index: int) -> None:
    frame = pd.concat(runs, axis=1).dropna()
    frame = frame.rolling(smoothing_window(len(frame)), center=True, min_periods=1).mean()
    style = run_style(index)
    ax.plot(
        frame.index, frame.mean(axis=1), label=label, marker=style.marker if len(frame) < _FEW else None, **style.line
    )
    ax.fill_between(frame.index, frame.min(axis=1), frame.max(axis=1), color=style.color, alpha=0.15, linewidth=0)


def directions(study: Path) -> str:
    """Return how alike the updates of runs of one seed and of different seeds are, as a sentence."""
    found = pd.read_parquet(AnalysisLayout(study).table("pairs_summary"))
    found = found[found["metric"] == "cosine"]
    same = found["run_a"].str.rpartition("-")[2] == found["run_b"].str.rpartition("-")[2]
    alike, apart = found.loc[same, "value"], found.loc[~same, "value"]
    return (
        f"Cosine of two runs' final ΔW, mean over matrices: {alike.min():.2f} to {alike.max():.2f} for two objectives "
        f"of one seed, {apart.min():.2f} to {apart.max():.2f} for two seeds of any objective (0 by chance). Runs of "
        "one seed share their initialisation and the order of their prompts; here that decides where ΔW points, and "
        "the objective hardly does."
    )


def report(groups: list[Group], picture: str, alike: str) -> str:
    """Return the report as Markdown."""
    return "\n".join(
        [
            "# GRPO, DAPO and Dr. GRPO over three seeds",
            "",
            "Made by `spectra study training/paper/embedded/algorithms.yaml --out runs/algorithms` and "
            "`python analysis/algorithms.py runs/algorithms --report reports/algorithms.md`: LoRA r 8 on the base that "
            "ships, 60 steps of 16 prompts × 8 completions, learning rate 3e-4, 100 held-out problems × 4 samples. "
            "Intervals are Student's at 95 % over seeds.",
            "",
            *table(groups),
            "",
            "A group whose completions are all right or all wrong has no advantage and gives no gradient. Dynamic "
            "sampling replaces such groups by further prompts, up to four rounds a step. The reward is that of the "
            "prompts as they were drawn, before any was replaced.",
            "",
            f"![Learning curves]({picture})",
            "",
            "*Mean over seeds, the band from the lowest to the highest seed; reward and groups smoothed over steps.*",
            "",
            "## Groups without a gradient, as the model learns",
            "",
            *thirds(groups),
            "",
            "## Why the objectives agree here",
            "",
            _agreement(groups),
            "",
            alike,
            "",
        ]
    )


def _agreement(groups: list[Group]) -> str:
    runs = [run for group in groups for run in group.series]
    clipped = max(float(run["clip_ratio"].max()) for run in runs)
    shortest = min(float(run["completions/min_length"].min()) for run in runs)
    longest = max(float(run["completions/max_length"].max()) for run in runs)
    return (
        "Each batch of completions is used for one optimizer step, so that the probability ratio is 1 and no clip "
        f"binds (largest clipped share logged: {clipped:g}); completions have {shortest:.0f} to {longest:.0f} tokens, "
        "so that a mean over tokens, over completions, or a sum by a constant weigh them nearly alike; and AdamW takes "
        "out what is left as a common factor. Between GRPO and Dr. GRPO that leaves the division by the group's "
        "standard deviation. What separates them on long completions of uneven length cannot show on this base."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    groups = read(chosen.study)
    picture = chosen.report.parent / chosen.report.stem / "learning_curves.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(groups, picture)
    text = report(groups, picture.relative_to(chosen.report.parent).as_posix(), directions(chosen.study))
    chosen.report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
