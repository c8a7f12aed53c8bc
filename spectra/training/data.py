"""The task's problems, and the order in which a run meets them."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.errors import CorruptFileError, RecipeError
from spectra.training.embedded.task import Problem, problems
from spectra.training.recipe import Recipe, TaskRecipe


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the digests of its data files, so that a run knows its data.

    Raises
    ------
    RecipeError
        If a file is missing, or is not the one whose digest the recipe holds.
    """
    digests: dict[str, str] = {}
    for key in ("data", "heldout"):
        path = getattr(recipe.task, key)
        if path is None:
            continue
        found, expected = _digest(Path(path), key), getattr(recipe.task, f"{key}_sha256")
        if expected not in (None, found):
            cure = f"restore the file, or set task.{key}_sha256 to null for a new run"
            raise RecipeError(f"is not the file that task.{key}_sha256 names", where=path, cure=cure)
        digests[f"{key}_sha256"] = found
    return recipe.model_copy(update={"task": recipe.task.model_copy(update=digests)})


def training_problems(task: TaskRecipe) -> list[Problem]:
    """Return the problems to train on; raises :class:`CorruptFileError` where a file does not hold them."""
    return problems("train") if task.data is None else _read(Path(task.data), task)


def heldout_problems(recipe: Recipe) -> list[Problem]:
    """Return the first ``evaluation.problems`` held-out problems.

    Raises
    ------
    RecipeError
        If there are fewer.
    CorruptFileError
        If the held-out file does not hold problems.
    """
    if recipe.evaluation.every is None:
        return []
    task, count = recipe.task, recipe.evaluation.problems
    found = problems("eval") if task.heldout is None else _read(Path(task.heldout), task)
    if len(found) < count:
        raise RecipeError(
            f"{count} problems, and {task.name} has {len(found)}", where="evaluation.problems", cure="ask for fewer"
        )
    return found[:count]


def prompt_order(available: int, wanted: int, seed: int) -> list[int]:
    """Return ``wanted`` indices into ``available`` problems: shuffled passes, none repeated within a pass.

    The order is fixed beforehand and depends on nothing else, so a resumed run meets the same prompts, and a longer
    run begins as a shorter one does.
    """
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < wanted:
        order.extend(generator.sample(range(available), available))
    return order[:wanted]


def training_dataset(recipe: Recipe) -> Any:
    """Return a ``datasets.Dataset`` with one row a prompt of the whole run, in order: columns prompt and answer."""
    from datasets import Dataset

    found = training_problems(recipe.task)
    order = prompt_order(len(found), recipe.steps * recipe.prompts_per_step, recipe.seed)
    rows = {"prompt": [p.prompt for p in found], "answer": [p.answer for p in found]}
    return Dataset.from_dict(rows).select(order)


def _digest(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        cure = "give a .jsonl or .parquet file, relative to the working directory"
        raise RecipeError(f"task.{key} cannot be read", where=path, cure=cure) from error


def _read(path: Path, task: TaskRecipe) -> list[Problem]:
    rows = _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
    if not rows:
        raise CorruptFileError("holds no problems", where=path, cure="give a file with one problem a row")
    return [_problem(row, index, path, task) for index, row in enumerate(rows)]


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CorruptFileError("cannot be read as parquet", where=path, cure="restore the file") from error
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise CorruptFileError("is not JSON", where=f"{path}:{number}", cure="write one object a line") from error
    return rows


def _problem(row: Any, index: int, path: Path, task: TaskRecipe) -> Problem:
    for column in (task.prompt, task.answer):
        if not isinstance(row, Mapping) or column not in row:
            cure = "set task.prompt and task.answer to its columns"
            raise CorruptFileError(f"row {index + 1} has no {column!r}", where=path, cure=cure)
    prompt = row[task.prompt]
    if not isinstance(prompt, str):
        prompt = [dict(message) for message in prompt]
    return Problem(id=str(row.get("id", index)), prompt=prompt, answer=str(row[task.answer]))
