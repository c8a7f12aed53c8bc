"""Tables of an analysis; their names, columns and units are a stable contract.

Analysis writes ``Tables``; figures and notebooks read it. Needs pandas only.

Conventions that hold in every table:

- A *share* is a fraction of ‖ΔW‖²_F, between 0 and 1, never renormalized to the base's span.
- q = min(out_features, in_features) is the number of singular directions of a base matrix.
- Where ΔW = 0 the norms and ``numerical_rank`` are 0; shares, z-scores and spectral shapes are NaN (undefined,
  not zero).
- Where ΔW is not finite its norms are NaN, and it has no row outside ``modules``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
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
    "centroid_left": "float64",  # mean base index of the energy on that side, 0 the first, 1 the last direction
    "centroid_right": "float64",
    "expected_centroid": "float64",
    "z_centroid_left": "float64",
    "z_centroid_right": "float64",
    "p_centroid_left": "float64",  # two-sided p-value under the Haar null
    "p_centroid_right": "float64",
    "diagonal_share": "float64",  # Σ (u_iᵀΔW v_i)²/‖ΔW‖²
    "expected_diagonal_share": "float64",
    "z_diagonal_share": "float64",
    "p_diagonal_share": "float64",
    "tail_hill": "float64",  # exponent of the tail of σ(ΔW), Hill
    "tail_alpha": "float64",  # exponent of the density of σ(ΔW)², as WeightWatcher fits it
    "tail_values": "Int64",  # singular values available to the fit
    "rounding_fro": "float64",  # ‖·‖_F of the error in ΔW from storing the snapshot in half precision; 0 if none
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
    "p": "float64",  # two-sided p-value under the Haar null
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
# |UᵀΔWV|² in blocks of equal count of base directions on both sides.
MAP: Schema = {
    "step": "int64",
    "module": "str",
    "bin_left": "int64",
    "bin_right": "int64",
    "share": "float64",
    "expected": "float64",
}
# How W as a whole moved. Computed for the snapshots that ``--deep`` chooses.
DRIFT: Schema = {
    "step": "int64",
    "module": "str",
    "nss": "float64",  # ‖σ(W + ΔW) − σ(W)‖/‖σ(W)‖
    "nss_error": "float64",  # bound on the rounding error of nss
    "rho_sigma": "float64",  # ‖σ(W + ΔW) − σ(W)‖/‖ΔW‖_F
    "kappa_spec": "float64",  # rho_sigma² · O·I/min(O, I): 1 for small isotropic updates
    "one_minus_cos": "float64",  # 1 − ⟨W, W + ΔW⟩/(‖W‖‖W + ΔW‖), computed from ΔW
    **{f"angle_{what}_k{k}": "float64" for k in (1, 4, 16, 64) for what in ("max", "mean")},  # degrees
    "rotation_head": "float64",  # median angle between u_i before and after, first 10 % of indices, degrees
    "rotation_tail": "float64",  # the same over the last 10 %
    "intruders": "Int64",  # of the first 10 left singular vectors of W + ΔW
    "intruder_energy": "float64",  # their share of ‖W + ΔW‖²
}
_MASKS = ("principal", "low_magnitude", "principal_not_low")
# Which entries of W moved visibly in bfloat16. Computed for the snapshots that ``--deep`` chooses.
COORDINATES: Schema = {
    "step": "int64",
    "module": "str",
    "unchanged_bf16": "float64",  # share of entries whose bfloat16 value did not change
    "unchanged_relative": "float64",  # |Δ| ≤ 1e-3·max(|w|, |w'|) between the bfloat16 values
    "unchanged_atol": "float64",  # |Δ| ≤ 1e-5 between the bfloat16 values
    "expected_unchanged_bf16": "float64",  # i.i.d. Gaussian noise of the same norm, through the same cast
    "z_unchanged_bf16": "float64",
    **{
        column: "float64"
        for mask in _MASKS
        for column in (
            f"density_{mask}",  # |M|/n
            f"overlap_{mask}",  # |M ∩ visible|/|visible|
            f"coverage_{mask}",  # |M ∩ visible|/|M|
            f"enrichment_{mask}",  # overlap/density
            f"expected_overlap_{mask}",  # i.i.d. Gaussian noise of the same norm, through the same cast
            f"z_overlap_{mask}",
        )
    },
    "row_gini": "float64",  # Gini coefficient of the row norms² of ΔW
    "column_gini": "float64",
    "expected_row_gini": "float64",
    "expected_column_gini": "float64",
}
# Relations between the snapshots of one run: each snapshot compared with the last.
TRAJECTORY: Schema = {
    "step": "int64",
    "module": "str",
    "cos_final": "float64",  # ⟨ΔW_t, ΔW_T⟩/(‖ΔW_t‖‖ΔW_T‖)
    "subspace_final_left": "float64",  # ‖U_K(t)ᵀU_K(T)‖²/K of ΔW, K = min(16, ranks)
    "subspace_final_right": "float64",
    "expected_subspace_left": "float64",
    "expected_subspace_right": "float64",
    "rank1_cos_final": "float64",  # |u₁(t)·u₁(T)|·|v₁(t)·v₁(T)|
    "linearity": "float64",  # pooled R² of a straight line through ΔW_s, s ≤ t
    "expected_linearity": "float64",  # of a random walk with steps in independent directions
    "left_at_start": "float64",  # ‖P₀ U(t)‖²/R: share of ΔW's column space in that of the first snapshot's factors
    "right_at_start": "float64",
    "expected_left_at_start": "float64",
    "expected_right_at_start": "float64",
}
# A metric against a sampled null. Computed for the snapshots that ``--deep`` chooses.
NULLS: Schema = {
    "step": "int64",
    "module": "str",
    "metric": "str",
    "null": "str",  # gaussian, low_rank, spectrum_matched, sign_flipped, permuted, adam_like
    "value": "float64",
    "expected": "float64",
    "sd": "float64",
    # 2.5 and 97.5 % quantiles of the draws or of the closed form; under 99 draws mean ∓ t·sd·√(1 + 1/n), of
    # angles on logarithms.
    "lo": "float64",
    "hi": "float64",
    "z": "float64",
    "p": "float64",  # two-sided
    "draws": "int64",  # 0 where the null has a closed form
}
# The whole run: means over matrices (a lift is mean share ÷ mean expected share), with value ± t·s of a bootstrap over
# layers.
SUMMARY: Schema = {
    "step": "int64",
    "metric": "str",
    "value": "float64",
    "lo": "float64",
    "hi": "float64",
    "expected": "float64",
    "matrices": "int64",
}
# Further columns are logged metrics, see ``spectra.runs.series``; ``non_finite`` counts values logged as NaN or ∞.
SERIES: Schema = {"step": "int64"}

SCHEMAS: Mapping[str, Schema] = {
    "modules": MODULES,
    "projection": PROJECTION,
    "profile": PROFILE,
    "spectrum": SPECTRUM,
    "map": MAP,
    "drift": DRIFT,
    "coordinates": COORDINATES,
    "nulls": NULLS,
    "trajectory": TRAJECTORY,
    "summary": SUMMARY,
    "series": SERIES,
}


# ‖ΔW‖/‖W‖ up to which an update is only the rounding of float32 factors (a few half units in the last place), such as
# DoRA's magnitudes at step 0. Its numbers are exact, but its direction is meaningless.
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
        One row per step × module: norms and spectral shape of ΔW.
    projection
        One row per step × module × side × subspace × fraction: energy shares and their null.
    profile
        One row per step × module × side × bin: energy along the base's singular index.
    spectrum
        One row per step × module × index: singular values of ΔW.
    series
        One row per logged step: reward, entropy, lengths, gradient norm.
    map
        One row per step × module × bin × bin: energy over both sides of the base's singular index.
    drift
        One row per step × module: how W as a whole moved.
    coordinates
        One row per step × module: which entries moved visibly in bfloat16.
    nulls
        One row per step × module × metric × null: a metric compared with a sampled null.
    trajectory
        One row per step × module: the snapshot compared with the last one.
    summary
        One row per step × metric: mean over matrices with its interval.
    """

    modules: pd.DataFrame
    projection: pd.DataFrame
    profile: pd.DataFrame
    spectrum: pd.DataFrame
    series: pd.DataFrame
    map: pd.DataFrame = field(default_factory=lambda: empty("map"))
    drift: pd.DataFrame = field(default_factory=lambda: empty("drift"))
    coordinates: pd.DataFrame = field(default_factory=lambda: empty("coordinates"))
    nulls: pd.DataFrame = field(default_factory=lambda: empty("nulls"))
    trajectory: pd.DataFrame = field(default_factory=lambda: empty("trajectory"))
    summary: pd.DataFrame = field(default_factory=lambda: empty("summary"))

    def __getitem__(self, name: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, name)
        return frame

    def __iter__(self) -> Iterator[str]:
        return iter(SCHEMAS)

    @property
    def last_step(self) -> int:
        """The last analyzed step."""
        return int(self.modules["step"].max())

    def resolved_modules(self) -> pd.DataFrame:
        """Return ``modules`` with the spectral shape set to missing where the update is only rounding."""
        rounding = self.modules["relative_fro"] <= FLOAT32_ROUNDING
        rows = self.modules.copy()
        rows[_SHAPE] = rows[_SHAPE].mask(rounding)
        return rows

    def write(self, where: AnalysisLayout) -> None:
        """Write every table, each atomically."""
        for table in fields(self):
            write_table(self[table.name], where.table(table.name))

    @classmethod
    def read(cls, where: AnalysisLayout) -> "Tables":
        """Read every table of an analysis directory.

        Raises
        ------
        RunNotFoundError
            If the directory contains no analysis.
        CorruptFileError
            If a table is unreadable or lacks a column.
        """
        if not where.table("modules").exists():
            raise RunNotFoundError(
                "contains no analysis tables", where=where.root, hint="run `spectra analyze` on the run first"
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
            f"cannot be read as table {name} ({error})", where=path, hint="delete it and run `spectra analyze` again"
        ) from error
    try:
        return conform(name, frame)
    except CorruptFileError as error:
        raise CorruptFileError(error.what, where=path, hint="run `spectra analyze` again") from error
