"""Cache of the singular bases of base matrices, keyed by content."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spectra.linalg.decompositions.basis import Basis, decompose
from spectra.runs.atomic import atomic_path

# Part of every path: change it when the result of `decompose` changes.
ALGORITHM = "tsqr-svd-float64-v2"


@dataclass(frozen=True)
class BasisCache:
    """A directory of decomposed bases, one safetensors file per matrix, named by the digest of the matrix.

    Attributes
    ----------
    directory
        Directory of the files; None disables the cache.
    """

    directory: Path | None

    def get(self, digest: str, weight: Float64[Tensor, "o i"]) -> tuple[Basis, bool]:
        """Return the basis of ``weight`` and whether it came from the cache."""
        path = None if self.directory is None else self.directory / ALGORITHM / f"{digest}.safetensors"
        found = _read(path, weight) if path is not None and path.exists() else None
        if found is not None:
            return found, True
        basis = decompose(weight)
        if path is not None:
            _write(basis, path)
        return basis, False


def _read(path: Path, weight: Tensor) -> Basis | None:
    """Return the stored basis, None if the file is corrupt: it is then recomputed."""
    try:
        with safe_open(path, framework="pt", device=str(weight.device)) as file:
            parts = {name: file.get_tensor(name) for name in ("vectors", "sigma", "tail")}
    except (OSError, SafetensorError):
        return None
    if len(parts["sigma"]) != min(weight.shape):
        return None
    return Basis(parts["vectors"], parts["sigma"], parts["tail"], (weight.shape[0], weight.shape[1]))


def _write(basis: Basis, path: Path) -> None:
    parts = {"vectors": basis.vectors, "sigma": basis.sigma, "tail": basis.tail}
    with atomic_path(path) as temporary:
        save_file({name: part.contiguous().cpu() for name, part in parts.items()}, temporary)
