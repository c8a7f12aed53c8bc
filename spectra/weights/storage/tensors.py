"""Tensors of a model directory, read lazily from safetensors: one at a time, sharded or not.

Every matrix of a model is given outputs × inputs, also those that the files store the other way round: GPT-2's.

Never unpickles: ``pytorch_model.bin`` is refused with the way to convert it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spectra.errors import BaseModelError, CorruptFileError
from spectra.runs.atomic import read_json
from spectra.runs.layout import MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS
from spectra.weights.storage import conv1d

# As safetensors names them.
_HALF = {"BF16": torch.bfloat16, "F16": torch.float16}


class TensorStore(Mapping[str, Tensor]):
    """The tensors of one or several safetensors files, by name.

    Only headers are read up front; ``store[name]`` reads one tensor, in its stored dtype. A model's matrices are O × I,
    in ``store[name]`` and in ``shapes``; :meth:`as_stored` gives them as they are in the files.

    Parameters
    ----------
    files
        Which file holds each tensor.
    where
        The directory or file, for messages.
    is_model
        Whether the tensors are a model's, whose ``config.json`` lies beside them.
    """

    def __init__(self, files: Mapping[str, Path], where: Path, *, is_model: bool = True) -> None:
        self.files = dict(files)
        self.where = where
        self._is_model = is_model

    @classmethod
    def open_file(cls, path: Path) -> "TensorStore":
        """Open one safetensors file, its tensors as they are stored.

        Raises
        ------
        CorruptFileError
            If the file is truncated or not safetensors.
        """
        with _opened(path) as file:
            return cls({name: path for name in file.keys()}, path, is_model=False)

    @classmethod
    def open_model(cls, directory: Path) -> "TensorStore":
        """Open the weights of a HF model directory, following the shard index where there is one.

        Raises
        ------
        BaseModelError
            If the directory holds no safetensors weights.
        CorruptFileError
            If a shard is missing or broken.
        """
        index = directory / MODEL_INDEX
        if index.exists():
            return cls._open_shards(directory, index)
        single = directory / MODEL_WEIGHTS
        if single.exists():
            return cls(cls.open_file(single).files, single)
        raise BaseModelError(
            f"holds neither {MODEL_WEIGHTS} nor {MODEL_INDEX}",
            where=directory,
            hint="give a model directory saved as safetensors (`model.save_pretrained(dir)` writes one)",
        )

    @classmethod
    def _open_shards(cls, directory: Path, index: Path) -> "TensorStore":
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CorruptFileError("has no weight_map", where=index, hint="restore the file")
        files = {str(name): directory / Path(str(shard)).name for name, shard in weight_map.items()}
        missing = sorted({path.name for path in files.values() if not path.exists()})
        if missing:
            raise CorruptFileError(
                f"names {missing[0]}, which is not there", where=index, hint="copy or download the missing shard"
            )
        return cls(files, directory)

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self._file(name)) as file, self._named(name):
            tensor: Tensor = file.get_tensor(name)
        return tensor.T.contiguous() if name in self.transposed else tensor

    def __contains__(self, name: object) -> bool:
        return name in self.files  # a mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def as_stored(self) -> "TensorStore":
        """Return the same tensors in the orientation of the files, as the model's own code has them."""
        return TensorStore(self.files, self.where, is_model=False)

    @cached_property
    def transposed(self) -> frozenset[str]:
        """Names of the matrices that the files hold I × O, and this store gives O × I."""
        if not self._is_model or not conv1d.any_named(self.files):
            return frozenset()
        return conv1d.stored_transposed(self._stored_shapes, _config(self.where))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, from the headers alone."""
        stored = self._stored_shapes.items()
        return {name: shape[::-1] if name in self.transposed else shape for name, shape in stored}

    @cached_property
    def _stored_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(header.get_shape()) for name, header in self._headers()}

    @cached_property
    def half_precision(self) -> dict[str, torch.dtype]:
        """Dtype of each tensor that is stored in 16 bits, from the headers alone."""
        codes = ((name, header.get_dtype()) for name, header in self._headers())
        return {name: _HALF[code] for name, code in codes if code in _HALF}

    def _headers(self) -> Iterator[tuple[str, Any]]:
        """Yield the safetensors slice of each tensor: shape and dtype, nothing read."""
        for path in sorted(set(self.files.values())):
            with _opened(path) as file:
                for name in (name for name, holder in self.files.items() if holder == path):
                    with self._named(name):
                        header = file.get_slice(name)
                    yield name, header

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except SafetensorError as error:
            raise CorruptFileError(
                f"does not hold {name}, which its index names ({error})",
                where=self.files[name],
                hint="download it again",
            ) from error

    def _file(self, name: str) -> Path:
        if name not in self.files:
            raise KeyError(name)
        return self.files[name]


def digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and bytes."""
    sha = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}\0".encode())
    sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(where: Path) -> dict[str, Any]:
    """Return the configuration beside a model's tensors; nothing where there is none that can be read."""
    path = (where if where.is_dir() else where.parent) / MODEL_CONFIG
    try:
        return read_json(path) if path.exists() else {}
    except CorruptFileError:  # what reads the model says so
        return {}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(
            f"cannot be read as safetensors ({error})", where=path, hint="copy or download the file again"
        ) from error
