"""Rows of local files: JSON lines and parquet."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from spectra.errors import CorruptFileError
from spectra.training.data.sources.source import Row, batched


def rows(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Return the rows of a file; of parquet, only the given columns.

    Raises
    ------
    CorruptFileError
        If it cannot be read, with the line where that is known.
    """
    return batched(_parquet(path, columns)) if path.suffix == ".parquet" else _json_lines(path)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[list[Row]]:
    try:
        with pq.ParquetFile(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            wanted = present or None  # without any, the error lists the file's columns
            for batch in file.iter_batches(columns=wanted):
                yield batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise CorruptFileError("cannot be read as parquet", where=path, hint="restore the file") from error


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:  # in text mode, an encoding error would have no line number
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                if line.strip():
                    yield json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                fault = f"is not UTF-8 (byte {error.start + 1} of the line)"
                raise CorruptFileError(fault, where=where, hint="write the file in UTF-8") from error
            except json.JSONDecodeError as error:
                raise CorruptFileError("is not JSON", where=where, hint="write one JSON object per line") from error
