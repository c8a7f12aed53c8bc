"""``spectra cache``: the decomposed bases that every run on a base shares."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CacheContents:
    """What the cache holds.

    Attributes
    ----------
    directory
        Where it is.
    matrices
        Decomposed base matrices.
    size
        Bytes.
    """

    directory: Path
    matrices: int
    size: int


def cache(*, clear: bool = False) -> CacheContents:
    """Return what the cache of decomposed bases holds, after emptying it if asked: every entry can be made again."""
    from spectra.config import cache_dir

    directory = cache_dir() / "bases"
    if clear:
        shutil.rmtree(directory, ignore_errors=True)
    files = list(directory.rglob("*.safetensors"))
    return CacheContents(directory, len(files), sum(file.stat().st_size for file in files))
