"""The tables of an analysis: names, columns and units are a contract.

``Tables`` is what the wings exchange: analysis writes it, figures and notebooks read it. Needs pandas only.

Conventions that hold in every table:

- A *share* is a part of the whole ‖ΔW‖²_F, between 0 and 1, never renormalised to the base's span.
- q = min(out_features, in_features) is the number of singular directions of a base matrix.
- Where ΔW = 0 the norms and ``numerical_rank`` are 0; every share, z and shape is NaN: undefined, not zero.
- Where ΔW is not finite its norms are NaN, and it has no row outside ``modules``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from spectra.errors import CorruptFileError, RunNotFoundError
from spectra.runs.atomic import atomic_path
from spectra.runs.layout import AnalysisLayout

Schema = Mapping[str, str]

MODULES: Schema = {
    "step": "int64",
    "module": "str",  # base parameter's name without ".weight"
    "layer": "Int64",  # missing outside the blocks (embedding, head, final norm)
    "kind": "str",  # q_proj, down_proj, embed_tokens, input_layernorm …
    "out_features": "int64",
    "in_features": "Int64",  # missing for vectors (norms, biases); spectral columns are then NaN
    "method": "str",
    "delta_fro": "float64",
    "delta_spectral": "float64",
    "weight_fro": "float64",
    "relative_fro": "float64",
    "relative_spectral": "float64",
    "stable_rank": "float64",
    "effective_rank": "float64",
    "effective_rank_energy": "float64",
    "participation_ratio": "float64",
    "nuclear_ratio": "float64",
    "top1_energy": "float64",
    "rank_bound": "Int64",
    "numerical_rank": "Int64",
    "outside_left": "float64",
    "outside_right": "float64",
}
PROJECTION: Schema = {
    "step": "int64",
    "module": "str",
    "side": "str",  # left, right, joint
    "subspace": "str",  # principal, minor
    "fraction": "float64",
    "k": "int64",  # max(1, round(fraction · q)) directions
    "share": "float64",
    "expected": "float64",  # mean of the Haar null
    "lift": "float64",  # share / expected
    "z": "float64",  # (share − expected) / standard deviation of the Haar null
}
PROFILE: Schema = {
    "step": "int64",
    "module": "str",
    "side": "str",  # left, right
    "bin": "int64",
    "index_lo": "int64",  # first singular index of the bin, 0 is the largest singular value
    "index_hi": "int64",  # one past the last
    "update_share": "float64",
    "base_share": "float64",  # share of ‖W‖²_F in the same bin
    "expected": "float64",
}
SPECTRUM: Schema = {"step": "int64", "module": "str", "index": "int64", "sigma": "float64"}
# Further columns are what the run logged, see ``spectra.runs.series``; ``non_finite`` counts what was logged as NaN, ∞.
SERIES: Schema = {"step": "int64"}

SCHEMAS: Mapping[str, Schema] = {
    "modules": MODULES,
    "projection": PROJECTION,
    "profile": PROFILE,
    "spectrum": SPECTRUM,
    "series": SERIES,
}


# ‖ΔW‖/‖W‖ up to which an update is the rounding of float32 factors (a few half units in the last place), such as
# DoRA's magnitudes at step 0. Its numbers are exact, and its direction means nothing.
FLOAT32_ROUNDING = 2.0**-22

_SHAPE = [
    "stable_rank",
    "effective_rank",
    "effective_rank_energy",
    "participation_ratio",
    "nuclear_ratio",
    "top1_energy",
    "numerical_rank",
]


@dataclass(frozen=True)
class Tables:
    """The tables of one run, as DataFrames.

    Attributes
    ----------
    modules
        A row is step × module: norms and spectrum shape of ΔW.
    projection
        A row is step × module × side × subspace × fraction: energy shares beside their null.
    profile
        A row is step × module × side × bin: energy along the base's singular index.
    spectrum
        A row is step × module × index: singular values of ΔW.
    series
        A row is a logged step: reward, entropy, lengths, gradient norm.
    """

    modules: pd.DataFrame
    projection: pd.DataFrame
    profile: pd.DataFrame
    spectrum: pd.DataFrame
    series: pd.DataFrame

    def __getitem__(self, name: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, name)
        return frame

    def __iter__(self) -> Iterator[str]:
        return iter(SCHEMAS)

    @property
    def last_step(self) -> int:
        """The last analysed step."""
        return int(self.modules["step"].max())

    def resolved_modules(self) -> pd.DataFrame:
        """Return ``modules`` with the spectrum's shape missing where the update is nothing but rounding."""
        rounding = self.modules["relative_fro"] <= FLOAT32_ROUNDING
        rows = self.modules.copy()
        rows[_SHAPE] = rows[_SHAPE].mask(rounding)
        return rows

    def write(self, where: AnalysisLayout) -> None:
        """Write every table, each atomically."""
        for field in fields(self):
            write_table(self[field.name], where.table(field.name))

    @classmethod
    def read(cls, where: AnalysisLayout) -> "Tables":
        """Read every table of an analysis directory.

        Raises
        ------
        RunNotFoundError
            If the directory holds no analysis.
        CorruptFileError
            If a table is unreadable or lacks a column.
        """
        if not where.table("modules").exists():
            raise RunNotFoundError(
                "holds no analysis tables", where=where.root, cure="run `spectra analyze` on the run first"
            )
        return cls(**{name: read_table(name, where.table(name)) for name in SCHEMAS})


def conform(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with the columns of table ``name`` first, in order, each with its type."""
    schema = SCHEMAS[name]
    missing = [column for column in schema if column not in frame.columns]
    if missing:
        raise CorruptFileError(f"lacks column {missing[0]!r}", where=f"table {name}")
    extra = [column for column in frame.columns if column not in schema]
    return frame[[*schema, *extra]].astype(dict(schema)).reset_index(drop=True)


def empty(name: str) -> pd.DataFrame:
    """Return table ``name`` without rows."""
    return conform(name, pd.DataFrame({column: [] for column in SCHEMAS[name]}))


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write one table atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_table(name: str, path: Path) -> pd.DataFrame:
    """Read one table strictly: an unreadable file or a missing column is an error, never an empty frame."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CorruptFileError(
            f"cannot be read as table {name} ({error})", where=path, cure="delete it and run `spectra analyze` again"
        ) from error
    try:
        return conform(name, frame)
    except CorruptFileError as error:
        raise CorruptFileError(error.what, where=path, cure="run `spectra analyze` again") from error
