"""The numbers of the tables, worked out a second time: dense, float64, straight from the definitions.

Slow on purpose, and independent on purpose: ``spectra.linalg``, ``spectra.weights``, ``spectra.analysis`` are not used.
Shape letters: m out-features, n in-features, q = min(m, n), r rank of ΔW.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Row = dict[str, Any]

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
BINS = 32
MOVES_BASE = (
    "pissa",
    "olora",
    "corda",
    "loftq",
    "milora",
)  # values of init_lora_weights after which W_0 is not the base
SIDES = ("left", "right", "joint")
SPECTRAL_COLUMNS = (
    *("stable_rank", "effective_rank", "effective_rank_energy", "participation_ratio", "nuclear_ratio", "top1_energy"),
    *("numerical_rank", "outside_left", "outside_right"),
)


class Basis(NamedTuple):
    """Thin singular value decomposition W = U Σ Vᵀ: ``left`` [m q], ``sigma`` [q] descending, ``right`` [n q]."""

    left: Matrix
    sigma: Matrix
    right: Matrix


def singular_basis(weight: Matrix) -> Basis:
    """Decompose a weight matrix densely in float64."""
    left, sigma, right = np.linalg.svd(np.asarray(weight, np.float64), full_matrices=False)
    return Basis(left, sigma, right.T)


def spectrum_sigma(delta: Matrix) -> Matrix:
    """Return all min(m, n) singular values of ΔW, descending."""
    sigma: Matrix = np.linalg.svd(np.asarray(delta, np.float64), compute_uv=False)
    return sigma


def modules_row(delta: Matrix, weight: Matrix, basis: Basis | None = None) -> Row:
    """Return the number columns of table ``modules`` for one matrix, or for one vector (spectral columns then NaN)."""
    row: Row = {"delta_fro": float(np.linalg.norm(delta)), "weight_fro": float(np.linalg.norm(weight))}
    row["relative_fro"] = row["delta_fro"] / row["weight_fro"]
    row |= dict.fromkeys(("delta_spectral", "relative_spectral", *SPECTRAL_COLUMNS), float("nan"))
    if delta.ndim != 2:
        return row
    basis = basis or singular_basis(weight)
    sigma = spectrum_sigma(delta)
    row |= {"delta_spectral": float(sigma[0]), "relative_spectral": float(sigma[0] / basis.sigma[0])}
    if row["delta_fro"] == 0.0:
        return row | {"numerical_rank": 0}
    row["stable_rank"] = row["delta_fro"] ** 2 / row["delta_spectral"] ** 2
    row |= _spectrum_shape(sigma)
    row["numerical_rank"] = int(np.sum(sigma > max(delta.shape) * np.finfo(np.float64).eps * sigma[0]))
    left, right = _energies(delta, basis)
    out_features, in_features = delta.shape
    row["outside_left"] = 0.0 if out_features <= in_features else 1.0 - float(left.sum())
    row["outside_right"] = 0.0 if in_features <= out_features else 1.0 - float(right.sum())
    return row


def projection_rows(
    delta: Matrix, weight: Matrix, fractions: Sequence[float] = FRACTIONS, basis: Basis | None = None
) -> list[Row]:
    """Return the rows of table ``projection`` for one matrix: side × subspace × fraction."""
    basis = basis or singular_basis(weight)
    q = min(delta.shape)
    energy = _energy(spectrum_sigma(delta))
    rows = []
    for fraction in fractions:
        k = max(1, round(fraction * q))
        nulls = _nulls(k, delta.shape, energy)
        for subspace, chosen in (("principal", slice(0, k)), ("minor", slice(q - k, q))):
            shares = _subspace_shares(delta, basis.left[:, chosen], basis.right[:, chosen])
            for side in SIDES:
                key = {"side": side, "subspace": subspace, "fraction": fraction, "k": k}
                rows.append(key | _beside_null(shares[side], *nulls[side]))
    return rows


def profile_rows(delta: Matrix, weight: Matrix, bins: int = BINS, basis: Basis | None = None) -> list[Row]:
    """Return the rows of table ``profile`` for one matrix: side × bin along the base's singular index."""
    basis = basis or singular_basis(weight)
    q = min(delta.shape)
    bins = min(bins, q)
    edges = [round(i * q / bins) for i in range(bins + 1)]
    base = basis.sigma**2 / np.sum(basis.sigma**2)
    rows = []
    for side, energies, dimension in zip(SIDES[:2], _energies(delta, basis), delta.shape, strict=True):
        for number, (low, high) in enumerate(pairwise(edges)):
            key = {"side": side, "bin": number, "index_lo": low, "index_hi": high}
            shares = {"update_share": float(energies[low:high].sum()), "base_share": float(base[low:high].sum())}
            rows.append(key | shares | {"expected": (high - low) / dimension})
    return rows


def haar_null_share(k: int, dim: int, p: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard deviation of ‖P ΔW‖²/‖ΔW‖² for a fixed rank-k projector P and ΔW oriented at random.

    With M = AᵀPA, A Haar in O(dim), the share is Σ p_r M_rr. Its moments are summed as exact fractions, so that the
    difference E X² − (E X)² loses nothing.
    """
    squares, cross = _pair_weights(p)
    moments = _Moments.of(k, dim)
    second = squares * moments.same + cross * moments.two
    return k / dim, float(second - Fraction(k, dim) ** 2) ** 0.5


def haar_null_joint(k: int, m: int, n: int, p: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard deviation of ‖P ΔW Q‖²/‖ΔW‖² for fixed rank-k projectors and ΔW oriented at random.

    The share is Σ_rs √(p_r p_s) M_rs N_rs with M = AᵀPA, A Haar in O(m), and N = BᵀQB, B Haar in O(n), independent.
    Flipping the sign of one column of A shows that a product of two entries of M has mean 0 unless every index in it
    appears an even number of times: rr·rr, rr·tt and rs·rs remain (the last twice, as rs·rs and rs·sr).
    """
    squares, cross = _pair_weights(p)
    left, right = _Moments.of(k, m), _Moments.of(k, n)
    second = squares * left.same * right.same + cross * (left.two * right.two + 2 * left.off * right.off)
    mean = Fraction(k * k, m * n)
    return float(mean), float(second - mean**2) ** 0.5


def adapted_modules(model: Any) -> list[str]:
    """Return the names of the base modules that a PeftModel adapts, as the base model spells them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = model.get_base_model().named_modules()
    return [name for name, module in modules if isinstance(module, BaseTunerLayer)]


def base_weights_float64(base_dir: Path) -> dict[str, Matrix]:
    """Return every ``.weight`` of a Hugging Face directory in float64, by module name."""
    return _weights(_load_base(base_dir))


def merged_minus_base_float64(base_dir: Path, adapter_dir: Path, initial_dir: Path | None = None) -> dict[str, Matrix]:
    """Return ΔW of every adapted module: peft's ``merge_and_unload`` in float64 minus the original base.

    Parameters
    ----------
    base_dir
        Hugging Face directory of the original base.
    adapter_dir
        Directory that ``PeftModel.from_pretrained`` loads.
    initial_dir
        The step-0 adapter, for methods that moved the base at initialisation (PiSSA and relatives): training ran on
        the residual W0 − s·B0·A0, which is put in place of the base before the adapter is merged as a plain LoRA.

    Raises
    ------
    ValueError
        If the adapter needs ``initial_dir`` and none is given.
    """
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    start = str(config.get("init_lora_weights"))
    if start.startswith(MOVES_BASE) and initial_dir is None:
        raise ValueError(f"{adapter_dir}: {start} moved the base, and its step-0 adapter is not given (initial_dir)")
    model = _load_base(base_dir)
    original = _weights(model)
    if initial_dir is not None:
        initial, _ = _merge_as_plain_lora(model, initial_dir, use_dora=False)  # s·B0·A0 alone, without magnitudes
        model = _load_base(base_dir)
        _set_weights(model, {name: original[name] - (initial[name] - original[name]) for name in original})
        merged, names = _merge_as_plain_lora(model, adapter_dir)
    else:
        merged, names = _merge(model, adapter_dir)
    return {name: merged[name] - original[name] for name in names}


class _Moments(NamedTuple):
    """Second moments of M = AᵀPA for A Haar in O(d), P of rank k: E M_rr², E M_rr M_tt and E M_rs² (r ≠ t, r ≠ s)."""

    same: Fraction
    two: Fraction
    off: Fraction

    @classmethod
    def of(cls, k: int, d: int) -> "_Moments":
        # A column of A is uniform on the sphere, so M_rr is Beta(k/2, (d−k)/2).
        same = Fraction(k * (k + 2), d * (d + 2))
        if d == 1:
            return cls(same, Fraction(0), Fraction(0))
        # tr M = k gives Σ_t E M_rr M_tt = k·E M_rr = k²/d; M² = M gives Σ_s E M_rs² = E M_rr = k/d.
        return cls(same, (Fraction(k * k, d) - same) / (d - 1), (Fraction(k, d) - same) / (d - 1))


def _pair_weights(p: Iterable[float]) -> tuple[Fraction, Fraction]:
    """Return Σ_r p_r² and Σ_{r≠t} p_r p_t for p rescaled to sum exactly to one."""
    exact = [Fraction(float(value)) for value in p]
    total = sum(exact, Fraction(0))
    squares = sum((value * value for value in exact), Fraction(0)) / total**2
    return squares, 1 - squares


def _energy(sigma: Matrix) -> Matrix:
    """Return p_r = s_r² / Σ s²; empty for ΔW = 0, which has no orientation."""
    return sigma**2 / np.sum(sigma**2) if sigma[0] > 0 else sigma[:0]


def _spectrum_shape(sigma: Matrix) -> Row:
    energy = _energy(sigma)
    return {
        "effective_rank": _exp_entropy(sigma / sigma.sum()),
        "effective_rank_energy": _exp_entropy(energy),
        "participation_ratio": float(1.0 / np.sum(energy**2)),
        "nuclear_ratio": float(sigma.sum() ** 2 / np.sum(sigma**2)),
        "top1_energy": float(energy[0]),
    }


def _exp_entropy(weights: Matrix) -> float:
    positive = weights[weights > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def _energies(delta: Matrix, basis: Basis) -> tuple[Matrix, Matrix]:
    """Return ‖u_iᵀΔW‖²/‖ΔW‖² and ‖ΔW v_i‖²/‖ΔW‖² for every singular index i; NaN for ΔW = 0."""
    total = float(np.sum(delta**2)) or float("nan")
    left = np.sum((basis.left.T @ delta) ** 2, axis=1) / total
    right = np.sum((delta @ basis.right) ** 2, axis=0) / total
    return left, right


def _subspace_shares(delta: Matrix, left: Matrix, right: Matrix) -> dict[str, float]:
    total = float(np.sum(delta**2)) or float("nan")
    from_left = left.T @ delta
    energies = {"left": from_left, "right": delta @ right, "joint": from_left @ right}
    return {side: float(np.sum(projected**2)) / total for side, projected in energies.items()}


def _nulls(k: int, shape: tuple[int, ...], energy: Matrix) -> dict[str, tuple[float, float]]:
    out_features, in_features = shape
    if energy.size == 0:
        means = {"left": k / out_features, "right": k / in_features, "joint": k * k / (out_features * in_features)}
        return {side: (mean, float("nan")) for side, mean in means.items()}
    return {
        "left": haar_null_share(k, out_features, energy),
        "right": haar_null_share(k, in_features, energy),
        "joint": haar_null_joint(k, out_features, in_features, energy),
    }


def _beside_null(share: float, expected: float, deviation: float) -> Row:
    z = (share - expected) / deviation if deviation != 0.0 else float("nan")
    return {"share": share, "expected": expected, "lift": share / expected, "z": z}


def _load_base(base_dir: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float64)


def _weights(model: Any) -> dict[str, Matrix]:
    tensors = model.state_dict().items()
    return {name.removesuffix(".weight"): t.numpy().copy() for name, t in tensors if name.endswith(".weight")}


def _set_weights(model: Any, weights: dict[str, Matrix]) -> None:
    import torch

    state = {f"{name}.weight": torch.from_numpy(weight) for name, weight in weights.items()}
    model.load_state_dict(state, strict=False)


def _merge(model: Any, adapter_dir: Path) -> tuple[dict[str, Matrix], list[str]]:
    from peft import PeftModel

    # Adapters are made in float32 whatever the base is: all must be float64 before anything is multiplied.
    adapted = PeftModel.from_pretrained(model, str(adapter_dir)).double()
    names = adapted_modules(adapted)
    return _weights(adapted.merge_and_unload()), names


def _merge_as_plain_lora(model: Any, adapter_dir: Path, **settings: Any) -> tuple[dict[str, Matrix], list[str]]:
    """Merge a copy of the adapter whose config no longer asks peft to redo the initialisation on the base."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "adapter"
        shutil.copytree(adapter_dir, copy)
        config = json.loads((copy / "adapter_config.json").read_text())
        (copy / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": True} | settings))
        return _merge(model, copy)
