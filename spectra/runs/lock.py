"""Hold a directory against other processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spectra.errors import RunExistsError


@contextmanager
def exclusive(lock: Path, doing: str) -> Iterator[None]:
    """Hold the file ``lock`` while the block runs; the system lets go when the process dies, however it dies.

    Parameters
    ----------
    lock
        File to hold; its directory is made if it is missing.
    doing
        What the other process is doing, for the message: ``training this run``.

    Raises
    ------
    RunExistsError
        If another process holds it.
    """
    import fcntl

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            hint = "wait for it, or choose another --out"
            raise RunExistsError(f"another process is {doing}", where=lock.parent, hint=hint) from error
        yield
