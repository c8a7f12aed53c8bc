"""What of a recipe may change while a run goes on: how it is computed and kept, never what it computes.

On the CPU a resumed run ends with the very bits of one that had the new value from its first step, for ``steps``,
``checkpoints``, ``report_to`` and the paths of data with equal digests. The others are equal up to rounding:
``micro_batch`` and ``model.gradient_checkpointing`` add the same numbers in another order (and with a dropout,
``micro_batch`` draws other masks); vLLM computes in other batches under another ``rollout``, and what is rounded
otherwise can turn a sampled token. Of ``evaluation.batch_size`` training sees nothing, and later evaluations are other
draws of the same distribution.
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


class CheckpointSteps(Callback):
    """Keeps checkpoints as the recipe says: a resumed trainer would keep to what its checkpoint says."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the distance between checkpoints from the arguments."""
        state.save_steps = args.save_steps


def obstacle(there: Recipe, here: Recipe, layout: RunLayout) -> str | None:
    """Say why a run of one recipe cannot go on with another; None where it can.

    Parameters
    ----------
    there
        The recipe of the run, with the digests of its data.
    here
        The recipe to go on with, with the digests of its data.
    layout
        The run.
    """
    for key, (old, new) in differences(there, here).items():
        fault = f"holds a run with {key} = {old!r}, and the recipe says {new!r}"
        if key == _STEPS:
            why = _fixed_steps(there, here, layout)
            if why is not None:
                return f"{fault}, but {why}"
        elif key not in FREE and not (key in _PATHS and _same_problems(there, here)):
            return fault
    return None


def got_nowhere(layout: RunLayout) -> bool:
    """Return whether a run has neither a checkpoint nor a snapshot after step 0: starting it again loses nothing."""
    return not _has_checkpoint(layout) and not any(layout.snapshot_steps())


def adopt(recipe: Recipe, layout: RunLayout, step: int) -> Changed:
    """Make a recipe that a run may go on with its own; return what changed, by key: before and after.

    The manifest keeps a record of it, which is written first: a crash in between writes it twice rather than never.

    Parameters
    ----------
    recipe
        The recipe to go on with.
    layout
        The run.
    step
        Step of the checkpoint that it goes on from.
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
    return None if _has_checkpoint(layout) else "there is no checkpoint to go on from"


def _same_problems(there: Recipe, here: Recipe) -> bool:
    """Return whether two recipes read the same problems from different places.

    Held-out problems that come from the set that is trained on are read otherwise than those of another set.
    """
    old, new = there.task, here.task
    digests = (old.data_sha256, old.heldout_sha256) == (new.data_sha256, new.heldout_sha256)
    return digests and (old.heldout == old.data) == (new.heldout == new.data)


def _has_checkpoint(layout: RunLayout) -> bool:
    return any(layout.checkpoints.glob("checkpoint-*"))
