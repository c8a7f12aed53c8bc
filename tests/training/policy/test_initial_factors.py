"""Factors that a run began with: stacked on disk, and found again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import MissingInitialError
from spectra.runs.layout import ADAPTER_WEIGHTS
from spectra.training.policy.initial_factors import read_initial, stack

A, B = "base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"


def draw(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {A: torch.randn(3, 7, generator=generator), B: torch.randn(5, 3, generator=generator)}


def test_stacked_factors_multiply_to_the_difference() -> None:
    now, start = draw(1), draw(0)
    both = stack(now, start)
    torch.testing.assert_close(both[B] @ both[A], now[B] @ now[A] - start[B] @ start[A])


def test_the_initial_factors_are_read_from_either_form(tmp_path: Path) -> None:
    start = draw(0)
    for stacked, tensors in ((True, stack(start, start)), (False, start)):
        save_file(tensors, tmp_path / ADAPTER_WEIGHTS)
        found = read_initial(tmp_path, stacked=stacked)
        assert all(torch.equal(found[name], start[name]) for name in start)


def test_initial_factors_that_are_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInitialError, match="step-0 adapter is missing"):
        read_initial(tmp_path, stacked=False)
