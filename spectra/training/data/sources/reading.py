"""Read the problems of any kind of source, and compute their digest."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from spectra.errors import RecipeError
from spectra.training.data.carry_addition import Problem
from spectra.training.data.sources import champ, files, generators, hub
from spectra.training.data.sources.benchmarks import benchmark_source
from spectra.training.data.sources.source import Source, to_problems

_PACKAGES = {"package:champ_dataset": champ.rows}
# State of a set of local files when it was read: name, size and modification time of each.
_Looks = tuple[tuple[str, int, int], ...]


def read(source: Source) -> list[Problem]:
    """Return the problems of a source, in its order, without a prompt format.

    Raises
    ------
    RecipeError
        If it is not found, or lacks what the recipe names.
    CorruptFileError
        If it has no problems or a faulty row; the error names the row.
    MissingDependencyError
        If it needs a package that is not installed.
    """
    if source.kind == "benchmark":
        source = benchmark_source(source.bare)
    return list(_read(source, _looks(source)))


def digest(source: Source) -> str:
    """Return the SHA-256 of a file, or of the problems for any other source."""
    if source.kind == "file":
        try:
            with Path(source.name).expanduser().open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            hint = "give a .jsonl or .parquet file, relative to the working directory"
            raise RecipeError("cannot be read", where=source.name, hint=hint) from error
    return problems_digest(read(source))


def problems_digest(problems: list[Problem]) -> str:
    """Return the SHA-256 of problems: their ids, prompts and gold answers."""
    sha = hashlib.sha256()
    for problem in problems:
        sha.update(json.dumps([problem.id, problem.prompt, problem.answer]).encode() + b"\n")
    return sha.hexdigest()


@lru_cache(maxsize=4)
def _read(source: Source, looks: _Looks) -> tuple[Problem, ...]:
    if source.kind == "generator":
        return tuple(generators.problems(source))
    if source.name in _PACKAGES:
        found = to_problems(_PACKAGES[source.name](), source)
    elif source.kind == "file":
        found = to_problems(files.rows(Path(source.name).expanduser(), source.columns), source)
    else:
        found = to_problems(hub.rows(source), source)
    return tuple(found)


def _looks(source: Source) -> _Looks:
    """Return the state of local files, which changes with them; empty for sources that are not local."""
    path = Path(source.name).expanduser()
    if source.kind not in ("file", "dataset") or not path.exists():
        return ()
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.is_file())
