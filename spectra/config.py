"""Strict configuration: load YAML into a pydantic model; every error names file, line and key, and gives a hint.

An unknown key in a recipe is an error, never a silent default: a misspelled learning rate must not train for an hour.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from spectra.errors import RecipeError

Key = tuple[str | int, ...]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # of what becomes a directory name
_IN_WORDS = {NAME_PATTERN: "letters, digits, '.', '_' and '-', starting with a letter or a digit"}


class Section(BaseModel):
    """Base of every configuration model: immutable, no unknown keys, no silent conversion (``"8"`` is not 8)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class KeyFault(ValueError):
    """An invalid key that only shows in combination with others; raise it in a pydantic validator.

    Parameters
    ----------
    key
        The invalid key, relative to the section whose validator raises.
    message
        What is wrong and how to fix it.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


SectionT = TypeVar("SectionT", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """Plain values as written, and the place where each of them was set.

    Attributes
    ----------
    value
        Nested dicts, lists and scalars.
    places
        For each key path, the ``file:line`` or the override that set it.
    origin
        The file, for errors without a line.
    """

    value: dict[str, Any]
    places: Mapping[Key, str] = field(default_factory=dict)
    origin: str = "recipe"

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Read one YAML file.

        Raises
        ------
        RecipeError
            If it is missing, not YAML, not a mapping, or repeats a key.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"cannot read the file ({error})", where=path, hint="pass the path of a YAML recipe"
            ) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, origin: str) -> "Document":
        """Parse YAML text; errors refer to it as ``origin``. Raises the same errors as :meth:`read`."""
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            value = {} if node is None else loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = origin if mark is None else f"{origin}:{mark.line + 1}"
            raise RecipeError(f"invalid YAML ({error.problem})", where=where, hint="fix the syntax") from error
        except yaml.YAMLError as error:
            raise RecipeError(f"invalid YAML ({error})", where=origin, hint="fix the syntax") from error
        finally:
            loader.dispose()
        if not isinstance(value, dict):
            raise RecipeError("the top level must be a mapping", where=origin, hint="write `key: value` lines")
        return cls(value, dict(_places(node, origin)), origin)

    def at(self, *key: str) -> "Document":
        """Return the section under ``key`` as a document of its own; empty if there is none."""
        value: Any = self.value
        for name in key:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, dict):
            where = self.place(key)
            raise RecipeError(
                f"{'.'.join(key)} must be a mapping, got {value!r}", where=where, hint="write keys under it"
            )
        places = {path[len(key) :]: place for path, place in self.places.items() if path[: len(key)] == key}
        return Document(value or {}, places, self.origin)

    def merged(self, other: "Document") -> "Document":
        """Return this document updated with ``other``, section by section."""
        return Document(_merge(self.value, other.value), {**self.places, **other.places}, self.origin)

    def overridden(self, overrides: Sequence[str]) -> "Document":
        """Return this document updated with ``a.b=value`` overrides; values are YAML.

        Raises
        ------
        RecipeError
            If an override does not have that form.
        """
        document = self
        for override in overrides:
            document = document.merged(_override(override))
        return document

    def place(self, key: Key) -> str:
        """Return where ``key``, or the innermost section that contains it, was written."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return self.origin


def load(model: type[SectionT], path: Path, overrides: Sequence[str] = ()) -> SectionT:
    """Load a YAML file and ``a.b=value`` overrides into ``model``.

    Raises
    ------
    RecipeError
        For an unknown or repeated key, a value of the wrong type or out of range, or a malformed file.
    """
    return build(model, Document.read(path).overridden(overrides))


def build(model: type[SectionT], document: Document) -> SectionT:
    """Validate a document against ``model``; raises :class:`RecipeError` for the first invalid key."""
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        faults = error.errors()
        # A misspelled key often leaves another one missing: report the misspelling.
        fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        raise _recipe_error(model, document, fault) from error


def dump(section: BaseModel) -> str:
    r"""Return complete YAML, defaults included, that loads back to an equal section.

    >>> class Learning(Section):
    ...     rate: float = 1e-3
    >>> dump(Learning())
    'rate: 0.001\n'
    """
    # ASCII only: PyYAML writes some control characters, such as U+0085, so that it cannot read them back.
    return yaml.dump(section.model_dump(), Dumper=_Dumper, sort_keys=False, width=120)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping of dotted keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item})
    return flat


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, in order, each with both values; None stands for a missing one.

    >>> class Learning(Section):
    ...     rate: float = 1e-3
    >>> differences(Learning(), Learning(rate=1.0))
    {'rate': (0.001, 1.0)}
    """
    ours, theirs = flatten(old.model_dump()), flatten(new.model_dump())
    pairs = {key: (ours.get(key), theirs.get(key)) for key in {**ours, **theirs}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def nearest(name: str, allowed: Sequence[str]) -> str | None:
    """Return the allowed name that is most similar to ``name``, or None.

    >>> nearest("learning_rat", ["learning_rate", "betas"])
    'learning_rate'
    """
    matches = difflib.get_close_matches(name, allowed, n=1)
    return matches[0] if matches else None


def cache_dir() -> Path:
    """Return the cache directory: ``$SPECTRA_CACHE``, or the user's cache directory."""
    chosen = os.environ.get("SPECTRA_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("spectra"))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses repeated keys and reads ``1e-3`` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not a string: quote it", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the loader would read as a number."""


for _either in (_Loader, _Dumper):
    _either.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _places(node: yaml.Node | None, origin: str, key: Key = ()) -> Iterator[tuple[Key, str]]:
    children: list[tuple[str | int, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(name.value, name, value) for name, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, value, value) for index, value in enumerate(node.value)]
    for name, mark, value in children:
        yield (*key, name), f"{origin}:{mark.start_mark.line + 1}"
        yield from _places(value, origin, (*key, name))


def _merge(low: Any, high: Any) -> Any:
    if isinstance(low, dict) and isinstance(high, dict):
        return {**low, **{name: _merge(low.get(name), value) for name, value in high.items()}}
    return high


def _override(text: str) -> Document:
    dotted, separator, written = text.partition("=")
    names = dotted.strip().split(".")
    if not separator or not all(names):
        raise RecipeError(f"{text!r} is not a valid override", where="--set", hint="write --set section.key=value")
    document = Document.parse(f"value: {written}", f"--set {text}")
    value = document.value["value"]
    for name in reversed(names):
        value = {name: value}
    places: dict[Key, str] = {tuple(names[:length]): f"--set {text}" for length in range(1, len(names) + 1)}
    return Document(value, places, "--set")


def _recipe_error(model: type[BaseModel], document: Document, fault: Any) -> RecipeError:
    key: Key = fault["loc"]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, KeyFault):
        key = (*key, *cause.key.split("."))
    dotted = ".".join(str(part) for part in key)
    where = document.place(key)
    if fault["type"] == "extra_forbidden":
        return RecipeError(f"unknown key {dotted!r}", where=where, hint=_suggestion(model, key))
    if fault["type"] == "missing":
        return RecipeError(f"missing key {dotted!r}", where=where, hint="add it")
    if isinstance(cause, ValueError):
        return RecipeError(f"{dotted}: {cause}" if dotted else str(cause), where=where)
    expected = _IN_WORDS.get(fault.get("ctx", {}).get("pattern"), fault["msg"].removeprefix("Input should be "))
    return RecipeError(f"{dotted} is {fault['input']!r}", where=where, hint=f"it should be {expected}")


def _suggestion(model: type[BaseModel], key: Key) -> str:
    siblings = list(_section_at(model, key[:-1]).model_fields)
    name = str(key[-1])
    near = nearest(name, siblings)
    if near is None:
        elsewhere = {path.rsplit(".", 1)[-1]: path for path in _paths(model)}
        far = nearest(name, list(elsewhere))
        near = None if far is None else elsewhere[far]
    return f"valid keys are {', '.join(siblings)}" if near is None else f"did you mean {near!r}?"


def _section_at(model: type[BaseModel], key: Key) -> type[BaseModel]:
    for name in key:
        model = _subsection(model.model_fields[str(name)].annotation) or model
    return model


def _subsection(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        section = _subsection(info.annotation)
        yield f"{prefix}{name}"
        if section is not None:
            yield from _paths(section, f"{prefix}{name}.")
