"""What an analysis costs beside the published computation: whole processes in turn, on one machine, in one run.

    python analysis/performance.py --out runs/performance --report reports/performance.md

``--models tiny smollm2`` chooses the shapes, ``--snapshots 1 16`` how many, ``--layers`` cuts the model short, and
``--rounds`` repeats: medians are reported. Runs are synthetic, in the layout that TRL writes: a base with a decaying
spectrum, and adapters that random steps moved. The published computation is :mod:`analysis.published`: both sides must
give the same shares before their times count.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from safetensors.torch import save_file

from spectra.runs.layout import AnalysisLayout

HERE = Path(__file__).parent
FRACTION = 0.5

# Float32 against float64: a share of the published computation is good to this.
_AGREES = 2e-3


@dataclass(frozen=True)
class Model:
    """The shapes of a model.

    Attributes
    ----------
    width, keys, inner
        Features of the stream, of keys and values together, and inside the MLP.
    layers
        Number of layers.
    vocabulary
        Rows of the embedding.
    """

    width: int
    keys: int
    inner: int
    layers: int
    vocabulary: int

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return the shape of each matrix of a layer."""
        width, keys, inner = self.width, self.keys, self.inner
        return {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }


MODELS: Mapping[str, Model] = {
    "tiny": Model(64, 32, 160, 2, 512),
    "embedded": Model(128, 64, 320, 4, 96),
    "smollm2": Model(576, 192, 1536, 30, 49152),
}


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Attributes
    ----------
    cpu, wall
        Seconds of processors, and on the clock.
    memory
        Peak resident MiB.
    """

    cpu: float
    wall: float
    memory: float


def write_base(directory: Path, model: Model, generator: torch.Generator) -> None:
    """Write a base in bfloat16 whose matrices have a spectrum that falls by a power law above noise."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": model.width}))
    tensors = {"model.embed_tokens.weight": torch.randn(model.vocabulary, model.width, generator=generator) * 0.02}
    for layer in range(model.layers):
        for name, (rows, columns) in model.matrices().items():
            count = min(rows, columns)
            falling = torch.logspace(0, -1.5, count)[:, None] * torch.randn(count, columns, generator=generator)
            weight = torch.randn(rows, count, generator=generator) @ falling / count**0.5
            noise = 0.3 * torch.randn(rows, columns, generator=generator)
            tensors[f"model.layers.{layer}.{name}.weight"] = 0.05 * (weight + noise)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = torch.ones(model.width)
    tensors["model.norm.weight"] = torch.ones(model.width)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, directory / "model.safetensors")


def write_run(directory: Path, base: Path, model: Model, rank: int, steps: int, generator: torch.Generator) -> None:
    """Write a LoRA run in TRL's layout: ``steps`` checkpoints, five steps apart."""
    shapes = {f"model.layers.{at}.{name}": s for at in range(model.layers) for name, s in model.matrices().items()}
    a = {name: torch.rand(rank, columns, generator=generator) * 2 - 1 for name, (_, columns) in shapes.items()}
    a = {name: factor / factor.shape[1] ** 0.5 for name, factor in a.items()}
    b = {name: torch.zeros(rows, rank) for name, (rows, _) in shapes.items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base.resolve()),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in shapes}),
    }
    for step in range(5, 5 * steps + 1, 5):
        checkpoint = directory / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        for name in shapes:
            b[name] = b[name] + 2e-4 * torch.randn(b[name].shape, generator=generator)
            a[name] = a[name] + 1e-5 * torch.randn(a[name].shape, generator=generator)
        tensors = {f"base_model.model.{name}.lora_A.weight": factor for name, factor in a.items()}
        tensors |= {f"base_model.model.{name}.lora_B.weight": factor for name, factor in b.items()}
        save_file(tensors, checkpoint / "adapter_model.safetensors")
        (checkpoint / "adapter_config.json").write_text(json.dumps(config))
        history = [{"step": at, "reward": 0.1 + 0.005 * at, "entropy": 1 - 0.002 * at} for at in range(1, step + 1)]
        state = {"global_step": step, "log_history": history}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))


def process(command: Sequence[str], log: Path, cache: Path | None = None) -> Cost:
    """Run a command on one thread and return what it took.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it printed.
    """
    environment = os.environ | {
        "SPECTRA_CACHE": str((cache or log.parent / "unused").resolve()),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    code = (
        "import json, os, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[2:], stdout=open(sys.argv[1], 'w'), stderr=subprocess.STDOUT)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "wall = time.perf_counter() - began\n"
        "print(json.dumps([done.returncode, used.ru_utime + used.ru_stime, wall, used.ru_maxrss]))"
    )
    # A process between, so that the usage of its children is that of this one command.
    made = subprocess.run(
        [sys.executable, "-c", code, str(log), *command], capture_output=True, text=True, check=True, env=environment
    )
    status, cpu, wall, memory = json.loads(made.stdout)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]}")
    return Cost(cpu, wall, memory / 1024)


def agree(published: Path, directory: Path) -> float:
    """Return the largest difference between the shares of both sides.

    Raises
    ------
    RuntimeError
        If it is more than float32 explains, or one side has matrices that the other has not.
    """
    theirs = json.loads(published.read_text(encoding="utf-8"))
    projection = pd.read_parquet(AnalysisLayout(directory).table("projection"))
    chosen = projection[(projection["subspace"] == "principal") & (projection["fraction"] == FRACTION)]
    ours = chosen.set_index(["step", "module", "side"])["share"]
    pairs = [
        (value, float(ours[int(step), module, side]))
        for step, modules in theirs.items()
        for module, found in modules.items()
        for side, value in found.items()
        if side in ("left", "right")
    ]
    if len(pairs) * 3 != len(ours) * 2:  # a joint share stands beside each two
        raise RuntimeError(f"{len(pairs)} published shares, {len(ours)} of ours")
    worst = max(abs(one - other) for one, other in pairs)
    if worst > _AGREES:
        raise RuntimeError(f"shares differ by {worst:.1e}")
    return worst


@dataclass(frozen=True)
class Case:
    """One way to run the analysis.

    Attributes
    ----------
    name
        What the report calls it.
    cache, tables
        Whether decomposed bases, and the tables of the same run, are kept from before.
    options
        Further arguments of ``spectra analyze``.
    """

    name: str
    cache: bool
    tables: bool
    options: tuple[str, ...] = ()


CASES = (
    Case("cold", cache=False, tables=False),
    Case("warm base", cache=True, tables=False),
    Case("all reused", cache=True, tables=True),
    Case("warm base, --deep none", cache=True, tables=False, options=("--deep", "none")),
)


def ours(case: Case, run: Path, out: Path) -> Cost:
    """Run ``spectra analyze`` in one case."""
    if not case.cache:
        shutil.rmtree(out / "cache", ignore_errors=True)
    if not case.tables:
        shutil.rmtree(out / "analysis", ignore_errors=True)
    arguments = ["analyze", str(run), "--out", str(out / "analysis"), "--jobs", "1", "--quiet", *case.options]
    return process([sys.executable, "-m", "spectra", *arguments], out / "log.txt", cache=out / "cache")


def compared(run: Path, base: Path, out: Path, rounds: int) -> list[str]:
    """Return the rows of one run's table: both sides in turn, each case by its medians."""
    published = [sys.executable, str(HERE / "published.py"), str(base), str(run), str(out / "published.json")]
    theirs: list[Cost] = []
    mine: dict[str, list[Cost]] = {case.name: [] for case in CASES}
    for _ in range(rounds):
        theirs.append(process(published, out / "log.txt"))
        for case in CASES:
            mine[case.name].append(ours(case, run, out))
            worst = agree(out / "published.json", out / "analysis")
    cpu = median(cost.cpu for cost in theirs)
    rows = [
        _row(f"{run.name}: published", theirs, ""),
        *(
            _row(f"{run.name}: {name}", costs, f"{cpu / median(cost.cpu for cost in costs):.1f} ×")
            for name, costs in mine.items()
        ),
    ]
    print("\n".join(rows), f"\nshares agree to {worst:.1e}", flush=True)
    return rows


def _row(name: str, costs: Sequence[Cost], ratio: str) -> str:
    cpu, wall, memory = (median(getattr(cost, part) for cost in costs) for part in ("cpu", "wall", "memory"))
    return f"| {name} | {cpu:.1f} | {wall:.1f} | {memory:.0f} | {ratio} |"


def budget(run: Path, out: Path) -> list[str]:
    """Return the rows of the budget: what each phase of one cold analysis takes."""
    found = out / "phases.json"
    process([sys.executable, str(HERE / "phases.py"), str(run), str(out / "phases"), str(found)], out / "log.txt")
    phases = json.loads(found.read_text(encoding="utf-8"))
    total = sum(phases.values())
    return [f"| {name} | {cpu:.2f} | {cpu / total:.0%} |" for name, cpu in phases.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where runs and results go; emptied first")
    parser.add_argument("--report", type=Path, help="write the study as markdown")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny", "smollm2"])
    parser.add_argument("--snapshots", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--layers", type=int, help="only so many layers of each model")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    shutil.rmtree(options.out, ignore_errors=True)
    lines = [HEAD.format(command=" ".join(["python", "analysis/performance.py", *(arguments or sys.argv[1:])]))]
    for name in options.models:
        shapes = MODELS[name]
        shapes = replace(shapes, layers=min(shapes.layers, options.layers or shapes.layers))
        generator, out = torch.Generator().manual_seed(0), options.out / name
        write_base(out / "base", shapes, generator)
        lines += ["", f"## {name}: {7 * shapes.layers} matrices, LoRA of rank {options.rank}", "", *TABLE]
        for count in options.snapshots:
            run = out / f"{count} snapshots"
            write_run(run, out / "base", shapes, options.rank, count, generator)
            lines += compared(run, out / "base", out, options.rounds)
        lines += ["", f"Where the CPU of {run.name} goes, from nothing, with everything drawn:", "", *PHASES]
        lines += budget(run, out)
    if options.report is not None:
        options.report.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return 0


HEAD = """\
# What an analysis costs

Made by `{command}`, which says how. Each line is a whole process on one thread, imports included; both sides run in
turn on the same machine, their shares agree, and the numbers are medians over the rounds. *Published* is the
computation of published scripts restated (`analysis/published.py`), without its second program and without figures;
ours is `spectra analyze` with tables, verdict, figures and report. *Cold* finds nothing, *warm base* the decomposed
base, *all reused* the tables as well. The last column is published CPU ÷ ours."""

TABLE = ("| | CPU s | wall s | peak MiB | less CPU |", "|---|---:|---:|---:|---:|")

PHASES = ("| phase | CPU s | share |", "|---|---:|---:|")


if __name__ == "__main__":
    sys.exit(main())
