"""Trainer callbacks, one concern per callback.

The trainer calls every event by name; each class implements the events that it needs. With several processes,
``MetricsCallback`` and ``ProgressCallback`` run on the main process only, and the others on every process.
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
    """Base class that ignores every trainer event. Duck-typed, so that importing it does not need transformers.

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


class SnapshotCallback(Callback):
    """Saves ΔW on the recipe's schedule, step 0 before the first optimizer step.

    The last snapshot is written after everything else: its presence marks the run as finished.
    """

    def __init__(self, recipe: Recipe, layout: RunLayout, processes: Processes = ALONE) -> None:
        self._steps = set(recipe.snapshots.schedule(recipe.steps)) - {recipe.steps}
        self._recipe, self._layout, self._processes = recipe, layout, processes

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save step 0 of a new run."""
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


class EvaluationCallback(Callback):
    """Measures accuracy on held-out problems without changing the random state of training.

    Each process evaluates an equal share of the problems, because with a sharded model all processes take part in
    every forward pass.
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
        """Evaluate step 0; it has no training metrics, so its record is written here."""
        if state.global_step == 0 and self._recipe.evaluation.due(0, self._recipe.steps):
            accuracy = self._evaluate(model, 0)
            if self._processes.is_main:
                append_metrics(self._layout.metrics, {"step": 0, "eval_accuracy": accuracy})

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Evaluate a scheduled step."""
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


class MetricsCallback(Callback):
    """Appends the metrics of each step to ``metrics.jsonl``, as floats under canonical names."""

    def __init__(self, layout: RunLayout) -> None:
        self._path = layout.metrics

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Write the record of one step; skip the trainer's summary of the run."""
        if "train_runtime" not in logs:
            append_metrics(self._path, {"step": state.global_step, **canonical(logs)})


class ProgressCallback(Callback):
    """Passes the progress of the run to a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Report one step."""
        if "train_runtime" not in logs:
            self._reporter.step(state.global_step, state.max_steps, canonical(logs))


class MethodStepCallback(Callback):
    """Runs the ``after_step`` hook of a method after each optimizer step, before gradients are cleared."""

    def __init__(self, after_step: Callable[[Any, Any, int], None]) -> None:
        self._after_step = after_step

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **kwargs: Any
    ) -> None:
        """Call the hook with the number of the current step, from 1."""
        self._after_step(model, optimizer, state.global_step + 1)


class DivergenceCallback(Callback):
    """Stops training before a non-finite gradient reaches the weights."""

    def __init__(self, layout: RunLayout, processes: Processes = ALONE) -> None:
        self._layout, self._processes = layout, processes

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Raise :class:`DivergedError` where a gradient holds NaN or ∞."""
        found = next((name for name, parameter in model.named_parameters() if not _is_finite(parameter.grad)), None)
        # Of a sharded gradient each process has only its part.
        culprits = [name for name in self._processes.gather(found) if name is not None]
        if culprits:
            self._stop(f"the gradient of {culprits[0]}", state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Stop after the step if gradients are not accessible before it, as with DeepSpeed."""
        if not math.isfinite(float(logs.get("grad_norm", 0.0))):
            self._stop("the norm of the gradient", state.global_step)

    def _stop(self, what: str, step: int) -> None:
        if self._processes.is_main:
            # The record of this step is never written; without this one the log would not show the divergence.
            append_metrics(self._layout.metrics, {"step": step, "grad_norm": math.nan})
        raise DivergedError(
            f"{what} at step {step} is not finite",
            where=self._layout.root,
            hint="lower optimizer.learning_rate and start over with --overwrite",
        )


def _is_finite(gradient: Any) -> bool:
    if gradient is None:
        return True
    own = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return bool(own.isfinite().all())


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    import json

    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
