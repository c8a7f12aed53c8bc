"""What happens beside training, one concern a callback.

The trainer asks a callback for every event by name; these classes answer the events that concern them. Where several
processes train, ``Metrics`` and ``ProgressReports`` are on the main one alone, and the others on each: all take part.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from spectra.errors import DivergedError
from spectra.runs.atomic import write_text
from spectra.runs.layout import RunLayout
from spectra.runs.series import append_metrics, canonical
from spectra.training.data.carry_addition import Problem
from spectra.training.distributed.processes import ALONE, Processes
from spectra.training.distributed.shards import generating
from spectra.training.loop.progress import Reporter
from spectra.training.methods import find_method
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe


class Callback:
    """Answers every trainer event by doing nothing. Duck-typed, so that importing it needs no transformers.

    Attributes
    ----------
    trainer
        The trainer of the run, once it is built.
    """

    trainer: Any = None

    def __getattr__(self, event: str) -> Callable[..., None]:
        if not event.startswith("on_"):
            raise AttributeError(event)
        return _nothing


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


class Snapshots(Callback):
    """Saves ΔW on the recipe's schedule, step 0 before the first optimizer step.

    The last snapshot is written when everything else of the run is: it is the sign that the run is finished.
    """

    def __init__(self, recipe: Recipe, layout: RunLayout, processes: Processes = ALONE) -> None:
        self._steps = set(recipe.snapshots.schedule(recipe.steps)) - {recipe.steps}
        self._recipe, self._layout, self._processes = recipe, layout, processes

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save step 0 of a run that starts."""
        if state.global_step == 0:
            self._save(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save a scheduled step."""
        if state.global_step in self._steps:
            self._save(model, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save the last step."""
        self._save(model, state.global_step)

    def _save(self, model: Any, step: int) -> None:
        base, method = self._recipe.model, find_method(self._recipe.method.name)
        writes = self._processes.is_main
        save_snapshot(
            model, self._layout, step, base.base, base.revision, as_lora=method.facts.saved_as_lora, writes=writes
        )


class Evaluation(Callback):
    """Measures accuracy on held-out problems without touching the random streams that training draws from.

    Each process takes a share of the problems, equally many: where the model is sharded, all of them meet in every
    forward pass.
    """

    def __init__(
        self,
        recipe: Recipe,
        layout: RunLayout,
        tokenizer: Any,
        problems: Sequence[Problem],
        processes: Processes = ALONE,
    ) -> None:
        self._recipe, self._layout, self._processes = recipe, layout, processes
        self._tokenizer, self._problems = tokenizer, list(problems)
        self._accuracy: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Evaluate the base; step 0 has no training metrics, so its record is written here."""
        if state.global_step == 0 and self._recipe.evaluation.due(0, self._recipe.steps):
            accuracy = self._evaluate(model, 0)
            if self._processes.is_main:
                append_metrics(self._layout.metrics, {"step": 0, "eval_accuracy": accuracy})

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Evaluate a step that is due."""
        if self._recipe.evaluation.due(state.global_step, self._recipe.steps):
            self._accuracy = self._evaluate(model, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Add the accuracy to the step's record."""
        if self._accuracy is not None:
            logs["eval_accuracy"], self._accuracy = self._accuracy, None

    def _evaluate(self, model: Any, step: int) -> float:
        from spectra.training.evaluation.generate import accuracy, generate_and_verify

        samples = self._recipe.evaluation.samples
        with generating(model, self.trainer) as policy:
            own = generate_and_verify(
                policy,
                self._tokenizer,
                self._processes.part(self._problems),
                samples=samples,
                temperature=self._recipe.evaluation.temperature,
                max_new_tokens=self._recipe.algorithm.max_completion_length,
                seed=self._recipe.seed,
                batch_size=self._recipe.evaluation.batch_size,
            )
        generations = list(chain.from_iterable(self._processes.gather(own)))[: samples * len(self._problems)]
        if self._processes.is_main:
            where = self._layout.evaluation(self._recipe.task.name, step)
            write_json_lines(where, [asdict(row) for row in generations])
        return accuracy(generations)


class Metrics(Callback):
    """Appends each step's numbers to ``metrics.jsonl``, as floats under canonical names."""

    def __init__(self, layout: RunLayout) -> None:
        self._path = layout.metrics

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Write one step's record; the trainer's summary of the whole run is not one."""
        if "train_runtime" not in logs:
            append_metrics(self._path, {"step": state.global_step, **canonical(logs)})


class ProgressReports(Callback):
    """Tells the reporter how far the run is."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Report one step."""
        if "train_runtime" not in logs:
            self._reporter.step(state.global_step, state.max_steps, canonical(logs))


class MethodStep(Callback):
    """Does what a method asks for after each optimizer step, while the gradients are still there."""

    def __init__(self, after_step: Callable[[Any, Any, int], None]) -> None:
        self._after_step = after_step

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **kwargs: Any
    ) -> None:
        """Call the method with the step that is being made, from 1."""
        self._after_step(model, optimizer, state.global_step + 1)


class DivergenceStop(Callback):
    """Stops before a gradient that is not finite reaches the weights."""

    def __init__(self, layout: RunLayout, processes: Processes = ALONE) -> None:
        self._layout, self._processes = layout, processes

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Raise :class:`DivergedError` where a gradient holds NaN or ∞."""
        found = next((name for name, parameter in model.named_parameters() if not _is_finite(parameter.grad)), None)
        # Of a sharded gradient a process sees its own part.
        culprits = [name for name in self._processes.gather(found) if name is not None]
        if culprits:
            self._stop(f"the gradient of {culprits[0]}", state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Stop after the step where nobody saw the gradients before it: DeepSpeed keeps them to itself."""
        if not math.isfinite(float(logs.get("grad_norm", 0.0))):
            self._stop("the norm of the gradient", state.global_step)

    def _stop(self, what: str, step: int) -> None:
        if self._processes.is_main:
            # The step's own record is never written: without this the log would end as if nothing had happened.
            append_metrics(self._layout.metrics, {"step": step, "grad_norm": math.nan})
        raise DivergedError(
            f"{what} at step {step} is not finite",
            where=self._layout.root,
            hint="lower optimizer.learning_rate and start again with --overwrite",
        )


def _is_finite(gradient: Any) -> bool:
    if gradient is None:
        return True
    own = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return bool(own.isfinite().all())


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    import json

    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
