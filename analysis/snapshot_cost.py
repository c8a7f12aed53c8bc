"""What snapshots cost: their share of a step's time, and the bytes of a full snapshot.

    python analysis/snapshot_cost.py --out runs/snapshot_cost --report reports/snapshot_cost.md

``--only times`` or ``--only sizes`` measures one of the two and leaves the other part of the report as it is.

Each run trains the embedded base by its default recipe and saves a snapshot after every other step, so that steps with
and without one alternate, and drift of the machine hits both alike. A step lasts from its beginning to the beginning of
the next. The cost is the median over neighbours of the difference, with its quartiles; beside it stands the time spent
inside ``save_snapshot`` itself. Both are given on the clock, which waits for the disk, and in processor time.
"""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import torch

from spectra.config import Document, build
from spectra.runs.layout import MODEL_UPDATE, RunLayout
from spectra.training.loop.callbacks import Callback
from spectra.training.loop.run import train
from spectra.training.loop.trainer import build_trainer
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.base import EMBEDDED, resolve_base
from spectra.weights.storage.bit_differences import DifferenceStore
from spectra.weights.storage.tensors import TensorStore

Reading = tuple[float, float]  # seconds on the clock, and of the processor


@dataclass
class Clock(Callback):
    """Measures steps and snapshots.

    Attributes
    ----------
    begins
        Reading at the beginning of each step, and at the end of the last.
    saves
        Time of each snapshot after the first.
    """

    begins: list[Reading] = field(default_factory=list)
    saves: list[Reading] = field(default_factory=list)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock."""
        self.begins.append(now())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read it once more."""
        self.begins.append(now())

    def watch(self, save: Callable[..., Path]) -> Callable[..., Path]:
        """Return the function that saves snapshots, with a clock around it."""

        def watched(*given: Any, **named: Any) -> Path:
            began = now()
            path = save(*given, **named)
            self.saves.append(since(began, now()))
            return path

        return watched


@dataclass(frozen=True)
class Cost:
    """What one run tells, on one of the two clocks, in seconds.

    Attributes
    ----------
    step
        Median of the steps without a snapshot.
    difference
        Lower quartile, median and upper quartile of a step with a snapshot less its neighbour without.
    save
        Median of the time inside ``save_snapshot``.
    pairs
        Number of neighbours.
    """

    step: float
    difference: tuple[float, float, float]
    save: float
    pairs: int


def now() -> Reading:
    """Return both clocks."""
    return time.perf_counter(), time.process_time()


def since(began: Reading, ended: Reading) -> Reading:
    """Return what passed on both clocks."""
    return ended[0] - began[0], ended[1] - began[1]


# What weights train in, and what the forward and backward pass is in.
TYPES = {
    "float32": {"dtype": "float32"},
    "float32, forward in bfloat16": {"dtype": "bfloat16"},
    "bfloat16": {"dtype": "bfloat16", "trainable_dtype": "bfloat16"},
}
RATES = (1e-6, 1e-4)


def recipe(method: str, steps: int, kind: str = "float32", rate: float | None = None) -> Recipe:
    """Return the default recipe of a method, with a snapshot after every other step and no other work beside it."""
    value = {
        "name": method,
        "model": TYPES[kind],
        "method": {"name": method},
        "optimizer": {"learning_rate": rate},
        "steps": steps,
        "snapshots": {"every": 2},
        "checkpoints": {"every": None},
        "evaluation": {"every": None},
    }
    return build(Recipe, Document(value))


def measure(recipe: Recipe, out: Path) -> Clock:
    """Train with the clock among the callbacks."""
    clock = Clock()

    def build(recipe: Recipe, policy: Any, layout: RunLayout, others: Sequence[Callback], count: int) -> Any:
        return build_trainer(recipe, policy, layout, [*others, clock], count)

    shutil.rmtree(out, ignore_errors=True)
    with (
        patch("spectra.training.loop.run.build_trainer", build),
        patch("spectra.training.loop.callbacks.save_snapshot", clock.watch(save_snapshot)),
    ):
        train(recipe, out, quiet=True)
    return clock


def cost(clock: Clock, which: int) -> Cost:
    """Return the cost on the clock (0) or in processor time (1)."""
    steps = [since(one, two)[which] for one, two in zip(clock.begins, clock.begins[1:], strict=False)]
    # The first two warm up. The snapshot of an even step counts to that step; the last one's is saved after training.
    without, with_one = steps[2:-1:2], steps[3:-1:2]
    pairs = list(zip(without, with_one, strict=False))
    low, middle, high = quantiles((two - one for one, two in pairs), n=4)
    return Cost(median(without), (low, middle, high), median(save[which] for save in clock.saves[1:]), len(pairs))


def sizes(layout: RunLayout, steps: int) -> list[tuple[int, int, int, float]]:
    """Return some steps, each with the bytes of snapshot and model, and the share of numbers that did not change."""
    base, found = TensorStore.open_model(resolve_base(EMBEDDED, None)), []
    for step in sorted({2, steps}):
        store = DifferenceStore(layout.snapshot(step) / MODEL_UPDATE, base)
        tensors = {name: store[name] for name in store}
        same = sum(int((tensor == base[name].to(tensor.dtype)).sum()) for name, tensor in tensors.items())
        whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        saved = (layout.snapshot(step) / MODEL_UPDATE).stat().st_size
        found.append((step, saved, whole, same / sum(tensor.numel() for tensor in tensors.values())))
    return found


def time_rows(name: str, clock: Clock, default_every: int) -> tuple[list[str], float]:
    """Return the rows of the table of times, and the largest share at the default schedule, in percent."""
    rows, largest = [], 0.0
    for which, kind in enumerate(("clock", "processor")):
        found = cost(clock, which)
        low, middle, high = (1e3 * value for value in found.difference)
        share = 100 * found.save / found.step
        largest = max(largest, share / default_every)
        rows.append(
            f"| {name} | {kind} | {found.pairs} | {1e3 * found.step:.0f} | {middle:.0f} ({low:.0f} to {high:.0f}) "
            f"| {1e3 * found.save:.1f} | {share:.1f} % | {share / default_every:.2f} % |"
        )
    return rows, largest


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--report", type=Path, help="write the study as markdown")
    parser.add_argument("--steps", type=int, default=106, help="of the runs whose time is measured")
    parser.add_argument("--size-steps", type=int, default=20, help="of the runs whose snapshots are weighed")
    parser.add_argument("--only", choices=("times", "sizes"), help="measure one part")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = options.report.read_text(encoding="utf-8") if options.report and options.report.exists() else ""
    times, _, weighed = before.partition(SIZES.splitlines()[0])
    if options.only != "sizes":
        times = measured_times(options.steps, options.out)
    if options.only != "times":
        weighed = measured_sizes(options.size_steps, options.out)
    if options.report is not None:
        options.report.write_text(times + SIZES.splitlines()[0] + weighed, encoding="utf-8")
    return 0


def measured_times(steps: int, out: Path) -> str:
    """Return the part of the report about time."""
    every = Recipe().snapshots.every or math.inf
    lines, shares = HEAD.splitlines(), list[float]()
    for method in ("lora", "full"):
        clock = measure(recipe(method, steps), out / method)
        rows, largest = time_rows(method, clock, int(every))
        lines, shares = lines + rows, [*shares, largest]
        print("\n".join(lines[-2:]), flush=True)
    lines += ["", f"At the default schedule snapshots take at most {max(shares):.2f} % of the time.", "", ""]
    return "\n".join(lines)


def measured_sizes(steps: int, out: Path) -> str:
    """Return the part of the report about bytes, after its first line."""
    lines = ["", *SIZES.splitlines()[1:]]
    for rate in RATES:
        for kind in TYPES:
            where = out / f"{kind}-{rate:g}".replace(", ", "-").replace(" ", "-")
            measure(recipe("full", steps, kind, rate), where)
            for step, saved, whole, same in sizes(RunLayout(where), steps):
                numbers = f"{whole:,} | {saved:,} | {100 * saved / whole:.0f} % | {100 * same:.1f} %"
                lines.append(f"| {kind} | {rate:g} | {step} | {numbers} |")
                print(lines[-1], flush=True)
    return "\n".join([*lines, ""])


HEAD = """\
# What snapshots cost

The embedded base (0.8 M parameters) at its default recipe, 32 prompts × 8 generations a step, one thread; made by
`python analysis/snapshot_cost.py`, which says how. Steps with and without a snapshot alternate in one run.
Times are medians in milliseconds; beside the difference stand its quartiles. The last two columns are the time inside
`save_snapshot` as a share of a step: with a snapshot after every step, and at the default, after every tenth.

| method | clock | pairs | step without | step with, less without | save | every step | default |
|---|---|---:|---:|---:|---:|---:|---:|"""

SIZES = """\
Bytes of a full fine-tuning snapshot, which is the difference of bits from the base, against the model's:

| weights train in | learning rate | step | model | snapshot | share | numbers as in the base |
|---|---:|---:|---:|---:|---:|---:|"""


if __name__ == "__main__":
    sys.exit(main())
