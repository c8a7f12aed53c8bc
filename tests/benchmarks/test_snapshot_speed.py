"""How much one snapshot of one matrix costs, beside the way that loose scripts take. Run by `make bench`.

Both sides are measured in one run, one thread, on a 576 × 1536 matrix (SmolLM2-135M's largest kind) with a rank-8
update. The script decomposes base and update densely for every checkpoint (float32, as published scripts do); spectra
decomposes the base once, in float64, and pays products with 8 columns for each snapshot.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

from spectra.analysis.tables.spectral import measure_matrix
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.operators.basic import LowRank
from tests.builders import matrix, randn

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def dense_script(weight: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> object:
    delta = (b @ a).float()
    u, _, vh = torch.linalg.svd(weight.float(), full_matrices=False)
    sigma = torch.linalg.svdvals(delta)
    return sigma, ((u.T @ delta) ** 2).sum(1), ((delta @ vh.T) ** 2).sum(0)


def test_a_snapshot_against_the_dense_script() -> None:
    torch.set_num_threads(1)
    weight, b, a = matrix(576, 1536, condition=1e4), randn(576, 8), randn(8, 1536, seed=1)
    basis = decompose(weight)
    once = median(seconds(lambda: decompose(weight)) for _ in range(ROUNDS))
    pairs = [
        (seconds(lambda: dense_script(weight, b, a)), seconds(lambda: measure_matrix(weight, basis, LowRank(b, a))))
        for _ in range(ROUNDS)
    ]
    ratio = median(script / ours for script, ours in pairs)
    print(f"\nper snapshot: {ratio:.0f} times less CPU than the dense script; the base once: {once:.2f} CPU-s")
    assert ratio > 1
