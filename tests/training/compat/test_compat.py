"""The table of what is patched names every module, and the bounds of pyproject.toml are the versions of the table."""

import re
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from spectra.training import compat
from spectra.training.compat.library_warnings import HARMLESS

ROW = re.compile(r"^``(\w+)`` +(\S+)", re.MULTILINE)
HERE = Path(compat.__file__).parent
ROOT = Path(__file__).parents[3]
# What `pyproject.toml` does not install.
OPTIONAL = {"vllm", "deepspeed"}


def test_the_table_names_every_module() -> None:
    modules = {path.stem for path in HERE.glob("*.py")} - {"__init__", "library_warnings"}
    assert {name for name, _ in ROW.findall(compat.__doc__ or "")} == modules
    assert all((Path(__file__).parent / f"test_{name}.py").exists() for name in modules - {"deepspeed"})


def test_the_versions_of_the_table_are_installed_and_bounded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["optional-dependencies"]["train"]
    for name, tested in ROW.findall(compat.__doc__ or ""):
        if name not in OPTIONAL:
            major, minor = map(int, tested.split("."))
            assert version(name).startswith(f"{tested}."), name
            (requirement,) = [line for line in wanted if re.match(rf"{name}[<>=]", line)]
            assert requirement.endswith(f"<{major}.{minor + 1}"), name


def test_the_warnings_that_are_ignored_are_still_given() -> None:
    """A text that peft has no more would let the warning through under its new one."""
    root = Path(import_module("peft").__file__ or "").parent
    sources = [path.read_text(encoding="utf-8") for path in root.rglob("*.py")]
    missing = {message for message in HARMLESS if not any(message in source for source in sources)}
    assert missing == {"Sparse invariant checks are implicitly disabled"}  # torch's, in C++
