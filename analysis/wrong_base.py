"""PiSSA and MiLoRA, evaluated on the right base and on the wrong one: what it costs, and what the doctor says.

    python analysis/wrong_base.py --out runs/wrong_base --report reports/wrong_base.md

Trains PiSSA, PiSSA with the randomised decomposition ``pissa_niter_4`` and MiLoRA on the embedded base, then evaluates
each on all held-out problems, greedily:

- on the right base: W + ΔW, ΔW = s(BA − B₀A₀) with the run's own step 0;
- as published evaluations did: the pristine base, ``PeftModel.from_pretrained``, ``merge_and_unload``, in float32 and
  in bfloat16, a random initialisation with several seeds;
- with s·BA added to the pristine base, as servers and conversion scripts do that do not know of the start.

Beside each: the weight error in ‖W‖, measured and as the doctor predicts it from the files alone. MiLoRA's adapter is
published as its authors' code saves it: A and B, and a configuration of plain LoRA.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from spectra.analysis.doctor import examine
from spectra.analysis.doctor.case import open_case
from spectra.analysis.doctor.reload import Reload, predict
from spectra.config import Document, build
from spectra.runs.directory import RunDirectory, open_run
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from spectra.statistics.intervals import wilson
from spectra.training.data.carry_addition import problems
from spectra.training.evaluation.generate import generate_and_verify
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from spectra.weights.initialization.find import find_initial_offset
from spectra.weights.readers.families.lora_options import product
from spectra.weights.storage.base import EMBEDDED, resolve_base
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates

FINDINGS = (
    "How to read it. `pissa` decomposes the base again when it is loaded, and gets the same: only loaders that do not",
    "know of it break it. `pissa_niter_4` draws anew: with the seed of the training (0) it happens to draw the same,",
    "with another seed it is another model. MiLoRA's doubled block lies in the last singular directions: what it costs",
    "in reward does not follow from its size, and stands in the accuracy column.",
    "",
)
RATES = {"pissa": 1e-4, "pissa_niter_4": 1e-4, "milora": 1e-3}
SEEDS = (0, 1, 2, 3, 4)
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One way to evaluate one adapter."""

    method: str
    way: str
    right: int
    asked: int
    measured: float
    predicted: float | None
    update: float


def recipe(init: str, steps: int) -> Recipe:
    """Return a run that begins as ``init`` says, at a rate at which it learns."""
    method, _, niter = init.partition("_niter_")
    return build(
        Recipe,
        Document(
            {
                "name": init,
                "method": {"name": method, "r": 8, "alpha": 16, "options": {"niter": int(niter)} if niter else {}},
                "optimizer": {"learning_rate": RATES[init]},
                "steps": steps,
                "snapshots": {"every": steps},
                "evaluation": {"every": None},
            }
        ),
    )


def publish(run: RunDirectory, method: str, out: Path) -> Path:
    """Write the last adapter alone, as its users would upload it; MiLoRA's is the trained half of the stacked LoRA."""
    from safetensors.torch import load_file, save_file

    last = run.snapshots[-1].path
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(last, out)
    if method == "milora":
        config = json.loads((last / ADAPTER_CONFIG).read_text())
        tensors = load_file(last / ADAPTER_WEIGHTS)
        halves = {
            name: (t[: len(t) // 2] if ".lora_A." in name else t[:, : t.shape[1] // 2]).contiguous()
            for name, t in tensors.items()
        }
        save_file(halves, out / ADAPTER_WEIGHTS, {"format": "pt"})
        config |= {"r": config["r"] // 2, "lora_alpha": config["lora_alpha"] / 2}
        (out / ADAPTER_CONFIG).write_text(json.dumps(config))
    return out


def trained_weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    """Return W + ΔW of every changed matrix, in float64."""
    base = TensorStore.open_model(resolve_base(EMBEDDED))
    snapshot = run.snapshots[-1]
    updates = open_updates(snapshot, base, find_initial_offset(snapshot, run, base)).matrices
    weights = {module: base[f"{module}.weight"].double() for module in updates}
    return {module: weight + updates[module](weight).dense() for module, weight in weights.items()}


def fresh(dtype: torch.dtype) -> Any:
    """Return the pristine base."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(resolve_base(EMBEDDED), dtype=dtype)


def with_weights(weights: Weights) -> Any:
    """Return the base with some weights replaced."""
    model = fresh(torch.float32)
    state = model.state_dict()
    state |= {f"{module}.weight": weight.float() for module, weight in weights.items()}
    model.load_state_dict(state)
    return model


def loaded_by_peft(adapter: Path, dtype: torch.dtype, seed: int) -> Any:
    """Return the pristine base with the adapter merged, as a published evaluation does it."""
    from peft import PeftModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PeftModel.from_pretrained(fresh(dtype), adapter).merge_and_unload()


def added(adapter: Path) -> Any:
    """Return the pristine base plus s·BA, as a server that knows nothing of the start does it."""
    case = open_case(adapter)
    if case.adapter is None or case.base is None:
        raise RuntimeError(f"{adapter} cannot be opened")
    weights = {module: case.weight(module).double() for module in case.matrices}
    moved = {m: weight + product(case.adapter, m, weight).dense() for m, weight in weights.items()}
    return with_weights(moved)


def score(model: Any) -> tuple[int, int]:
    """Return how many of all held-out problems the model solves greedily, and how many there are."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_base(EMBEDDED), padding_side="left")
    asked = problems("eval")
    rows = generate_and_verify(model.float(), tokenizer, asked, samples=1, temperature=0.0, max_new_tokens=8, seed=0)
    return sum(row.correct for row in rows), len(rows)


def weight_error(model: Any, trained: Weights) -> float:
    """Return the median over matrices of ‖evaluated − trained‖/‖W‖."""
    state, base = model.state_dict(), TensorStore.open_model(resolve_base(EMBEDDED))
    norms = {m: torch.linalg.vector_norm(base[f"{m}.weight"].double()) for m in trained}
    return median(
        float(torch.linalg.vector_norm(state[f"{m}.weight"].double() - weight) / norms[m])
        for m, weight in trained.items()
    )


def update_size(trained: Weights) -> float:
    """Return the median over matrices of ‖ΔW‖/‖W‖."""
    base = TensorStore.open_model(resolve_base(EMBEDDED))
    weights = {m: base[f"{m}.weight"].double() for m in trained}
    return median(float((trained[m] - weight).norm() / weight.norm()) for m, weight in weights.items())


def evaluate(method: str, run: RunDirectory, adapter: Path) -> tuple[list[Row], Any]:
    """Return a row for each way to evaluate one method, and the wrongly merged model."""
    trained = trained_weights(run)
    foreseen = list(predict(open_case(adapter), method))
    size = update_size(trained)
    rows = []

    def row(way: str, model: Any, predicted: float | None) -> None:
        error = weight_error(model, trained)
        rows.append(Row(method, way, *score(model), error, predicted, size))
        print(rows[-1], flush=True)

    row("right base: W + ΔW", with_weights(trained), None)
    random = method == "pissa_niter_4"
    wrong = None
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        for seed in SEEDS if random else SEEDS[:1]:
            wrong = loaded_by_peft(adapter, dtype, seed)
            way = f"from_pretrained on W, {name}" + (f", seed {seed}" if random else "")
            row(way, wrong, _typical(foreseen, "peft" if dtype == torch.float32 else "half"))
    row("s·BA added to W", added(adapter), _typical(foreseen, "added"))
    return rows, wrong if random or method == "milora" else added(adapter)


def _typical(foreseen: Sequence[Reload], what: str) -> float:
    return median(getattr(one, what) for one in foreseen)


def page(rows: Sequence[Row], said: Mapping[str, list[str]], base_score: tuple[int, int], steps: int) -> str:
    """Return the report."""
    low, high = wilson(base_score[0] / base_score[1], base_score[1])
    lines = [
        "# An adapter on the wrong base",
        "",
        "Made by `python analysis/wrong_base.py --out runs/wrong_base --report reports/wrong_base.md`.",
        "",
        f"PiSSA, its randomised variant and MiLoRA, r = 8, α = 16, {steps} steps of GRPO on the embedded base.",
        f"Accuracy: greedy, all {base_score[1]} held-out problems, with the 95 % Wilson interval; the base has "
        f"{base_score[0] / base_score[1]:.3f} [{low:.3f}, {high:.3f}].",
        "Errors: ‖evaluated − trained‖/‖W‖, median over all adapted matrices; *predicted* is the doctor's, from the",
        "published adapter and the base alone, the median over the matrices that it looks at (12 of 28).",
        "",
        *FINDINGS,
        "",
        "| method | evaluated as | accuracy | 95 % interval | error measured | error predicted | ‖ΔW‖/‖W‖ |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for r in rows:
        low, high = wilson(r.right / r.asked, r.asked)
        predicted = "–" if r.predicted is None else f"{r.predicted:.2g}"
        lines.append(
            f"| {r.method} | {r.way} | {r.right / r.asked:.3f} | [{low:.3f}, {high:.3f}] | {r.measured:.2g} | "
            f"{predicted} | {r.update:.2g} |"
        )
    lines += ["", "## What the doctor says", ""]
    for command, output in said.items():
        lines += [f"`{command}`", "", "```", *output, "```", ""]
    return "\n".join(lines)


def examined(out: Path) -> dict[str, list[str]]:
    """Return the doctor's lines for the published adapter, the run with its merged model, and that model alone."""
    base = resolve_base(EMBEDDED)
    said = {}
    for path, given in ((out / "published", None), (out / "run", None), (out / "run" / "merged", base)):
        diagnosis = examine(path, given)
        lines = [line.replace(f"{out.parent}/", "").replace(f"{base}", "embedded") for line in diagnosis.lines()]
        command = f"spectra doctor {path.relative_to(out.parent)}" + (" --base embedded" if given else "")
        said[command] = [*lines, f"exit code {diagnosis.exit_code}, verdict {diagnosis.verdict}"]
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, examine, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    said: dict[str, list[str]] = {}
    for method in RATES:
        out = options.out / method
        run = open_run(train(recipe(method, options.steps), out / "run"))
        found, wrong = evaluate(method, run, publish(run, method, out / "published"))
        wrong.to(torch.bfloat16).save_pretrained(out / "run" / "merged")
        rows += found
        said |= examined(out)
    text = page(rows, said, score(fresh(torch.float32)), options.steps)
    print(text)
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
