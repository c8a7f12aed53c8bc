"""Cache of open safetensors files: each is mapped once and its header parsed once."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spectra.errors import CorruptFileError

# An open file is a mapping without a file descriptor. Linux allows 65,530 mappings per process.
LIMIT = 256


class OpenFiles:
    """Open safetensors files by path; beyond a limit the least recently used one is closed.

    Tensors are views of the mapped file: they are read, never written. A copy sent to another process has no open
    files and opens its own.

    Parameters
    ----------
    limit
        Maximum number of open files.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._opened = lru_cache(maxsize=limit)(_opened)

    def __getitem__(self, path: Path) -> Any:
        """Return an open file.

        Raises
        ------
        CorruptFileError
            If the file is missing, truncated or not safetensors.
        """
        return self._opened(path)

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[int]]:
        return OpenFiles, (self._limit,)


def _opened(path: Path) -> Any:  # of safetensors, which declares no types
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(
            f"cannot be read as safetensors ({error})", where=path, hint="copy or download the file again"
        ) from error
