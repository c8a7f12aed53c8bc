"""Every method that spectra trains: five GRPO steps on the embedded base, then its ΔW against peft's own merge.

    python analysis/every_method.py --out runs/methods --report reports/methods.md

For each method: trainable parameters; the largest relative error of ΔW over all its matrices and vectors, against
peft's merge in float64 minus the original base; how ΔW is held; its rank bound and numerical rank; and the largest
difference of logits between the base plus that ΔW and the snapshot loaded by ``PeftModel.from_pretrained``, relative to
what training changed them by. What peft has and spectra does not train is listed with the reason.
"""

import argparse
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the oracles live with the tests, which are not installed

from spectra.config import Document, build
from spectra.errors import SpectraError
from spectra.linalg.decompositions import spectrum
from spectra.linalg.operators.basic import Dense
from spectra.runs.directory import open_run
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.training.loop.run import train
from spectra.training.methods import LEFT_OUT, METHODS, Method
from spectra.training.recipe.recipe import Recipe
from spectra.weights.initialization.find import find_initial_offset
from spectra.weights.storage.base import EMBEDDED, resolve_base
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, open_full_weights, open_updates, parameter_name
from tests import oracles

STEPS = 5
IDS = torch.arange(5, 35).reshape(3, 10)


@dataclass(frozen=True)
class Row:
    """What was measured of one method."""

    trainable: int
    modules: int
    error: float
    held: str
    bound: str
    rank: str
    logits: float


def recipe(method: Method) -> Recipe:
    """Return five small steps of a method at a rate that moves it."""
    return build(
        Recipe,
        Document(
            {
                "name": method.name,
                "method": {"name": method.name},
                "optimizer": {"learning_rate": method.learning_rate},
                "steps": STEPS,
                "prompts_per_step": 8,
                "snapshots": {"every": STEPS},
                "evaluation": {"every": None},
            }
        ),
    )


def measure(run_dir: Path) -> Row:
    """Measure a finished run."""
    run, base_dir = open_run(run_dir), resolve_base(EMBEDDED)
    snapshot, base = run.snapshots[-1], TensorStore.open_model(base_dir)
    updates = open_updates(snapshot, base, find_initial_offset(snapshot, run, base))
    weights = {name: base[name].double() for name in base}
    true = true_changes(base_dir, snapshot.path, run.initial, weights)
    found, errors, held, bounds, ranks = dict(weights), [0.0], set(), set(), set()
    for module, change in {**updates.matrices, **updates.vectors}.items():
        name = parameter_name(module, base.files) or module
        delta: Any = change(weights[name])
        if module in updates.matrices:
            held.add("dense" if isinstance(delta, Dense) else "structured" if full(delta) else "factored")
            bounds.add(delta.rank_bound)
            ranks.add(spectrum.numerical_rank(delta.svdvals(), *delta.shape))
            delta = delta.dense()
        found[name] = weights[name] + delta
        size = float(torch.linalg.vector_norm(true.get(name, torch.zeros_like(delta))))
        error = float(torch.linalg.vector_norm(delta - true.get(name, torch.zeros_like(delta))))
        errors.append(error / size if size > 0 else float(error > 1e-12))
    missed = [name for name, change in true.items() if name not in touched(updates, base) and float(change.norm()) > 0]
    if missed:
        raise AssertionError(f"{missed[0]} changed and is not in the tables")
    manifest = Manifest.read(RunLayout(run_dir).manifest)
    return Row(
        trainable=sum(map(prod, manifest.trainable.values())),
        modules=len(updates.matrices) + len(updates.vectors),
        error=max(errors),
        held=" and ".join(sorted(held)) or "vectors",
        bound=span(bounds),
        rank=span(ranks),
        logits=logit_difference(base_dir, snapshot.path, found),
    )


def full(operator: Any) -> bool:
    """Return whether an operator's structure does not bound its rank."""
    return bool(operator.rank_bound >= min(operator.shape))


def span(values: set[int]) -> str:
    """Return one number, or the least and the largest."""
    return "–" if not values else "–".join(map(str, sorted({min(values), max(values)})))


def touched(updates: Updates, base: TensorStore) -> set[str]:
    """Return the base parameters that the update names."""
    return {parameter_name(m, base.files) or m for m in (*updates.matrices, *updates.vectors)}


def true_changes(base: Path, path: Path, initial: Path | None, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what peft's merge in float64 changes, by parameter; for full fine-tuning, what the checkpoint says."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = path / "adapter_config.json"
    if not config.exists():
        new = open_full_weights(path, TensorStore.open_model(base))
        return {name: new[name].double() - weights[name] for name in weights}
    if any(f'"init_lora_weights": "{name}' in config.read_text() for name in oracles.MOVES_BASE):
        deltas = oracles.merged_minus_base_float64(base, path, initial)
        return {f"{module}.weight": torch.from_numpy(delta) for module, delta in deltas.items()}
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(path)).double()
    merged = model.merge_and_unload().state_dict()
    return {name: merged[name] - weights[name] for name in weights}


def logit_difference(base: Path, path: Path, found: dict[str, torch.Tensor]) -> float:
    """Return how far the base plus ΔW is from the reloaded snapshot, in units of what training did to the logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = model.double().eval()(IDS).logits
        return out

    plain = logits(AutoModelForCausalLM.from_pretrained(base))
    moved = AutoModelForCausalLM.from_pretrained(base).double()
    moved.load_state_dict(found)
    if (path / "adapter_config.json").exists():
        reloaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(path))
    else:
        reloaded = AutoModelForCausalLM.from_pretrained(base)
        reloaded.load_state_dict(dict(open_full_weights(path, TensorStore.open_model(base))))
    there = logits(reloaded)
    return float((logits(moved) - there).abs().max() / (there - plain).abs().max())


def line(method: Method, out: Path) -> str:
    """Train one method if it is not there yet, measure it, and return its row."""
    head = f"| {method.name} | {method.facts.peft_type or '–'} |"
    if method.needs is not None and find_spec(method.needs[0]) is None:
        return f"{head} needs {method.needs[1]}, which is not installed | | | | | |"
    try:
        row = measure(train(recipe(method), out / method.name, quiet=True))
    except SpectraError as error:
        return f"{head} {error.what} | | | | | |"
    numbers = f"{row.trainable:,} | {row.modules} | {row.error:.1e} | {row.held} | {row.bound} ({row.rank})"
    return f"{head} {numbers} | {row.logits:.1e} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every method, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--report", type=Path, help="write the table as markdown")
    parser.add_argument("--only", nargs="*", help="some methods only")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = [
        "# Every method: trained, read, reloaded",
        "",
        f"{STEPS} GRPO steps (8 prompts × 8 generations) on the embedded base, each at its defaults; ΔW against",
        "peft's merge in float64 minus the original base. `python analysis/every_method.py --out runs/methods --report",
        "reports/methods.md` made it and says what the columns are.",
        "",
        "| method | peft type | trainable | matrices, vectors | ΔW error | held | rank bound (found) | logits |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for method in METHODS:
        if options.only and method.name not in options.only:
            continue
        lines.append(line(method, options.out))
        print(lines[-1], flush=True)
        shutil.rmtree(options.out / method.name / "checkpoints", ignore_errors=True)
    lines += ["", "## Not trained, with the reason", "", "| what | reason |", "|---|---|"]
    lines += [f"| {name} | {reason} |" for name, reason in LEFT_OUT.items()]
    if options.report is not None:
        options.report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
