"""All metrics of one matrix at one snapshot, each share with its null."""

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from spectra.linalg.decompositions import spectrum
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.alignment import Alignment, align, bin_edges, binned
from spectra.linalg.measures.tails import tail
from spectra.linalg.nulls.distributions import (
    centroid_distribution,
    diagonal_share_distribution,
    joint_share_distribution,
    share_distribution,
)
from spectra.linalg.nulls.haar_exact import Powers
from spectra.linalg.nulls.haar_moments import (
    haar_block_share,
    haar_centroid,
    haar_diagonal_share,
    haar_joint_share,
    haar_share,
)
from spectra.linalg.operators.basic import Operator

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
BINS = 32
MAP_BINS = 16

Row = dict[str, Any]

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True)
class Measurement:
    """Rows of each table, without ``step`` and ``module``.

    Attributes
    ----------
    modules, projection, profile, spectrum, map
        Rows of the table of that name.
    """

    modules: list[Row]
    projection: list[Row] = field(default_factory=list)
    profile: list[Row] = field(default_factory=list)
    spectrum: list[Row] = field(default_factory=list)
    map: list[Row] = field(default_factory=list)


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
    """Return all rows of one matrix.

    Parameters
    ----------
    weight
        The base weight W, O × I.
    basis
        Its singular basis.
    update
        ΔW. If it contains NaN or infinity, its norms are NaN and the other tables get no row.
    """
    if not update.is_finite():
        return Measurement([_not_finite_row(basis, update)])
    aligned = align(basis, weight, update)
    sigma = aligned.sigma
    shares = spectrum.energy_shares(sigma)
    concentration = float((shares**2).sum())
    return Measurement(
        [_module_row(basis, update, sigma, aligned) | _orientation(aligned, shares)],
        [row for k_fraction in FRACTIONS for row in _projection_rows(aligned, basis, shares, k_fraction)],
        _profile_rows(aligned, basis),
        [{"index": index, "sigma": sigma} for index, sigma in enumerate(sigma.tolist())],
        _map_rows(aligned, concentration),
    )


def measure_vector(weight: Float64[Tensor, " o"], update: Float64[Tensor, " o"]) -> Measurement:
    """Return the row of a norm or bias: sizes only, the spectral columns are NaN."""
    norm, base = float(torch.linalg.vector_norm(update)), float(torch.linalg.vector_norm(weight))
    sizes = {"delta_fro": norm, "weight_fro": base, "relative_fro": _ratio(norm, base)}
    return Measurement([{"out_features": len(weight), "in_features": None, **sizes}])


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


def _orientation(aligned: Alignment, shares: Tensor) -> Row:
    """Return the columns of ``modules`` that say where in the base's basis the energy lies, each with its null."""
    diagonal = aligned.diagonal_share()
    null = haar_diagonal_share(*aligned.shape, float((shares**2).sum()))
    return {
        "expected_centroid": 0.5 if len(aligned.left) > 1 else math.nan,
        **_centroid("left", aligned.centroid_left(), aligned.inside_left(), len(aligned.left)),
        **_centroid("right", aligned.centroid_right(), aligned.inside_right(), len(aligned.left)),
        "diagonal_share": diagonal,
        "expected_diagonal_share": null.mean,
        "z_diagonal_share": null.z(diagonal),
        "p_diagonal_share": diagonal_share_distribution(*aligned.shape, shares.numpy(force=True)).p(diagonal),
    }


def _centroid(side: str, index: float, inside: Powers, directions: int) -> Row:
    """Return the columns of one side's centroid, given as an index and written as a place from 0 to 1."""
    return {
        f"centroid_{side}": _ratio(index, float(directions - 1)),
        f"z_centroid_{side}": haar_centroid(directions, inside[0]).z(index),
        f"p_centroid_{side}": centroid_distribution(directions, inside).p(index),
    }


def _not_finite_row(basis: Basis, update: Operator) -> Row:
    rows, columns = basis.shape
    base = float(torch.linalg.vector_norm(basis.sigma))
    return {"out_features": rows, "in_features": columns, "weight_fro": base, "rank_bound": update.rank_bound}


def _projection_rows(aligned: Alignment, basis: Basis, shares: Tensor, fraction: float) -> list[Row]:
    rows, columns = basis.shape
    directions = len(basis.sigma)
    k = max(1, round(fraction * directions))
    concentration, p = float((shares**2).sum()), shares.numpy(force=True)
    nulls = {
        "left": (haar_share(k, rows, concentration), share_distribution(k, rows, p)),
        "right": (haar_share(k, columns, concentration), share_distribution(k, columns, p)),
        "joint": (haar_joint_share(k, rows, columns, concentration), joint_share_distribution(k, rows, columns, p)),
    }
    out = []
    for subspace, chosen in (("principal", slice(0, k)), ("minor", slice(directions - k, directions))):
        found = {
            "left": float(aligned.left_profile[chosen].sum()),
            "right": float(aligned.right_profile[chosen].sum()),
            "joint": aligned.joint_share(chosen),
        }
        for side, (null, law) in nulls.items():
            share = found[side]
            where = {"side": side, "subspace": subspace, "fraction": fraction, "k": k}
            beside = {"expected": null.mean, "lift": null.lift(share), "z": null.z(share), "p": law.p(share)}
            out.append({**where, "share": share, **beside})
    return out


def _profile_rows(aligned: Alignment, basis: Basis) -> list[Row]:
    edges = bin_edges(len(basis.sigma), BINS)
    base = binned(spectrum.energy_shares(basis.sigma), edges)
    sides = {
        "left": (binned(aligned.left_profile, edges), basis.shape[0]),
        "right": (binned(aligned.right_profile, edges), basis.shape[1]),
    }
    return [
        {
            "side": side,
            "bin": index,
            "index_lo": edges[index],
            "index_hi": edges[index + 1],
            "update_share": share,
            "base_share": base[index],
            "expected": (edges[index + 1] - edges[index]) / dimension,
        }
        for side, (shares, dimension) in sides.items()
        for index, share in enumerate(shares)
    ]


def _map_rows(aligned: Alignment, concentration: float) -> list[Row]:
    edges = bin_edges(len(aligned.left), MAP_BINS)
    widths = [stop - start for start, stop in pairwise(edges)]
    return [
        {
            "bin_left": i,
            "bin_right": j,
            "share": share,
            "expected": haar_block_share((widths[i], widths[j]), aligned.shape, concentration).mean,
        }
        for i, row in enumerate(aligned.map(MAP_BINS).tolist())
        for j, share in enumerate(row)
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
