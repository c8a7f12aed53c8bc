"""All metrics of one matrix at one snapshot, each share with its null."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from spectra.analysis.tables.columns import Columns, Row, Values
from spectra.linalg.decompositions import spectrum
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.alignment import Alignment, align_all, bin_edges, binned
from spectra.linalg.measures.tails import tail
from spectra.linalg.nulls.haar_moments import Null, haar_centroid, haar_diagonal_share, haar_joint_share, haar_share
from spectra.linalg.nulls.share_distributions import (
    centroid_distribution,
    diagonal_share_distribution,
    joint_share_distribution,
    share_distribution,
)
from spectra.linalg.operators.basic import Operator

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
BINS = 32
MAP_BINS = 16

Numbers = NDArray[np.float64]

SIDES, SUBSPACES = ("left", "right", "joint"), ("principal", "minor")

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True)
class Measurement:
    """Rows of each table, without ``step`` and ``module``.

    Attributes
    ----------
    modules, projection, profile, spectrum, map
        Rows of the table of that name.
    """

    modules: Columns
    projection: Columns = field(default_factory=lambda: Columns({}))
    profile: Columns = field(default_factory=lambda: Columns({}))
    spectrum: Columns = field(default_factory=lambda: Columns({}))
    map: Columns = field(default_factory=lambda: Columns({}))


def layer_of(module: str) -> int | None:
    """Return the layer index of a module, None outside the layers.

    >>> layer_of("model.layers.3.self_attn.q_proj"), layer_of("lm_head")
    (3, None)
    """
    match = _LAYER.search(module)
    return None if match is None else int(match[1])


def kind_of(module: str) -> str:
    """Return the module type, such as ``q_proj``.

    >>> kind_of("model.layers.3.self_attn.q_proj"), kind_of("model.layers.3.self_attn.q_proj.bias")
    ('q_proj', 'q_proj.bias')
    """
    parts = module.split(".")
    return ".".join(parts[-2:]) if parts[-1] == "bias" and len(parts) > 1 else parts[-1]


def measure_matrix(weight: Float64[Tensor, "o i"], basis: Basis, update: Operator) -> Measurement:
    """Return all rows of one matrix at one snapshot, see :func:`measure_snapshots`."""
    return measure_snapshots(weight, basis, [update])[0]


def measure_snapshots(weight: Float64[Tensor, "o i"], basis: Basis, updates: Sequence[Operator]) -> list[Measurement]:
    """Return all rows of one matrix at each of its snapshots; p-values are found for all of them at once.

    Parameters
    ----------
    weight
        The base weight W, O × I.
    basis
        Its singular basis.
    updates
        ΔW of each snapshot. If one contains NaN or infinity, its norms are NaN and the other tables get no row.
    """
    finite = [update.is_finite() for update in updates]
    measured = [update for update, ok in zip(updates, finite, strict=True) if ok]
    places = [_Place(found, basis) for found in align_all(basis, weight, measured)]
    base = _BaseBins(basis)
    tables = iter(zip(places, _projections(places), _orientations(places), strict=True))
    return [
        _measurement(base, update, *next(tables)) if ok else Measurement(Columns.of([_not_finite_row(basis, update)]))
        for update, ok in zip(updates, finite, strict=True)
    ]


@dataclass(frozen=True)
class _Place:
    """Where one update lies in the base's basis, and its energy shares."""

    aligned: Alignment
    basis: Basis

    @cached_property
    def shares(self) -> Tensor:
        """Energy shares of the singular values of ΔW, R."""
        return spectrum.energy_shares(self.aligned.sigma)

    @cached_property
    def concentration(self) -> float:
        """Σp²."""
        return float((self.shares**2).sum())


class _BaseBins:
    """What the rows of every snapshot take from the base.

    Parameters
    ----------
    basis
        Its singular basis.
    """

    def __init__(self, basis: Basis) -> None:
        self.shape = basis.shape
        self.edges = bin_edges(len(basis.sigma), BINS)
        self.shares = binned(spectrum.energy_shares(basis.sigma), self.edges)


def _measurement(base: _BaseBins, update: Operator, place: _Place, projection: Columns, where: Row) -> Measurement:
    sigma = place.aligned.sigma
    return Measurement(
        Columns.of([_module_row(place.basis, update, sigma, place.aligned) | where]),
        projection,
        _profile(place.aligned, base),
        Columns({"index": np.arange(len(sigma)), "sigma": sigma.numpy(force=True)}),
        _map(place.aligned),
    )


def measure_vector(weight: Float64[Tensor, " o"], update: Float64[Tensor, " o"]) -> Measurement:
    """Return the row of a norm or bias: sizes only, the spectral columns are NaN."""
    norm, base = float(torch.linalg.vector_norm(update)), float(torch.linalg.vector_norm(weight))
    sizes = {"delta_fro": norm, "weight_fro": base, "relative_fro": _ratio(norm, base)}
    return Measurement(Columns.of([{"out_features": len(weight), "in_features": None, **sizes}]))


def _module_row(basis: Basis, update: Operator, sigma: Tensor, aligned: Alignment) -> Row:
    rows, columns = basis.shape
    delta, base = float(torch.linalg.vector_norm(sigma)), float(torch.linalg.vector_norm(basis.sigma))
    return {
        "out_features": rows,
        "in_features": columns,
        "delta_fro": delta,
        "delta_spectral": float(sigma[0]),
        "weight_fro": base,
        "relative_fro": _ratio(delta, base),
        "relative_spectral": _ratio(float(sigma[0]), float(basis.sigma[0])),
        "stable_rank": spectrum.stable_rank(sigma),
        "effective_rank": spectrum.effective_rank(sigma),
        "effective_rank_energy": spectrum.effective_rank_energy(sigma),
        "participation_ratio": spectrum.participation_ratio(sigma),
        "nuclear_ratio": spectrum.nuclear_ratio(sigma),
        "top1_energy": spectrum.top1_energy(sigma),
        "rank_bound": update.rank_bound,
        "numerical_rank": spectrum.numerical_rank(sigma, rows, columns),
        "outside_left": aligned.outside_left(),
        "outside_right": aligned.outside_right(),
        **{f"tail_{name}": value for name, value in tail(sigma, rows, columns)._asdict().items()},
    }


def _orientations(places: Sequence[_Place]) -> list[Row]:
    """Return the columns of ``modules`` that say where in the base's basis the energy lies, each with its null."""
    if not places:
        return []
    directions, shape = len(places[0].aligned.left), places[0].aligned.shape
    diagonal = np.array([place.aligned.diagonal_share() for place in places])
    p_diagonal = diagonal_share_distribution(*shape, _padded(places)).p(diagonal[:, None])[:, 0].tolist()
    index = [value for p in places for value in (p.aligned.centroid_left(), p.aligned.centroid_right())]
    inside = [powers for p in places for powers in (p.aligned.inside_left(), p.aligned.inside_right())]
    second, third, fourth = np.array(inside).T
    p_centroid = centroid_distribution(directions, (second, third, fourth)).p(np.array(index)[:, None])[:, 0].tolist()
    rows: list[Row] = []
    for at, place in enumerate(places):
        null = haar_diagonal_share(*shape, place.concentration)
        row: Row = {"expected_centroid": 0.5 if directions > 1 else math.nan}
        for number, side in ((2 * at, "left"), (2 * at + 1, "right")):
            row[f"centroid_{side}"] = _ratio(index[number], float(directions - 1))
            row[f"z_centroid_{side}"] = haar_centroid(directions, inside[number][0]).z(index[number])
            row[f"p_centroid_{side}"] = p_centroid[number]
        rows.append(
            row
            | {
                "diagonal_share": float(diagonal[at]),
                "expected_diagonal_share": null.mean,
                "z_diagonal_share": null.z(float(diagonal[at])),
                "p_diagonal_share": p_diagonal[at],
            }
        )
    return rows


def _not_finite_row(basis: Basis, update: Operator) -> Row:
    rows, columns = basis.shape
    base = float(torch.linalg.vector_norm(basis.sigma))
    return {"out_features": rows, "in_features": columns, "weight_fro": base, "rank_bound": update.rank_bound}


def _projections(places: Sequence[_Place]) -> list[Columns]:
    """Return the rows of ``projection`` of each update: by fraction, then by subspace, then by side."""
    if not places:
        return []
    rows, columns = places[0].aligned.shape
    directions = min(rows, columns)
    chosen = [max(1, round(fraction * directions)) for fraction in FRACTIONS]
    shares = np.stack([_shares_of(place.aligned, chosen) for place in places])
    p = _p_values(np.array(chosen), (rows, columns), shares, _padded(places))
    nulls = [[_side_nulls(k, rows, columns, place.concentration) for k in chosen] for place in places]
    mean, sd = (
        _repeated([[[getattr(null, part) for null in sides] for sides in of_k] for of_k in nulls])
        for part in ("mean", "sd")
    )
    with np.errstate(all="ignore"):  # no spread: z is NaN
        z = np.where(sd > 0, (shares - mean) / sd, np.nan)
    same: dict[str, Values] = {
        "side": list(SIDES) * (len(chosen) * len(SUBSPACES)),
        "subspace": [subspace for _ in chosen for subspace in SUBSPACES for _ in SIDES],
        "fraction": np.repeat(FRACTIONS, len(SUBSPACES) * len(SIDES)),
        "k": np.repeat(chosen, len(SUBSPACES) * len(SIDES)),
    }
    numbers = {"share": shares, "expected": mean, "lift": shares / mean, "z": z, "p": p}
    return [
        Columns({**same, **{name: found[at].ravel() for name, found in numbers.items()}}) for at in range(len(places))
    ]


def _shares_of(aligned: Alignment, chosen: Sequence[int]) -> Numbers:
    """Return the shares of one update: fractions × subspaces × sides."""
    left, right = aligned.left_profile.numpy(force=True), aligned.right_profile.numpy(force=True)
    directions = len(left)
    subspaces = [(slice(0, k), slice(directions - k, directions)) for k in chosen]
    return np.array(
        [[(left[one].sum(), right[one].sum(), aligned.joint_share(one)) for one in both] for both in subspaces]
    )


def _p_values(chosen: NDArray[np.int64], shape: tuple[int, int], found: Numbers, shares: Numbers) -> Numbers:
    """Return the p-value of each share: one distribution per update, fraction and side."""
    updates, rows = len(shares), shape[0]
    k, spectra = np.tile(chosen, updates), np.repeat(shares, len(chosen), axis=0)
    values = found.reshape(len(k), len(SUBSPACES), len(SIDES))
    out = np.empty_like(values)
    for side, dim in enumerate(shape):
        out[:, :, side] = share_distribution(k, dim, spectra).p(values[:, :, side])
    out[:, :, 2] = joint_share_distribution(k, rows, shape[1], spectra).p(values[:, :, 2])
    return out.reshape(found.shape)


def _side_nulls(k: int, rows: int, columns: int, concentration: float) -> tuple[Null, Null, Null]:
    return (
        haar_share(k, rows, concentration),
        haar_share(k, columns, concentration),
        haar_joint_share(k, rows, columns, concentration),
    )


def _repeated(values: list[list[list[float]]]) -> Numbers:
    """Return updates × fractions × sides for both subspaces: chance is the same for either."""
    return np.repeat(np.array(values)[:, :, None, :], len(SUBSPACES), axis=2)


def _padded(places: Sequence[_Place]) -> Numbers:
    """Return the energy shares of all updates, N × R, with zeros where an update has fewer."""
    found = [place.shares.numpy(force=True) for place in places]
    out = np.zeros((len(found), max(map(len, found))))
    for row, shares in zip(out, found, strict=True):
        row[: len(shares)] = shares
    return out


def _profile(aligned: Alignment, base: _BaseBins) -> Columns:
    edges, bins = np.array(base.edges), len(base.edges) - 1
    update = [binned(profile, base.edges) for profile in (aligned.left_profile, aligned.right_profile)]
    return Columns(
        {
            "side": ["left"] * bins + ["right"] * bins,
            "bin": np.tile(np.arange(bins), 2),
            "index_lo": np.tile(edges[:-1], 2),
            "index_hi": np.tile(edges[1:], 2),
            "update_share": np.concatenate(update),
            "base_share": np.tile(base.shares, 2),
            "expected": np.concatenate([np.diff(edges) / dimension for dimension in base.shape]),
        }
    )


def _map(aligned: Alignment) -> Columns:
    widths = np.array([stop - start for start, stop in pairwise(bin_edges(len(aligned.left), MAP_BINS))])
    left, right = np.divmod(np.arange(len(widths) ** 2), len(widths))
    rows, columns = aligned.shape
    return Columns(
        {
            "bin_left": left,
            "bin_right": right,
            "share": aligned.map(MAP_BINS).numpy(force=True).ravel(),
            "expected": (widths[left] / rows) * (widths[right] / columns),  # the mean of `haar_block_share`
        }
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
