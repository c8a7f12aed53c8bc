"""Errors that a user can act on.

Each says what is wrong, where, and what to do, in one line. The command line prints that line and exits with
``exit_code``; nothing else in the library prints or exits. Every child is also the standard error that it refines.
"""

from pathlib import Path


class SpectraError(Exception):
    """Base of all errors that spectra raises on purpose.

    Parameters
    ----------
    what
        What is wrong, without a full stop.
    where
        The file, directory, module or key concerned.
    hint
        What the user can do about it.
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
    """A recipe has an unknown key or a value that is out of range."""

    exit_code = 2


class RunNotFoundError(SpectraError, FileNotFoundError):
    """A path does not exist, or holds nothing that spectra recognises as a run."""


class RunExistsError(SpectraError, FileExistsError):
    """Training would write into a run that holds something else."""


class CorruptFileError(SpectraError, ValueError):
    """A file exists, and its content is not what its name promises."""


class BaseModelError(SpectraError, ValueError):
    """The base weights are missing, unknown, or not the ones that the update was made on."""


class MissingInitialError(SpectraError, ValueError):
    """A method that moves the base at initialisation was saved without its step-0 adapter."""


class UnsupportedMethodError(SpectraError, NotImplementedError):
    """The update exists, and spectra cannot read it exactly: refusing beats guessing."""


class MissingDependencyError(SpectraError, ImportError):
    """An optional package is needed for this command."""


class DivergedError(SpectraError, ArithmeticError):
    """A gradient is no longer finite."""


class StudyError(SpectraError, RuntimeError):
    """Some runs of a study failed; the others are done."""


class EngineError(SpectraError, RuntimeError):
    """The processes that compute failed, and not the data."""
