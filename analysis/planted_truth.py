"""How often is the verdict right? Plants runs of known truth, analyses them from disk, and counts.

    python analysis/planted_truth.py --runs 1200 --seed 1000000 --report reports/planted.md

Each run is written as a real run directory and analyzed with ``spectra.analysis.analyze``, as ``spectra analyze`` does.
Run number i has the seed ``--seed`` + i and the truth number i modulo the number of truths. Runs planted near the
thresholds follow after them, and are reported by themselves: there the right verdict is a matter of convention. With
``--results FILE`` each result is kept as it comes, and a call that was stopped goes on.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spectra.analysis.synthetic import EXPECTED, TRUTHS, Truth, plant
from spectra.statistics.intervals import wilson

TUNED = "0 to 99,999, 5,000,000 to 5,001,079 and 6,000,000 to 6,000,150"
_FACTS: dict[Truth, tuple[str, float]] = {
    "principal": ("left_principal_lift", 2.0),
    "minor": ("left_minor_lift", 2.0),
    "intruder": ("intruders", 0.5),
}
_LOOKS = ("quirk", "stored", "dtype", "style", "spectrum", "steps", "every", "noise", "memory", "signed")


@dataclass(frozen=True)
class Result:
    """What was planted and what was said."""

    truth: Truth
    seed: int
    near: bool
    verdict: str
    tables_alone: str
    onset: int | None
    found: int | None
    resolution: int | None
    steps: int
    leader: str | None
    first: str | None
    facts: tuple[Truth, ...]
    summary: str
    looks: str

    @property
    def right(self) -> bool:
        """Whether the verdict is the one of the truth."""
        return self.verdict == EXPECTED[self.truth]


def judge_one(work: tuple[int, Truth, bool]) -> Result:
    """Plant one run, analyze it, and keep what is counted."""
    from spectra.analysis.analyze import analyze
    from spectra.analysis.options import Depth, Options
    from spectra.analysis.verdict.judge import judge

    seed, truth, near = work
    with tempfile.TemporaryDirectory() as name:
        run = plant(Path(name), truth, seed, near=near)
        # Of the costly tables a verdict reads the intruders only, as a fact.
        deep: Depth = "last" if truth in ("intruder", "isotropic") else "none"
        options = Options(base=str(run.base), cache=Path(name) / "cache", deep=deep, jobs=1)
        found = analyze(run.path, options)
    verdict, alone = found.verdict, judge(found.tables, {})["verdict"]
    values = {evidence["metric"]: evidence["value"] for evidence in verdict["evidence"]}
    return Result(
        truth,
        seed,
        near,
        verdict["verdict"],
        alone,
        run.onset,
        verdict["onset_step"],
        run.resolution,
        run.setting.steps,
        run.leader,
        _first(verdict["signals"]),
        tuple(fact for fact, (metric, least) in _FACTS.items() if (values.get(metric) or 0.0) >= least),
        verdict["summary"],
        ", ".join(f"{name} {_short(getattr(run.setting, name))}" for name in _LOOKS),
    )


def _first(signals: Sequence[dict[str, str]]) -> str | None:
    """Return which of entropy and reward broke first."""
    return next((signal["signal"] for signal in signals if signal["signal"] in ("entropy", "reward")), None)


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def kept(file: Path | None) -> list[Result]:
    """Return the results that an earlier call kept."""
    if file is None or not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Result(**{**row, "facts": tuple(row["facts"])}) for row in rows]


def keep(result: Result, file: Path | None) -> None:
    """Add a result to the file of those that are kept."""
    if file is not None:
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(result)) + "\n")


def prepare() -> None:
    """Make a worker process use one thread."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def share(hits: int, count: int) -> str:
    """Return a share with its interval in words."""
    if count == 0:
        return "none"
    low, high = wilson(hits / count, count)
    return f"{hits / count:.3f} ({low:.3f} to {high:.3f})"


def confusion(results: Sequence[Result]) -> list[str]:
    """Return the table of truths against verdicts."""
    given = {result.verdict for result in results}
    verdicts = [verdict for verdict in dict.fromkeys(EXPECTED.values()) if verdict in given]
    lines = [f"| planted | {' | '.join(verdicts)} | right |", "|" + "---|" * (len(verdicts) + 2)]
    for truth in TRUTHS:
        mine = [result for result in results if result.truth == truth]
        counts = Counter(result.verdict for result in mine)
        cells = [f"**{counts[v]}**" if v == EXPECTED[truth] else str(counts[v] or "·") for v in verdicts]
        lines.append(f"| {truth} | {' | '.join(cells)} | {share(counts[EXPECTED[truth]], len(mine))} |")
    return lines


def alarms(results: Sequence[Result]) -> list[str]:
    """Return the shares of healthy and null runs that got a fault that is not theirs."""
    groups = {
        "healthy runs, wherever the update lies": [r for r in results if EXPECTED[r.truth] == "healthy"],
        "of them null runs: random updates": [r for r in results if r.truth in ("null_learning", "null_unlogged")],
        "null and moving runs that do not learn": [r for r in results if EXPECTED[r.truth] == "not_learning"],
    }
    lines = ["| runs | number | false alarms |", "|---|---|---|"]
    for name, mine in groups.items():
        wrong = sum(not r.right and r.verdict != "healthy" for r in mine)
        lines.append(f"| {name} | {len(mine)} | {share(wrong, len(mine))} |")
    return lines


def recalls(results: Sequence[Result]) -> list[str]:
    """Return the recall and the precision of each verdict."""
    lines = [
        "| verdict | planted | recall | given | precision | recall of the tables alone |",
        "|---|---|---|---|---|---|",
    ]
    for verdict in dict.fromkeys(EXPECTED.values()):
        planted = [r for r in results if EXPECTED[r.truth] == verdict]
        given = [r for r in results if r.verdict == verdict]
        hits = sum(r.right for r in planted)
        precision = share(sum(r.right for r in given), len(given))
        alone = share(sum(r.tables_alone == verdict for r in planted), len(planted))
        lines.append(
            f"| {verdict} | {len(planted)} | {share(hits, len(planted))} | {len(given)} | {precision} | {alone} |"
        )
    return lines


def onsets(results: Sequence[Result]) -> list[str]:
    """Return how far the dated onsets are from the planted ones."""
    lines = [
        "| planted | dated | error, median (steps) | size of error, median | 90 % | in resolutions, median | 90 % | "
        "of the run's length, 90 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for truth in TRUTHS:
        mine = [r for r in results if r.truth == truth and r.right and r.onset is not None]
        dated = [r for r in mine if r.found is not None and r.onset is not None]
        pairs = [
            (r.found - r.onset, r.resolution, r.steps) for r in dated if r.found is not None and r.onset is not None
        ]
        if not pairs:
            continue
        errors = np.array([error for error, _, _ in pairs])
        scaled = np.array([abs(error) / (resolution or 1) for error, resolution, _ in pairs])
        lengths = np.array([abs(error) / steps for error, _, steps in pairs])
        absolute = np.abs(errors)
        lines.append(
            f"| {truth} | {len(pairs)} of {len(mine)} | {np.median(errors):+.0f} | {np.median(absolute):.0f} | "
            f"{np.quantile(absolute, 0.9):.0f} | {np.median(scaled):.1f} | {np.quantile(scaled, 0.9):.1f} | "
            f"{np.quantile(lengths, 0.9):.1%} |"
        )
    return lines


def facts(results: Sequence[Result]) -> list[str]:
    """Return how often the planted place is in the evidence, and the signal that was planted first comes first."""
    lines = ["| fact | found where it is planted | in isotropic updates |", "|---|---|---|"]
    others = [r for r in results if r.truth == "isotropic"]
    for truth, (metric, least) in _FACTS.items():
        mine = [r for r in results if r.truth == truth]
        found, elsewhere = (share(sum(truth in r.facts for r in runs), len(runs)) for runs in (mine, others))
        lines.append(f"| {truth}: `{metric}` ≥ {least:g} in the evidence | {found} | {elsewhere} |")
    lines += ["", "| first signal, where a reward collapses | right |", "|---|---|"]
    for leader in ("entropy", "reward"):
        mine = [r for r in results if r.leader == leader]
        right = sum(r.first == leader for r in mine)
        lines.append(f"| {leader} planted first, of entropy and reward | {share(right, len(mine))} |")
    return lines


def misses(results: Sequence[Result]) -> list[str]:
    """Return every run that was judged wrongly."""
    wrong = [r for r in results if not r.right]
    return [f"- {r.truth}, seed {r.seed} ({r.looks}): {r.summary}" for r in wrong] or ["None."]


def report(clear: Sequence[Result], near: Sequence[Result], command: str) -> str:
    """Return the report as Markdown."""
    seeds = f"{clear[0].seed:,} to {max(r.seed for r in [*clear, *near]):,}"
    right, count = sum(r.right for r in clear), len(clear)
    text = [
        "# Planted truth: how often the verdict is right",
        "",
        f"Made by `{command}`. {count} runs with a known truth were written to disk and analyzed from there; "
        f"{right} got the verdict of their truth, {share(right, count)}. Seeds {seeds}; thresholds and the generator "
        f"were tuned on seeds {TUNED} only. Intervals are Wilson's at 95 %.",
        "",
        BOUNDARIES,
        "## Recall and precision",
        "",
        "An analysis also asks the doctor, who looks at the files; the last column is what the tables say without.",
        "",
        *recalls(clear),
        "",
        "## False alarms",
        "",
        *alarms(clear),
        "",
        "## What was planted against what was said",
        "",
        *confusion(clear),
        "",
        "## When it began",
        "",
        "Resolution is the distance between the snapshots, or lines of the log, around the planted onset: a fault of "
        "the weights is first seen at the next snapshot.",
        "",
        *onsets(clear),
        "",
        "## Facts beside the verdict",
        "",
        *facts(clear),
        "",
        "## Every wrong verdict",
        "",
        *misses(clear),
    ]
    if near:
        text += ["", "## Near the thresholds", "", NEAR, "", *confusion(near)]
    return "\n".join(text) + "\n"


BOUNDARIES = """## What is planted, and where it ends

Looks are drawn for each run: 4, 8 or 12 matrices (square, tall, wide) of 10 to 64 rows; singular values nearly equal, a
power law, or an exponential fall; base in float32 or bfloat16; LoRA adapters or full checkpoints; our run directory or
an HF Trainer's; 40 to 240 lines of log, one every 1, 2 or 5 steps (few_lines: 6 to 15 lines, one every 5, 10 or 25); 2
to 5 snapshots, evenly or geometrically spaced; noise of the reward up to 0.08 with AR(1) memory up to 0.5; gradient
spikes; curves that are not logged; rewards of 0 and 1 or of −1 and 1. A run that learns is healthy wherever its update
lies, also where the update is a random walk. Of the runs called healthy here, four fifths have what looks like a fault
and is none: a rank of one from the start; a solved task whose entropy is gone; a reward that dips and recovers; an
update that is complete before the first snapshot.

A truth is planted only where it can be told, and these are the ends:

- A reward that rises, or falls, does so by at least 7 standard errors between its windows; a collapse leaves at most
  30 %.
- ΔW is at least 0.1 % of W, 1 % in full bfloat16 checkpoints, whose rounding is 0.2 %: 5 % there where a rank is lost,
  since under five times the rounding ΔW shows the rank of the rounding and the rule says nothing.
- Principal or minor: 65 to 95 % of the energy in the first or last tenth of the directions on both sides.
- Rank: from 4 to 8 equal directions to 96–99.5 % in one, with 6 to 10 snapshots; half of these runs lose the reward
  later.
- Diverging: a healthy update that turns exponential and ends at 1.5 to 6 times the base in operator norm; seven in ten
  lose the reward with it. (An update that is too large from the first snapshot on is dated by the log, and may be
  called a reward collapse.)
- Wrong base: an offset of at least 3 % of W, in a block of at most 15 % of the directions, with an update of at most a
  fifth of it. A doubled block of the last directions of a steep spectrum is smaller than that, and harmless. A learned
  update that fills such a block and is complete before the first snapshot cannot be told from an offset by the tables.
- Merge drift: frozen weights moved by 20 to 70 % of the update, as our trainer logs it. Foreign runs log nothing of it:
  the tables cannot tell.
- Entropy: to 0.5–5 % of its start while the reward stays below 0.85; healthy runs keep at least 25 %, unless the
  task is solved.
"""

NEAR = (
    "Rises of 2 to 5 standard errors; half of the energy in the place; one direction at 85 to 93 %; updates of 0.8 to "
    "1.5 times the base; offsets from 1.5 % beside an update as large; drift of 6 to 20 %; 6 to 20 % of the entropy "
    "left; rewards that keep 40 to 65 %. Here the thresholds are a convention; the table shows on which side they fall."
)


def main(arguments: Iterable[str] | None = None) -> int:
    """Plant, analyze, count, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1200)
    parser.add_argument("--near", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    work = [(chosen.seed + i, TRUTHS[i % len(TRUTHS)], i >= chosen.runs) for i in range(chosen.runs + chosen.near)]
    results = kept(chosen.results)
    known = {(r.seed, r.truth, r.near) for r in results}
    left = [run for run in work if run not in known]
    with multiprocessing.get_context("spawn").Pool(chosen.jobs, initializer=prepare) as pool:
        for done, result in enumerate(pool.imap(judge_one, left, chunksize=4), start=len(work) - len(left) + 1):
            results.append(result)
            keep(result, chosen.results)
            if not (result.right or result.near):
                print(*misses([result]), file=sys.stderr)
            if done % 100 == 0:
                print(f"{done}/{len(work)} runs", file=sys.stderr)
    command = f"python analysis/planted_truth.py --runs {chosen.runs} --near {chosen.near} --seed {chosen.seed}"
    text = report([r for r in results if not r.near], [r for r in results if r.near], command)
    print(text)
    if chosen.report is not None:
        chosen.report.parent.mkdir(parents=True, exist_ok=True)
        chosen.report.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
