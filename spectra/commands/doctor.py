"""``spectra doctor``: check the files of an adapter, a run or a checkpoint, without a full analysis."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra.analysis.doctor import Diagnosis


def doctor(path: Path, base: str | None = None, initial: Path | None = None) -> "Diagnosis":
    """Check a path. The result has ``lines()`` to print, ``as_json()`` and ``exit_code``.

    Parameters
    ----------
    path
        A run directory, an adapter, or a full checkpoint.
    base
        Base model; None uses the one that the run names.
    initial
        Step-0 adapter or residual base, for methods that move the base.

    Raises
    ------
    UsageError
        If there is no such directory, or PATH is a file.
    """
    from spectra.analysis.doctor import examine
    from spectra.errors import UsageError

    if path.is_file():
        raise UsageError("is a file", where=path, hint="pass the directory that contains it")
    if not path.is_dir():
        raise UsageError("no such directory", where=path, hint="pass the directory of a run, adapter or checkpoint")
    return examine(path, base, initial)
