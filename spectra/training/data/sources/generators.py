"""Problems that reasoning-gym generates, and gold answers that only its generators can check.

A generated problem may have many right answers, so its gold answer here is the whole entry: the reward asks the
generator's own scorer, in the checking process, and full marks are right.
"""

import json
from importlib import import_module
from typing import Any

from spectra.config import nearest
from spectra.errors import MissingDependencyError, RecipeError
from spectra.training.data.carry_addition import Problem
from spectra.training.data.sources.source import Source
from spectra.training.rewards.rewards import GENERATED


def problems(source: Source) -> list[Problem]:
    """Return the problems of a generator; those with an equal question are one.

    Raises
    ------
    MissingDependencyError
        If reasoning-gym is not installed.
    RecipeError
        If there is no such generator, or it refuses its options.
    """
    options = json.loads(source.options)
    entries = _generator(source.bare, {**options, "size": source.size, "seed": source.seed})
    _require_scorable(source.bare, entries)
    found: dict[str, Problem] = {}
    for entry in entries:
        question = str(entry["question"])
        found.setdefault(question, Problem(str(len(found)), question, _gold(source.bare, source.options, entry)))
    return list(found.values())


def _gold(name: str, options: str, entry: dict[str, Any]) -> str:
    # JSON writes tuples as lists and dates as text, as the scorer of another process gets them.
    return GENERATED + json.dumps({"generator": name, "options": options, "entry": entry}, default=str)


def _require_scorable(name: str, entries: Any) -> None:
    entry = entries[0]
    sent = json.loads(json.dumps(entry, default=str))
    if entry["answer"] is not None and entries.score_answer(str(sent["answer"]), sent) < 1.0:
        fault = f"{name} does not know its own answer again once it is written as text"
        raise RecipeError(fault, where="task.data", hint="choose another generator")


def _generator(name: str, options: dict[str, Any]) -> Any:
    try:
        package = import_module("reasoning_gym")
    except ImportError as error:
        hint = "pip install 'spectra-rlvr[tasks]'"
        raise MissingDependencyError("reasoning_gym sources need the reasoning-gym package", hint=hint) from error
    known = sorted(import_module("reasoning_gym.factory").DATASETS)
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else f"one that there is: {known[0]}"
        raise RecipeError(f"reasoning-gym has no generator {name!r}", where="task.data", hint=hint)
    try:
        return package.create_dataset(name, **options)
    except (AssertionError, TypeError, ValueError) as error:
        fault = f"{name} refuses its options ({error})"
        raise RecipeError(fault, where="task.generator.options", hint="see its configuration class") from error
