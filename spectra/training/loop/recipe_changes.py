"""Recipe keys that may change when a run resumes: how it is computed and stored, never what it computes.

On the CPU a resumed run is bit-identical to one that had the new value from its first step, for ``steps``,
``checkpoints``, ``report_to`` and the paths of data with equal digests. Other keys are equal up to rounding:
``micro_batch`` and ``model.gradient_checkpointing`` add the same numbers in another order (and with dropout,
``micro_batch`` draws other masks); vLLM computes in other batches under another ``rollout``, and a rounding difference
can change a sampled token. ``evaluation.batch_size`` does not affect training; later evaluations are other samples of
the same distribution.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spectra.config import differences, dump, load
from spectra.runs.atomic import write_text
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.training.loop.callbacks import Callback
from spectra.training.methods import find_method
from spectra.training.recipe.recipe import Recipe

_STEPS = "steps"
_PATHS = ("task.data", "task.heldout")
FREE = frozenset(
    {
        "checkpoints.every",
        "checkpoints.keep",
        "evaluation.batch_size",
        "micro_batch",
        "model.gradient_checkpointing",
        "report_to",
        "rollout.gpu_memory",
        "rollout.max_model_length",
        "rollout.tensor_parallel",
        "rollout.timeout",
        "rollout.url",
    }
)

Changed = Mapping[str, tuple[Any, Any]]


class CheckpointIntervalCallback(Callback):
    """Applies the recipe's checkpoint interval; a resumed trainer would use the interval of its checkpoint."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the checkpoint interval from the arguments."""
        state.save_steps = args.save_steps


def obstacle(there: Recipe, here: Recipe, layout: RunLayout) -> str | None:
    """Return why a run of one recipe cannot resume with another; None if it can.

    Parameters
    ----------
    there
        The recipe of the run, with the digests of its data.
    here
        The recipe to resume with, with the digests of its data.
    layout
        The run.
    """
    for key, (old, new) in differences(there, here).items():
        fault = f"holds a run with {key} = {old!r}, but the recipe has {new!r}"
        if key == _STEPS:
            why = _fixed_steps(there, here, layout)
            if why is not None:
                return f"{fault}; {why}"
        elif key not in FREE and not (key in _PATHS and _same_problems(there, here)):
            return fault
    return None


def made_no_progress(layout: RunLayout) -> bool:
    """Return whether a run has neither a checkpoint nor a snapshot after step 0: starting over loses nothing."""
    return not _has_checkpoint(layout) and not any(layout.snapshot_steps())


def adopt(recipe: Recipe, layout: RunLayout, step: int) -> Changed:
    """Replace the recipe of a run by one that it may resume with; return the changes, by key: before and after.

    The change is recorded in the manifest first: after a crash in between it is recorded twice rather than never.

    Parameters
    ----------
    recipe
        The recipe to resume with.
    layout
        The run.
    step
        Step of the checkpoint from which it resumes.
    """
    changed = differences(load(Recipe, layout.recipe), recipe)
    if changed:
        manifest = Manifest.read(layout.manifest)
        record = {"step": step, "changed": {key: list(pair) for key, pair in changed.items()}}
        replace(manifest, resumed=[*manifest.resumed, record]).write(layout.manifest)
        write_text(layout.recipe, dump(recipe))
    return changed


def _fixed_steps(there: Recipe, here: Recipe, layout: RunLayout) -> str | None:
    if here.steps < there.steps:
        return "a run cannot be shortened"
    if here.optimizer.schedule != "constant":
        return f"a {here.optimizer.schedule} schedule of the learning rate depends on it"
    if here.snapshots.every is None:
        return "snapshots.log_spaced depends on it"
    if find_method(here.method.name).check_steps is not None:
        return f"the schedule of {here.method.name} depends on it"
    return None if _has_checkpoint(layout) else "there is no checkpoint to resume from"


def _same_problems(there: Recipe, here: Recipe) -> bool:
    """Return whether two recipes read the same problems from different paths.

    Held-out problems from the training dataset are read differently than those of another dataset.
    """
    old, new = there.task, here.task
    digests = (old.data_sha256, old.heldout_sha256) == (new.data_sha256, new.heldout_sha256)
    return digests and (old.heldout == old.data) == (new.heldout == new.data)


def _has_checkpoint(layout: RunLayout) -> bool:
    return any(layout.checkpoints.glob("checkpoint-*"))
