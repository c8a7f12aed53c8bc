"""Hold a directory against other processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spectra.errors import RunExistsError


@contextmanager
def exclusive(lock: Path, doing: str) -> Iterator[None]:
    """Hold the file ``lock`` while the block runs; the system lets go when the process dies, however it dies.

    A link in its place is neither followed nor emptied: a run that was copied from elsewhere may bring one.

    Parameters
    ----------
    lock
        File to hold; its directory is made if it is missing.
    doing
        What the other process is doing, for the message: ``training this run``.

    Raises
    ------
    RunExistsError
        If another process holds it, or it is a link.
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
