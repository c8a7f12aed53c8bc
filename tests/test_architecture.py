"""What no layer contract says: no circle of modules, imports inside functions counted, and no crowded folder."""

import ast
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

import spectra

ROOT = Path(spectra.__file__).parent
MOST_FILES = 15


def modules() -> dict[str, Path]:
    """Return every module of spectra by its dotted name; a package is its ``__init__.py``."""
    files = {path.relative_to(ROOT.parent).with_suffix(""): path for path in ROOT.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}


def imported(path: Path, known: set[str]) -> set[str]:
    """Return the modules of ``known`` that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in names}
    return found & known


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module."""
    names = sorted(graph)
    edges = np.array([[name in graph[importer] for name in names] for importer in names])
    labels = connected_components(csr_matrix(edges), connection="strong")[1]
    members = defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        members[label].append(name)
    return [group for group in members.values() if len(group) > 1]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_modules_import_each_other_in_no_circle() -> None:
    files = modules()
    assert circles({name: imported(path, set(files)) for name, path in files.items()}) == []


def test_no_folder_is_crowded() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in modules().values():
        counts[path.parent.relative_to(ROOT)] += path.name != "__init__.py"
    assert {folder.as_posix(): count for folder, count in counts.items() if count > MOST_FILES} == {}
