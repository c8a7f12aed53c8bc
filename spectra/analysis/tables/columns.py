"""Rows of a table that are kept by column: a map of 256 cells is three arrays, and not 256 dictionaries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectra.runs.tables import SCHEMAS, conform, empty

Row = dict[str, Any]
Values = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """Some rows of one table.

    Attributes
    ----------
    values
        The columns, all of one length.
    key
        Columns that are the same in every row.
    """

    values: Mapping[str, Values]
    key: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Columns":
        """Return rows by column; a row without a value that others have gets None."""
        names = dict.fromkeys(name for row in rows for name in row)
        return cls({name: [row.get(name) for row in rows] for name in names})

    def keyed(self, key: Mapping[str, Any]) -> "Columns":
        """Return the rows with further columns that are the same in every row."""
        return Columns(self.values, {**key, **self.key})

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def __getitem__(self, index: int) -> Row:
        return {**self.key, **{name: _plain(values[index]) for name, values in self.values.items()}}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def to_frame(table: str, blocks: Sequence[Columns]) -> pd.DataFrame:
    """Return a table of many blocks, with the columns and types of its contract; what no block has is missing."""
    blocks = [block for block in blocks if len(block)]
    if not blocks:
        return empty(table)
    counts = [len(block) for block in blocks]
    return conform(table, pd.DataFrame({name: _column(name, blocks, counts) for name in SCHEMAS[table]}))


def _column(name: str, blocks: Sequence[Columns], counts: Sequence[int]) -> NDArray[Any]:
    if any(name in block.key for block in blocks):
        keys = np.array([block.key.get(name) for block in blocks], dtype=object)
        return np.repeat(keys, counts)
    parts = [block.values.get(name, [None] * count) for block, count in zip(blocks, counts, strict=True)]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return np.array([value for part in parts for value in part], dtype=object)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
