"""Source of problems, recognized by its name, and the conversion of its rows to problems."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spectra.errors import CorruptFileError, RecipeError
from spectra.training.data.carry_addition import Message, Problem

Kind = Literal["file", "dataset", "generator", "benchmark"]
Row = Mapping[str, Any]

FILES = (".jsonl", ".parquet")
# Kinds of source that are named with a prefix; everything else is a path or a hub id.
PREFIXES: Mapping[str, Kind] = {"reasoning_gym:": "generator", "benchmark:": "benchmark"}


@dataclass(frozen=True)
class Source:
    """A source of problems, and how to read it.

    Attributes
    ----------
    name
        A ``.jsonl`` or ``.parquet`` file, a directory that ``datasets`` reads, a hub id, ``reasoning_gym:`` with a
        generator's name, or ``benchmark:`` with a benchmark's.
    subset, split, revision
        Of a Hugging Face dataset.
    prompt, answer
        Columns. Dots lead into nested ones, numbers into lists: ``reward_model.ground_truth``, ``prompt.0.content``.
    answer_after
        The gold answer is the text after the last occurrence of this in its column.
    remove
        Texts to cut out of prompts.
    unique
        Drop repeated prompts.
    size, seed, options
        Of a generator: number of problems, seed, and its own options as JSON.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    prompt: str = "prompt"
    answer: str = "answer"
    answer_after: str | None = None
    remove: tuple[str, ...] = ()
    unique: bool = False
    size: int = 1000
    seed: int = 0
    options: str = field(default="{}")

    @property
    def kind(self) -> Kind:
        """Kind of source, from its name."""
        for prefix, kind in PREFIXES.items():
            if self.name.startswith(prefix):
                return kind
        return "file" if Path(self.name).suffix in FILES else "dataset"

    @property
    def bare(self) -> str:
        """The name without its prefix."""
        return self.name.partition(":")[2] if self.kind in PREFIXES.values() else self.name

    @property
    def columns(self) -> list[str]:
        """Top-level columns that may be needed; a name with a dot may also be a top-level column."""
        names = [name for column in (self.prompt, self.answer) for name in (column, column.partition(".")[0])]
        return list(dict.fromkeys([*names, "id"]))


def to_problems(rows: Iterable[Any], source: Source) -> list[Problem]:
    """Return the problems of the rows, in order.

    Raises
    ------
    CorruptFileError
        If a row lacks a column or its gold answer, or there is no row.
    RecipeError
        If a text of ``remove`` does not occur in any prompt.
    """
    unseen = set(source.remove)
    problems: list[Problem] = []
    prompts: set[str] = set()
    for index, row in enumerate(rows):
        problem = _problem(row, index, source, unseen)
        key = json.dumps(problem.prompt) if source.unique else str(index)
        if key not in prompts:
            prompts.add(key)
            problems.append(problem)
    if not problems:
        raise CorruptFileError("holds no problems", where=source.name, hint="give data with one problem per row")
    if unseen:
        hint = "copy it exactly from a prompt, or remove it"
        raise RecipeError(f"{sorted(unseen)[0]!r} does not occur in any prompt", where="task.remove", hint=hint)
    if len({problem.id for problem in problems}) < len(problems):  # the ids of the dataset are not unique
        return [replace(problem, id=str(index)) for index, problem in enumerate(problems)]
    return problems


def _problem(row: Any, index: int, source: Source, unseen: set[str]) -> Problem:
    prompt = _prompt(_value(row, source.prompt, index, source), index, source)
    answer = _answer(_value(row, source.answer, index, source), index, source)
    identity = row.get("id")
    return Problem(str(index if identity is None else identity), _without(prompt, source.remove, unseen), answer)


def _prompt(value: Any, index: int, source: Source) -> str | list[Message]:
    if isinstance(value, str):
        return value
    try:
        # A message may have other keys, which chat templates do not expect.
        return [{"role": str(message["role"]), "content": str(message["content"])} for message in value]
    except (TypeError, KeyError) as error:
        fault = f"row {index + 1} has neither text nor chat messages in {source.prompt!r}"
        raise CorruptFileError(fault, where=source.name, hint="set task.prompt to the right column") from error


def _answer(value: Any, index: int, source: Source) -> str:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, list | tuple | dict):
        hint = f"name the column that holds one answer, such as {source.answer}.0"
        fault = f"row {index + 1} does not have a single answer in {source.answer!r}"
        raise CorruptFileError(fault, where=source.name, hint=hint)
    text = str(value)
    if source.answer_after is None:
        return text
    _, found, after = text.rpartition(source.answer_after)
    if not found:
        fault = f"row {index + 1} has no {source.answer_after!r} in {source.answer!r}"
        raise CorruptFileError(fault, where=source.name, hint="correct task.answer_after")
    return after.strip()


def _value(row: Any, column: str, index: int, source: Source) -> Any:
    """Return the value of a column, which may be nested."""
    if isinstance(row, Mapping) and column in row:
        return row[column]
    value = row
    for name in column.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list | tuple) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            has = f" (it has {', '.join(map(str, row))})" if isinstance(row, Mapping) else ""
            hint = "set task.prompt and task.answer to its columns"
            raise CorruptFileError(f"row {index + 1} has no {column!r}{has}", where=source.name, hint=hint)
    return value


def _without(prompt: str | list[Message], remove: tuple[str, ...], unseen: set[str]) -> str | list[Message]:
    if not remove:
        return prompt
    if isinstance(prompt, str):
        return _cut(prompt, remove, unseen)
    return [{**message, "content": _cut(message["content"], remove, unseen)} for message in prompt]


def _cut(text: str, remove: tuple[str, ...], unseen: set[str]) -> str:
    for part in remove:
        if part in text:
            unseen.discard(part)
            text = text.replace(part, "")
    return text.strip()


def batched(batches: Iterable[list[Row]]) -> Iterator[Row]:
    """Return the rows of batches one by one, so that millions of rows are never in memory as Python objects."""
    for batch in batches:
        yield from batch
