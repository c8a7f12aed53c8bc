"""A full-rank update of a large module never becomes a second matrix of the base's size."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spectra.analysis.tables.spectral import measure_matrix
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.operators.basic import LowRank
from spectra.weights.readers.families.lora import _with_magnitude
from tests.builders import randn


class LargestResult(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            # A view shares the memory of what it views.
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in self.known:
                self.numbers = max(self.numbers, made.numel())
        return out


@pytest.mark.parametrize(("rows", "columns"), [(384, 2240), (2240, 384)])  # 1536 × 8960, a quarter of each side
def test_dora_is_projected_without_a_second_matrix_of_the_base_size(rows: int, columns: int) -> None:
    weight = randn(rows, columns)
    basis = decompose(weight)
    low = LowRank(1e-3 * randn(rows, 8, seed=1), randn(8, columns, seed=2))
    magnitude = torch.linalg.vector_norm(weight, dim=1) * (1 + 1e-3 * randn(rows, seed=3))
    with LargestResult(weight) as largest:
        measure_matrix(weight, basis, _with_magnitude(weight, low, magnitude))
    assert 0 < largest.numbers < weight.numel() // 2
