"""Errors that a user can act on.

Each states in one line what is wrong, where, and how to fix it. The command line prints that line and exits with
``exit_code``; nothing else in the library prints or exits. Every subclass is also the standard exception that it
refines.
"""

from pathlib import Path


class SpectraError(Exception):
    """Base class of all errors that spectra raises on purpose.

    Parameters
    ----------
    what
        What is wrong, without a period.
    where
        The file, directory, module or key concerned.
    hint
        How to fix it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        line = line if self.hint is None else f"{line}; {self.hint}"
        return " ".join(line.split())


class UsageError(SpectraError, ValueError):
    """The command was called with arguments that cannot work together."""

    exit_code = 2


class RecipeError(SpectraError, ValueError):
    """A recipe has an unknown key or an invalid value."""

    exit_code = 2


class RunNotFoundError(SpectraError, FileNotFoundError):
    """A path does not exist or contains nothing that spectra recognizes as a run."""


class RunExistsError(SpectraError, FileExistsError):
    """Training would write into a directory that contains a different run."""


class CorruptFileError(SpectraError, ValueError):
    """A file exists, but its content does not match its name."""


class BaseModelError(SpectraError, ValueError):
    """The base weights are missing, unknown, or not those that the run was trained on."""


class MissingInitialError(SpectraError, ValueError):
    """A method whose initialization changes the base weights was saved without its step-0 adapter."""


class UnsupportedMethodError(SpectraError, NotImplementedError):
    """spectra cannot read the update exactly, and refuses to guess."""


class MissingDependencyError(SpectraError, ImportError):
    """An optional package that is needed is not installed."""


class DivergedError(SpectraError, ArithmeticError):
    """A gradient is no longer finite."""


class StudyError(SpectraError, RuntimeError):
    """Some runs of a study failed; the others finished."""


class EngineError(SpectraError, RuntimeError):
    """A worker process failed; the data are not at fault."""
