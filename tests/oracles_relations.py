"""How updates relate, worked out a second time: dense, float64, numpy only, straight from the definitions."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Row = dict[str, Any]

DIRECTIONS = 16


def rank(delta: Matrix) -> int:
    """Return the numerical rank: singular values above max(m, n)·eps·σ₁."""
    return int(np.linalg.matrix_rank(delta)) if delta.any() else 0


def frames(delta: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Return the first ``count`` left and right singular vectors as columns."""
    u, _, vh = np.linalg.svd(delta, full_matrices=False)
    return u[:, :count], vh[:count].T


def cosine(x: Matrix, y: Matrix) -> float:
    norms = np.sqrt((x**2).sum()) * np.sqrt((y**2).sum())
    return float((x * y).sum() / norms) if norms else float("nan")


def subspaces(x: Matrix, y: Matrix) -> tuple[float, float, int]:
    """Return ‖U_KᵀU'_K‖²/K, ‖V_KᵀV'_K‖²/K and K = min(16, both ranks)."""
    count = min(DIRECTIONS, rank(x), rank(y))
    if not count:
        return float("nan"), float("nan"), 0
    pairs = zip(frames(x, count), frames(y, count), strict=True)
    left, right = (float(np.linalg.norm(a.T @ b) ** 2 / count) for a, b in pairs)
    return left, right, count


def rank1_cosine(x: Matrix, y: Matrix) -> float:
    if not x.any() or not y.any():
        return float("nan")
    (u, v), (u_, v_) = frames(x, 1), frames(y, 1)
    return float(abs(u[:, 0] @ u_[:, 0]) * abs(v[:, 0] @ v_[:, 0]))


def pooled_r2(steps: Sequence[int], updates: Sequence[Matrix]) -> float:
    """Return 1 − Σ residual²/Σ(w − mean w)² of a least-squares line through every entry, pooled over entries."""
    points = np.stack([delta.ravel() for delta in updates])
    total = ((points - points.mean(0)) ** 2).sum()
    if len(steps) < 2 or total == 0:
        return float("nan")
    design = np.stack([np.ones(len(steps)), np.asarray(steps, np.float64)], 1)
    fitted = design @ np.linalg.lstsq(design, points, rcond=None)[0]
    return float(1 - ((points - fitted) ** 2).sum() / total)


def walk_r2(steps: Sequence[int]) -> float:
    """Return the R² of a walk with E⟨w_s, w_t⟩ = min(s, t): one with orthogonal steps has exactly that Gram matrix."""
    times = np.asarray(sorted(steps), np.float64)
    lengths = np.sqrt(np.diff(times, prepend=0.0))
    walk = np.cumsum(np.diag(lengths), axis=0)
    return pooled_r2(steps, list(walk))


def trajectory_row(step: int, updates: Mapping[int, Matrix]) -> Row:
    """Return the columns of ``trajectory`` that need nothing but the updates themselves."""
    now, last = updates[step], updates[max(updates)]
    before = [s for s in sorted(updates) if s <= step]
    left, right, count = subspaces(now, last)
    expected = [count / dim if count else float("nan") for dim in now.shape]
    return {
        "step": step,
        "cos_final": cosine(now, last),
        "subspace_final_left": left,
        "subspace_final_right": right,
        "expected_subspace_left": expected[0],
        "expected_subspace_right": expected[1],
        "rank1_cos_final": rank1_cosine(now, last),
        "linearity": pooled_r2(before, [updates[s] for s in before]),
        "expected_linearity": walk_r2(before) if len(before) > 1 else float("nan"),
    }


def share_in(space: Matrix, singular: Matrix) -> float:
    """Return how much of the column space of ``singular`` lies in the column space of ``space``."""
    q = np.linalg.qr(space)[0]
    p = np.linalg.qr(singular)[0]
    return float(np.linalg.norm(q.T @ p) ** 2 / p.shape[1])


def jaccard(x: NDArray[np.bool_], y: NDArray[np.bool_]) -> float:
    either = (x | y).sum()
    return float((x & y).sum() / either) if either else float("nan")


def hypergeometric(total: int, marked: int, drawn: int) -> tuple[float, float]:
    """Return mean and sd of the overlap of two random sets, summed over its whole distribution."""
    from math import comb

    weights = {k: comb(marked, k) * comb(total - marked, drawn - k) for k in range(min(marked, drawn) + 1)}
    every = comb(total, drawn)
    mean = sum(k * w for k, w in weights.items()) / every
    return mean, float(np.sqrt(sum((k - mean) ** 2 * w for k, w in weights.items()) / every))


def cluster_means(values: Sequence[float], clusters: Sequence[Any]) -> list[Matrix]:
    """Return the values of each cluster."""
    return [np.array([v for v, c in zip(values, clusters, strict=True) if c == name]) for name in sorted(set(clusters))]


def every_resample(groups: Sequence[Matrix]) -> Matrix:
    """Return the mean over all members of every possible resample of clusters with replacement."""
    count = len(groups)
    chosen = product(range(count), repeat=count)
    return np.array([np.concatenate([groups[i] for i in pick]).mean() for pick in chosen])
