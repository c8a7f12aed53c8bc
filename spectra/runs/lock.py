"""Exclusive access to a directory across processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spectra.errors import RunExistsError


@contextmanager
def exclusive(lock: Path, doing: str) -> Iterator[None]:
    """Hold the lock file ``lock`` while the block runs; the operating system releases it when the process ends.

    A link at that path is neither followed nor truncated: a run copied from elsewhere may contain one.

    Parameters
    ----------
    lock
        Lock file; its directory is created if missing.
    doing
        Activity of the other process, for the error message: ``training this run``.

    Raises
    ------
    RunExistsError
        If another process holds the lock, or the file is a link.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, blocking=False, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout as error:
        hint = "wait for it, or choose another --out"
        raise RunExistsError(f"another process is {doing}", where=lock.parent, hint=hint) from error
    except OSError as error:
        if not lock.is_symlink():
            raise
        raise RunExistsError("is a link, and must be a plain file", where=lock, hint="remove it") from error
    try:
        yield
    finally:
        held.release()
