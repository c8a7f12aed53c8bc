"""Run one training: start, resume, or skip if finished."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from spectra.config import dump, load
from spectra.errors import BaseModelError, RunExistsError
from spectra.runs.atomic import sweep, write_text
from spectra.runs.layout import RunLayout
from spectra.runs.lock import exclusive
from spectra.runs.manifest import BaseIdentity, Manifest, describe_environment, now
from spectra.runs.series import truncate_metrics
from spectra.training.compat.accelerate import lost_others
from spectra.training.compat.library_warnings import quiet_libraries
from spectra.training.data.carry_addition import Problem
from spectra.training.data.dataset import heldout_problems, pinned, training_problems
from spectra.training.distributed.processes import Processes, check_sharding, divide, join, report_once
from spectra.training.loop.callbacks import (
    Callback,
    DivergenceCallback,
    EvaluationCallback,
    MethodStepCallback,
    MetricsCallback,
    ProgressCallback,
    SnapshotCallback,
)
from spectra.training.loop.checkpoints import newest_checkpoint
from spectra.training.loop.frozen_weights import FrozenDriftCallback
from spectra.training.loop.lengths import check_lengths
from spectra.training.loop.progress import Reporter, reporting
from spectra.training.loop.recipe_changes import Changed, CheckpointIntervalCallback, adopt, made_no_progress, obstacle
from spectra.training.loop.report_to import check_reports
from spectra.training.loop.trainer import build_trainer
from spectra.training.methods import find_method
from spectra.training.policy.policy import Policy, build_policy
from spectra.training.recipe.recipe import Recipe
from spectra.training.sampling.rollout import rollout_arguments
from spectra.weights.storage.base import fingerprint


class RunAction(Enum):
    """Action of ``train`` for an output directory.

    Attributes
    ----------
    START
        The directory has no run.
    RESTART
        It has a run of another recipe, without a checkpoint or a snapshot after step 0.
    RESUME
        It has the same run, unfinished.
    SKIP
        It has the same run, finished.
    """

    START = "start"
    RESTART = "restart"
    RESUME = "resume"
    SKIP = "skip"


def train(recipe: Recipe, out: Path, *, overwrite: bool = False, quiet: bool = False) -> Path:
    """Train one run; resume it if it was killed, and skip it if it is finished.

    A recipe that differs only in how the run is computed and stored resumes it too: see
    :mod:`spectra.training.loop.recipe_changes`. Nothing is written or removed before the recipe, its data and its base
    model are read.

    With a launcher, every process calls this function, and the main process writes.

    Parameters
    ----------
    recipe
        Recipe of the run.
    out
        The run directory.
    overwrite
        Delete an existing run and start over.
    quiet
        Print no progress.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    RunExistsError
        If ``out`` holds a run of another recipe, or something that is not a run.
    BaseModelError
        If the base model cannot be loaded, or changed since the run started.
    RecipeError
        If the recipe needs something that the base model or the data does not have.
    DivergedError
        If a gradient is not finite.
    MissingDependencyError
        If a package that the recipe needs is not installed.
    """
    processes, layout = join(), RunLayout(out)
    with report_once(processes), reporting(quiet or not processes.is_main) as reporter, quiet_libraries():
        recipe = pinned(recipe)
        divide(recipe, processes.count)
        check_sharding(find_method(recipe.method.name), recipe.model.trainable_dtype)
        check_reports(recipe.report_to)
        rollout_arguments(recipe.rollout)
        action = processes.once(lambda: decide(recipe, layout, overwrite=overwrite))
        if action is RunAction.SKIP:
            reporter.say(f"{out}: already finished, nothing to do")
            return out
        if processes.count == 1 and lost_others():
            reporter.say("accelerate launch --cpu started one process; for several, pass --config_file")
        problems = _read(recipe)
        with ExitStack() as held:
            processes.once(lambda: held.enter_context(exclusive(layout.lock, "training this run")))
            _train(recipe, layout, action, problems, reporter, processes)
    return out


def decide(recipe: Recipe, layout: RunLayout, *, overwrite: bool = False, again: str = "--overwrite") -> RunAction:
    """Return the action for a run directory, without changing it.

    Parameters
    ----------
    recipe
        The recipe, with the digests of its data.
    layout
        The run.
    overwrite
        Start over, whatever run exists.
    again
        Command line option for that, named in the hint.

    Raises
    ------
    RunExistsError
        If it holds a run of another recipe with a checkpoint or a snapshot after step 0 (unless ``overwrite``), or
        something that is not a run (always).
    """
    if not layout.recipe.exists():
        foreign = _foreign(layout)
        if foreign is not None:
            hint = "choose another --out"
            raise RunExistsError(f"holds {foreign.name!r}, but no spectra run", where=layout.root, hint=hint)
        return RunAction.START
    if overwrite:
        return RunAction.START
    fault = obstacle(load(Recipe, layout.recipe), recipe, layout)
    if fault is not None:
        if made_no_progress(layout):
            return RunAction.RESTART
        raise RunExistsError(fault, where=layout.root, hint=f"choose another --out, or start over with {again}")
    return RunAction.SKIP if layout.snapshot(recipe.steps).exists() else RunAction.RESUME


def clear(layout: RunLayout) -> None:
    """Remove the files of a run, and no other files in its directory. The recipe is removed last."""
    for directory in (layout.checkpoints, layout.evaluations, layout.analysis.root, layout.snapshots):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (layout.metrics, layout.manifest, layout.recipe):
        file.unlink(missing_ok=True)


def _foreign(layout: RunLayout) -> Path | None:
    """Return a file in the directory that is not from a run that has not started yet; None if there is none."""
    ours = {layout.manifest, layout.log}
    entries = sorted(layout.root.iterdir()) if layout.root.exists() else []
    return next((path for path in entries if path not in ours and not path.name.startswith(".")), None)


@dataclass(frozen=True)
class _Problems:
    """The problems of a run, read before anything is written."""

    training: list[Problem]
    heldout: list[Problem]


def _read(recipe: Recipe) -> _Problems:
    return _Problems(training_problems(recipe.task), heldout_problems(recipe))


def _train(
    recipe: Recipe, layout: RunLayout, action: RunAction, problems: _Problems, reporter: Reporter, processes: Processes
) -> None:
    resumes = action is RunAction.RESUME
    checkpoint = processes.once(lambda: newest_checkpoint(layout, processes.count)) if resumes else None
    with _named_in_the_recipe():
        policy = build_policy(recipe, initial=None if checkpoint is None else layout.snapshot(0))
    check_lengths(recipe, policy.tokenizer, policy.model.config, problems.training, problems.heldout)
    step = 0 if checkpoint is None else checkpoint[1]
    changed: Changed = {}
    if resumes:
        changed = processes.once(lambda: _resume(recipe, policy, layout, processes, checkpoint))
    else:
        processes.once(lambda: _start(recipe, policy, layout, processes))
    reporter.say(_opening(recipe, layout, policy, processes, step))
    for key, (before, after) in changed.items():
        reporter.say(f"changed since the start: {key}, from {before!r} to {after!r}")
    callbacks = _callbacks(recipe, layout, policy, problems.heldout, processes)
    if processes.is_main:
        callbacks += [
            FrozenDriftCallback(recipe, layout, policy.base),
            MetricsCallback(layout),
            ProgressCallback(reporter),
        ]
    trainer = build_trainer(recipe, policy, layout, callbacks, processes.count)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint[0]))


@contextmanager
def _named_in_the_recipe() -> Iterator[None]:
    """Name the recipe's key in hints that name the option of other commands."""
    try:
        yield
    except BaseModelError as error:
        hint = None if error.hint is None else error.hint.replace("--base", "model.base")
        raise BaseModelError(error.what, where=error.where, hint=hint) from error


def _callbacks(
    recipe: Recipe, layout: RunLayout, policy: Policy, problems: list[Problem], processes: Processes
) -> list[Callback]:
    """Return the callbacks of every process, in order."""
    after_step = find_method(recipe.method.name).after_step
    return [
        DivergenceCallback(layout, processes),
        *([MethodStepCallback(after_step)] if after_step is not None else []),
        EvaluationCallback(recipe, layout, policy.tokenizer, problems, processes),
        SnapshotCallback(recipe, layout, processes),
        CheckpointIntervalCallback(),
    ]


def _opening(recipe: Recipe, layout: RunLayout, policy: Policy, processes: Processes, step: int) -> str:
    size = f"{policy.trainable_count:,} trainable weights ({100 * policy.trainable_share:.2f} % of the base model)"
    start = f"resuming from step {step}" if step else "starting"
    several = f", {processes.count} processes" if processes.count > 1 else ""
    return f"{layout.root}: {start}; {recipe.method.name}, {size}{several}"


def _start(recipe: Recipe, policy: Policy, layout: RunLayout, processes: Processes) -> None:
    clear(layout)
    _describe(recipe, policy, processes).write(layout.manifest)
    write_text(layout.recipe, dump(recipe))


def _resume(
    recipe: Recipe, policy: Policy, layout: RunLayout, processes: Processes, checkpoint: tuple[Path, int] | None
) -> Changed:
    _check_unchanged(policy, layout, processes)
    truncate_metrics(layout.metrics, -1 if checkpoint is None else checkpoint[1])
    sweep(layout.snapshots)
    return adopt(recipe, layout, 0 if checkpoint is None else checkpoint[1])


def _describe(recipe: Recipe, policy: Policy, processes: Processes) -> Manifest:
    versions, git, hardware = describe_environment()
    return Manifest(
        created=now(),
        versions=versions,
        git=git,
        base=BaseIdentity(recipe.model.base, recipe.model.revision, fingerprint(policy.base)),
        method=recipe.method.name,
        algorithm=recipe.algorithm.name,
        seed=recipe.seed,
        hardware={**hardware, "processes": processes.count},
        trainable=policy.trainable,
    )


def _check_unchanged(policy: Policy, layout: RunLayout, processes: Processes) -> None:
    """Refuse to resume with another base model, or another number of processes, which changes the random streams."""
    manifest = Manifest.read(layout.manifest)
    then, today = manifest.base.fingerprints, fingerprint(policy.base)
    changed = [name for name in {**then, **today} if then.get(name) != today.get(name)]
    if changed:
        raise BaseModelError(
            f"the base model changed since the run started ({changed[0]})",
            where=layout.root,
            hint="restore the base model",
        )
    count = manifest.hardware.get("processes", 1)
    if count != processes.count:
        fault = f"was started with {count} processes, and cannot resume with {processes.count}"
        hint = f"launch it with --num_processes {count}, or start over with --overwrite"
        raise RunExistsError(fault, where=layout.root, hint=hint)
