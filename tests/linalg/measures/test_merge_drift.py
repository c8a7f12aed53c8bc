"""Merging and unmerging, against peft's own ``merge_adapter`` and ``unmerge_adapter``, bit for bit."""

from typing import Any

import pytest
import torch
from torch import nn

from spectra.linalg.measures.merge_drift import drift, merge_cycle, simulate
from tests.builders import randn


def lora(dtype: torch.dtype, *, adapter: torch.dtype = torch.float32, size: int = 48) -> Any:
    """Return a peft model of one linear layer with a trained-looking LoRA."""
    from peft import LoraConfig, get_peft_model

    linear = nn.Sequential(nn.Linear(size, 2 * size, bias=False))
    linear[0].weight.data = (randn(2 * size, size, seed=1) * 0.05).to(dtype)
    model = get_peft_model(linear, LoraConfig(r=4, lora_alpha=8, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.lora_B["default"].weight.data = (randn(2 * size, 4, seed=2) * 2e-4).to(adapter)
    layer.lora_A["default"].weight.data = randn(4, size, seed=3).to(adapter)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("safe", [False, True])
def test_equal_to_peft_bit_for_bit(dtype: torch.dtype, safe: bool) -> None:
    model = lora(dtype)
    layer = model.base_model.model[0]
    start = layer.get_base_layer().weight.detach().clone()
    found = simulate(start, layer.get_delta_weight("default").detach(), dtype, [0, 1, 7, 40], safe=safe)
    assert torch.equal(found[0], start)
    for cycle in range(1, 41):
        model.merge_adapter(safe_merge=safe)
        model.unmerge_adapter()
        if cycle in found:
            assert torch.equal(found[cycle], layer.get_base_layer().weight)
    assert not torch.equal(found[40], start)


def test_equal_to_peft_with_a_half_precision_adapter() -> None:
    model = lora(torch.bfloat16, adapter=torch.bfloat16)
    layer = model.base_model.model[0]
    start = layer.get_base_layer().weight.detach().clone()
    delta = layer.get_delta_weight("default").detach()
    assert delta.dtype == torch.bfloat16
    for _ in range(5):
        model.merge_adapter()
        model.unmerge_adapter()
    assert torch.equal(simulate(start, delta, torch.bfloat16, [5])[5], layer.get_base_layer().weight)


def test_a_growing_update_is_equal_to_peft_too() -> None:
    model = lora(torch.bfloat16)
    layer = model.base_model.model[0]
    start, final = layer.get_base_layer().weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()
    deltas = {}
    for cycle in range(1, 13):
        layer.lora_B["default"].weight.data = final * (cycle / 12)
        deltas[cycle] = layer.get_delta_weight("default").detach()
        model.merge_adapter()
        model.unmerge_adapter()
    assert torch.equal(
        simulate(start, lambda cycle: deltas[cycle], torch.bfloat16, [12])[12], layer.get_base_layer().weight
    )


@pytest.mark.parametrize("rows", [1, 5, 31])
def test_a_sample_of_entries_is_exact_on_that_sample(rows: int) -> None:
    weight, update = randn(31, 17, seed=4) * 0.1, (randn(31, 17, seed=5) * 1e-3).float()
    whole = simulate(weight, update, torch.bfloat16, [1, 50])
    part = simulate(weight[:rows], update[:rows], torch.bfloat16, [1, 50])
    assert all(torch.equal(whole[cycle][:rows], part[cycle]) for cycle in (1, 50))


def test_the_short_cut_of_constant_updates_changes_nothing() -> None:
    weight, update = (randn(64, 64, seed=6) * 0.02).to(torch.bfloat16), (randn(64, 64, seed=7) * 1e-3).float()
    slow = weight
    for _ in range(100):
        slow = merge_cycle(slow, update)
    assert torch.equal(simulate(weight, update, torch.bfloat16, [100])[100], slow)
    assert torch.equal(simulate(weight, lambda _: update, torch.bfloat16, [100])[100], slow)


def test_nothing_is_lost_where_nothing_is_added() -> None:
    weight = randn(8, 8)
    found = simulate(weight, torch.zeros(8, 8), torch.bfloat16, [3])[3]
    assert torch.equal(found, weight.to(torch.bfloat16))


def test_drift_by_hand() -> None:
    found = drift(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 2.5, 3.0, 3.0]))
    assert (found.max_abs, found.changed) == (1.0, 0.5)
    assert found.norm == pytest.approx(1.25**0.5)
    assert drift(torch.zeros(0), torch.zeros(0)).norm != drift(torch.zeros(0), torch.zeros(0)).norm


def test_half_precision_loses_what_float32_keeps() -> None:
    weight, update = randn(64, 64, seed=8) * 0.05, (randn(64, 64, seed=9) * 5e-5).float()
    lost = {}
    for dtype in (torch.bfloat16, torch.float32):
        growing = simulate(weight, lambda cycle: update * (cycle / 200), dtype, [0, 200])
        lost[dtype] = drift(growing[0], growing[200]).norm / float(update.double().norm())
    assert lost[torch.bfloat16] > 0.1
    assert lost[torch.float32] < 1e-3
