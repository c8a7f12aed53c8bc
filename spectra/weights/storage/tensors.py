"""Tensors of a model directory, read lazily from safetensors, one at a time, sharded or not.

All matrices of a model are returned as outputs × inputs, even those stored the other way round, such as GPT-2's.

Never unpickles: ``pytorch_model.bin`` is refused with instructions to convert it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from spectra.errors import BaseModelError, CorruptFileError
from spectra.runs.atomic import read_json
from spectra.runs.layout import MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS
from spectra.weights.storage import conv1d
from spectra.weights.storage.open_files import OpenFiles

# By their names in safetensors.
_HALF = {"BF16": torch.bfloat16, "F16": torch.float16}


class TensorStore(Mapping[str, Tensor]):
    """The tensors of one or several safetensors files, by name.

    Only headers are read up front; ``store[name]`` reads one tensor, in its stored dtype. A model's matrices are O × I
    in ``store[name]`` and in ``shapes``; :meth:`as_stored` returns them as in the files.

    Parameters
    ----------
    files
        File of each tensor.
    where
        The directory or file, for error messages.
    is_model
        Whether the tensors are those of a model, with ``config.json`` in the same directory.
    open_files
        Already open files, shared with other stores; None means a new cache.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        where: Path,
        *,
        is_model: bool = True,
        open_files: OpenFiles | None = None,
    ) -> None:
        self.files = dict(files)
        self.where = where
        self.open_files = OpenFiles() if open_files is None else open_files
        self._is_model = is_model

    @classmethod
    def open_file(cls, path: Path, open_files: OpenFiles | None = None) -> "TensorStore":
        """Open one safetensors file, with tensors as stored.

        Parameters
        ----------
        path
            The file.
        open_files
            Already open files.

        Raises
        ------
        CorruptFileError
            If the file is truncated or not safetensors.
        """
        open_files = OpenFiles() if open_files is None else open_files
        return cls({name: path for name in open_files[path].keys()}, path, is_model=False, open_files=open_files)

    @classmethod
    def open_model(cls, directory: Path, open_files: OpenFiles | None = None) -> "TensorStore":
        """Open the weights of a HF model directory, following the shard index if there is one.

        Parameters
        ----------
        directory
            The model's directory.
        open_files
            Already open files.

        Raises
        ------
        BaseModelError
            If the directory contains no safetensors weights.
        CorruptFileError
            If a shard is missing or broken.
        """
        index = directory / MODEL_INDEX
        if index.exists():
            return cls._open_shards(directory, index, open_files)
        single = directory / MODEL_WEIGHTS
        if single.exists():
            file = cls.open_file(single, open_files)
            return cls(file.files, single, open_files=file.open_files)
        raise BaseModelError(
            f"holds neither {MODEL_WEIGHTS} nor {MODEL_INDEX}",
            where=directory,
            hint="pass a model directory saved as safetensors (`model.save_pretrained(dir)` writes one)",
        )

    @classmethod
    def _open_shards(cls, directory: Path, index: Path, open_files: OpenFiles | None) -> "TensorStore":
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CorruptFileError("has no weight_map", where=index, hint="restore the file")
        files = {str(name): directory / Path(str(shard)).name for name, shard in weight_map.items()}
        missing = sorted({path.name for path in files.values() if not path.exists()})
        if missing:
            raise CorruptFileError(
                f"names {missing[0]}, which is missing", where=index, hint="copy or download the missing shard"
            )
        return cls(files, directory, open_files=open_files)

    def __getitem__(self, name: str) -> Tensor:
        file = self.open_files[self.files[name]]
        with self._named(name):
            tensor: Tensor = file.get_tensor(name)
        return tensor.T.contiguous() if name in self.transposed else tensor

    def __contains__(self, name: object) -> bool:
        return name in self.files  # Mapping's own method would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def as_stored(self) -> "TensorStore":
        """Return the same tensors in the orientation of the files and of the model's code."""
        return TensorStore(self.files, self.where, is_model=False, open_files=self.open_files)

    @property
    def directory(self) -> Path:
        """The directory of the files."""
        return self.where if self.where.is_dir() else self.where.parent

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The ``config.json`` next to the tensors, parsed once; empty if there is none.

        Raises
        ------
        CorruptFileError
            If it cannot be read.
        """
        path = self.directory / MODEL_CONFIG
        return read_json(path) if path.exists() else {}

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """Metadata in the headers."""
        files = (self.open_files[path] for path in sorted(set(self.files.values())))
        return {key: value for file in files for key, value in (file.metadata() or {}).items()}

    @cached_property
    def transposed(self) -> frozenset[str]:
        """Names of the matrices that are stored I × O and returned O × I."""
        if not self._is_model or not conv1d.any_named(self.files):
            return frozenset()
        try:
            config = self.config
        except CorruptFileError:  # the reader of the model reports it
            config = {}
        return conv1d.stored_transposed({name: shape for name, (shape, _) in self._headers.items()}, config)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, from the headers alone."""
        stored = {name: shape for name, (shape, _) in self._headers.items()}
        return {name: shape[::-1] if name in self.transposed else shape for name, shape in stored.items()}

    @cached_property
    def half_precision(self) -> dict[str, torch.dtype]:
        """Dtype of each tensor stored in 16 bits, from the headers alone."""
        return {name: _HALF[code] for name, (_, code) in self._headers.items() if code in _HALF}

    @cached_property
    def _headers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each tensor as stored, file by file."""
        found = {}
        for name, path in sorted(self.files.items(), key=lambda held: held[1]):
            file = self.open_files[path]
            with self._named(name):
                held = file.get_slice(name)
            found[name] = (tuple(held.get_shape()), str(held.get_dtype()))
        return found

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except SafetensorError as error:
            raise CorruptFileError(
                f"lacks {name}, which its index names ({error})",
                where=self.files[name],
                hint="download it again",
            ) from error


def digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and bytes."""
    sha = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}\0".encode())
    sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
