"""Problems of a task, and the order in which a run trains on them."""

import json
import random
from dataclasses import replace
from typing import Any

from spectra.errors import CorruptFileError, RecipeError
from spectra.training.data.carry_addition import Problem, problems
from spectra.training.data.prompts import formatted
from spectra.training.data.sources.reading import digest, read
from spectra.training.data.sources.source import Source
from spectra.training.recipe.recipe import Recipe
from spectra.training.recipe.task import TaskRecipe


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the digests of its data, so that changed data is noticed.

    Raises
    ------
    RecipeError
        If data is missing, or its digest differs from the recipe's.
    SpectraError
        If it cannot be read.
    """
    sources = {"data": data_source(recipe.task), "heldout": heldout_source(recipe.task)}
    digests = {
        f"{key}_sha256": _unchanged(source, key, recipe.task) for key, source in sources.items() if source is not None
    }
    return recipe.model_copy(update={"task": recipe.task.model_copy(update=digests)})


def data_source(task: TaskRecipe) -> Source | None:
    """Return the source of a task's training problems; None for the built-in task."""
    if task.data is None:
        return None
    return Source(
        task.data,
        subset=task.subset,
        split=task.split,
        revision=task.revision,
        prompt=task.prompt,
        answer=task.answer,
        answer_after=task.answer_after,
        remove=tuple(task.remove),
        unique=task.unique,
        size=task.generator.size,
        seed=task.generator.seed,
        options=json.dumps(task.generator.options, sort_keys=True),
    )


def heldout_source(task: TaskRecipe) -> Source | None:
    """Return the source of a task's held-out problems; None for the built-in task, and where there are none."""
    data = data_source(task)
    if data is None or task.heldout is None:
        return None
    same = task.heldout == task.data
    kept = {"subset": data.subset, "revision": data.revision} if same else {"subset": None, "revision": None}
    # Texts that are cut from training prompts need not occur in those of another dataset.
    remove = data.remove if same else ()
    return replace(data, name=task.heldout, split=task.heldout_split, seed=data.seed + 1, remove=remove, **kept)


def training_problems(task: TaskRecipe) -> list[Problem]:
    """Return the problems to train on, in the prompt format of the task.

    Raises
    ------
    SpectraError
        If the data has no problems, or mixes text and chat messages.
    """
    source = data_source(task)
    if source is None:
        return problems("train")
    found = [formatted(problem, task.format) for problem in read(source)]
    _check_one_kind(found, source)
    return found


def _check_one_kind(found: list[Problem], source: Source) -> None:
    """Refuse a mixture of text and chat prompts: a trainer takes one kind."""
    first = isinstance(found[0].prompt, str)
    other = next((at for at, problem in enumerate(found) if isinstance(problem.prompt, str) != first), None)
    if other is not None:
        kinds = ("text", "chat messages") if first else ("chat messages", "text")
        row = "problem" if source.unique else "row"  # with unique=True rows are not counted
        fault = f"{row} {other + 1} has {kinds[1]} in {source.prompt!r}, and those before it {kinds[0]}"
        hint = "write all prompts in the same form, or set task.format to boxed or think"
        raise CorruptFileError(fault, where=source.name, hint=hint)


def all_heldout_problems(task: TaskRecipe) -> list[Problem]:
    """Return every held-out problem of a task, in its prompt format; none where it has none.

    Raises
    ------
    RecipeError
        If their digest differs from the task's.
    SpectraError
        If they cannot be read.
    """
    source = heldout_source(task)
    if source is None:
        return [] if task.data is not None else problems("eval")
    _unchanged(source, "heldout", task)
    found = read(source)
    if source.kind == "generator" and task.heldout == task.data:
        # In a small space of problems another seed draws some of the same ones.
        trained = {str(problem.prompt) for problem in read(replace(source, seed=source.seed - 1, split=task.split))}
        found = [problem for problem in found if str(problem.prompt) not in trained]
    return [formatted(problem, task.format) for problem in found]


def heldout_problems(recipe: Recipe) -> list[Problem]:
    """Return the first ``evaluation.problems`` held-out problems.

    Raises
    ------
    RecipeError
        If there are fewer.
    SpectraError
        If the held-out data cannot be read or has no problems.
    """
    if recipe.evaluation.every is None:
        return []
    found, count = all_heldout_problems(recipe.task), recipe.evaluation.problems
    if len(found) < count:
        fault = f"must be at most {len(found)}, the held-out problems of {recipe.task.name}, got {count}"
        raise RecipeError(fault, where="evaluation.problems", hint="choose a smaller number")
    return found[:count]


def prompt_order(available: int, wanted: int, seed: int) -> list[int]:
    """Return ``wanted`` indices into ``available`` problems: shuffled passes, none repeated within a pass.

    The order depends on these arguments alone: a resumed run gets the same prompts, and a longer run has those of a
    shorter one first.
    """
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < wanted:
        order.extend(generator.sample(range(available), available))
    return order[:wanted]


def training_dataset(recipe: Recipe) -> Any:
    """Return a ``datasets.Dataset`` with one row per prompt of the whole run, in order: columns prompt and answer."""
    from datasets import Dataset

    found = training_problems(recipe.task)
    order = prompt_order(len(found), recipe.steps * recipe.prompts_per_step, recipe.seed)
    rows = {"prompt": [p.prompt for p in found], "answer": [p.answer for p in found]}
    return Dataset.from_dict(rows).select(order)


def _unchanged(source: Source, key: str, task: TaskRecipe) -> str:
    found, expected = _digest(source, key), getattr(task, f"{key}_sha256")
    if expected not in (None, found):
        hint = f"restore it, or set task.{key}_sha256 to null for a new run"
        raise RecipeError(f"differs from the digest in task.{key}_sha256", where=source.name, hint=hint)
    return found


def _digest(source: Source, key: str) -> str:
    try:
        return digest(source)
    except RecipeError as error:
        raise RecipeError(f"task.{key} {error.what}", where=error.where, hint=error.hint) from error
