"""SHA-256 digests of weight files, recomputed only if size or modification time change."""

import hashlib
from pathlib import Path

from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json, write_json
from spectra.weights.storage.tensors import file_digest


class FileDigests:
    """SHA-256 digests of files, stored between calls.

    Parameters
    ----------
    path
        The JSON file that stores the digests.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._known = read_json(path) if path.exists() else {}
        except CorruptFileError:
            self._known = {}  # only a cache: a corrupt one is rebuilt

    def of(self, file: Path) -> str:
        """Return the digest of one file."""
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        name = str(file.resolve())
        known = self._known.get(name)
        if not (isinstance(known, list) and known[:2] == stamp):
            self._known[name] = [*stamp, file_digest(file)]
        return str(self._known[name][2])

    def save(self) -> None:
        """Write the known digests."""
        write_json(self.path, self._known)


def content_key(*parts: str) -> str:
    """Return one short digest of several strings."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
