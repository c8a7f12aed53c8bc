"""Full weights stored as bitwise differences from the base: lossless, and small if few weights changed.

Reinforcement learning leaves most bfloat16 weights unchanged, bit for bit, and the high bytes of most float32 weights.
Each tensor is XORed with the base's, its bytes are sorted by significance, and the result, mostly zeros, is compressed
by zstd. A checksum of the restored bytes detects a wrong base.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from spectra.errors import BaseModelError, CorruptFileError
from spectra.runs.layout import MODEL_UPDATE
from spectra.weights.storage.tensors import TensorStore

Bytes = npt.NDArray[np.uint8]

FORMAT = "spectra-bit-difference-1"
_KEY = "spectra"
# Type names in the header, and back.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LEVEL = 1  # zstd's fastest; further compression costs several times the time


def write_difference(path: Path, state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Write tensors as differences from the base.

    Parameters
    ----------
    path
        The file to write.
    state
        The tensors, each in the dtype to restore.
    base
        The base's tensors by the same names. A tensor that is missing in the base or has another shape there is stored
        in full.
    """
    base = base.as_stored() if isinstance(base, TensorStore) else base
    blobs, header = {}, {}
    for name, tensor in state.items():
        now = _bytes(tensor)
        before = _base_bytes(name, tensor, base)
        blobs[name] = torch.frombuffer(
            bytearray(_packed(now if before is None else now ^ before, tensor)), dtype=torch.uint8
        )
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "against_base": before is not None,
            "checksum": zlib.crc32(now.data),
        }
    # One key: the order of several keys would differ from file to file.
    save_file(blobs, path, {_KEY: json.dumps({"format": FORMAT, "tensors": header})})


class DifferenceStore(Mapping[str, Tensor]):
    """Tensors of such a file, restored one at a time, in the orientation of the model's code.

    Parameters
    ----------
    path
        The file.
    base
        The base's tensors.

    Raises
    ------
    CorruptFileError
        If the file cannot be read.
    """

    def __init__(self, path: Path, base: TensorStore) -> None:
        self.path = path
        self._base = base.as_stored()
        self._blobs = TensorStore.open_file(path, base.open_files)
        self._header = _header(self._blobs)

    @classmethod
    def open_snapshot(cls, directory: Path, base: TensorStore) -> "DifferenceStore":
        """Open the differences in a snapshot's directory."""
        return cls(directory / MODEL_UPDATE, base)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor; raises :class:`BaseModelError` if the base is a different one."""
        facts = self._header[name]
        dtype, shape = _DTYPES[facts["dtype"]], tuple(facts["shape"])
        empty = torch.empty(shape, dtype=dtype)
        if not empty.numel():
            return empty
        found = _unpacked(self._blobs[name], empty)
        if facts["against_base"]:
            before = _base_bytes(name, empty, self._base)
            if before is None:
                raise self._other_base(name)
            found = found ^ before
        if zlib.crc32(found.data) != facts["checksum"]:
            raise self._other_base(name)
        return torch.from_numpy(found).view(dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: tuple(facts["shape"]) for name, facts in self._header.items()}

    @cached_property
    def half_precision(self) -> dict[str, torch.dtype]:
        """Dtype of each tensor stored in 16 bits."""
        dtypes = {name: _DTYPES[facts["dtype"]] for name, facts in self._header.items()}
        return {name: dtype for name, dtype in dtypes.items() if dtype in (torch.bfloat16, torch.float16)}

    @property
    def size(self) -> int:
        """Numbers in the snapshot."""
        return sum(map(prod, self.shapes.values()))

    def _other_base(self, name: str) -> BaseModelError:
        return BaseModelError(
            f"{name} cannot be restored: the base at {self._base.where} is not the one it was written against",
            where=self.path,
            hint="pass the base of this run with --base",
        )


def _header(blobs: TensorStore) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blobs.metadata.get(_KEY, "{}"))
    if found.get("format") != FORMAT:
        raise CorruptFileError(
            f"has format {found.get('format')!r}, this release reads {FORMAT!r}",
            where=blobs.where,
            hint="update spectra",
        )
    header: dict[str, Any] = found["tensors"]
    return header


def _bytes(tensor: Tensor) -> Bytes:
    if not tensor.numel():
        return np.zeros(0, np.uint8)
    found: Bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _base_bytes(name: str, tensor: Tensor, base: Mapping[str, Tensor]) -> Bytes | None:
    """Return the bytes of the base's tensor in the dtype of ``tensor``; None if there is none of its shape."""
    if name not in base:
        return None
    before = base[name]
    return _bytes(before.to(tensor.dtype)) if before.shape == tensor.shape else None


def _packed(data: Bytes, tensor: Tensor) -> bytes:
    import pyarrow as pa

    # High bytes (sign, exponent) change least: grouped, they are one run of zeros.
    planes = np.ascontiguousarray(data.reshape(tensor.numel(), tensor.element_size()).T)
    return bytes(pa.Codec("zstd", compression_level=_LEVEL).compress(planes, asbytes=True))


def _unpacked(blob: Tensor, tensor: Tensor) -> Bytes:
    import pyarrow as pa

    size = tensor.numel() * tensor.element_size()
    raw = pa.decompress(blob.numpy(), decompressed_size=size, codec="zstd", asbytes=True)
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(tensor.element_size(), -1)
    return np.ascontiguousarray(planes.T).reshape(-1)
