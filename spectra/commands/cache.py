"""``spectra cache``: decomposed base matrices, shared by all runs on the same base model."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CacheContents:
    """Contents of the cache.

    Attributes
    ----------
    directory
        Path of the cache.
    matrices
        Number of decomposed base matrices.
    size
        Size in bytes.
    """

    directory: Path
    matrices: int
    size: int


def cache(*, clear: bool = False) -> CacheContents:
    """Return the contents of the cache of decomposed bases; ``clear`` deletes them first (recomputed on demand)."""
    from spectra.config import cache_dir

    directory = cache_dir() / "bases"
    if clear:
        shutil.rmtree(directory, ignore_errors=True)
    files = list(directory.rglob("*.safetensors"))
    return CacheContents(directory, len(files), sum(file.stat().st_size for file in files))
