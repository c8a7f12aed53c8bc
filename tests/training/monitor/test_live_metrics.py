"""The numbers of one snapshot: over what has moved, and what they warn of."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectra.runs.directory import Snapshot
from spectra.training.monitor.live_metrics import LiveMetrics, LiveMetricsReader, live_warnings
from spectra.weights.storage.tensors import TensorStore
from tests.builders import lora_config, randn, small_base, small_factors, write_adapter, write_model


def test_warnings() -> None:
    fine = LiveMetrics(1e-3, 4.0, 0.4, 0.0)
    flat = [{"zero_advantage_share": 0.2, "entropy": 1.0}] * 40
    assert live_warnings(fine, 8, flat) == []
    assert "NaN" in live_warnings(LiveMetrics(math.nan, 4.0, 0.4, 0.0), 8, [])[0]
    assert "far beyond" in live_warnings(LiveMetrics(0.2, 4.0, 0.4, 0.0), 8, [])[0]
    assert "one direction" in live_warnings(LiveMetrics(1e-3, 1.1, 0.97, 0.8), 8, [])[0]
    silent = [{"zero_advantage_share": 1.0}] * 10
    assert live_warnings(fine, 8, silent) == ["step 8: 100% of the groups give no gradient"]
    falling = [{"entropy": 1.0}] * 10 + [{"entropy": 0.01}] * 10
    assert live_warnings(fine, 8, falling) == ["step 8: entropy is under 10% of its initial value"]
    resized = LiveMetrics(1e-3, 4.0, 0.4, 0.0, {"lm_head": "has shape (9, 4)", "embed": "has shape (9, 4)"})
    assert live_warnings(resized, 8, []) == ["step 8: lm_head is not measured (and 1 more): has shape (9, 4)"]
    assert not any("skipped" in name for name in resized.logged())


def read(path: Path, base: Path, kind: str = "full") -> LiveMetrics | None:
    return LiveMetricsReader(TensorStore.open_model(base)).read(Snapshot(1, path, kind))  # type: ignore[arg-type]


@pytest.mark.parametrize("moved", [0, 1, 2, 6])
def test_the_median_is_over_what_has_moved(moved: int, tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    matrices = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)
    assert len(matrices) == 6
    for number, name in enumerate(matrices[:moved], start=1):
        tensors[name] = tensors[name] * (1 + 1e-3 * number)
    metrics = read(write_model(tmp_path / "now", tensors), base)
    assert metrics is not None
    assert metrics.relative_fro == pytest.approx(1e-3 * (moved + 1) / 2 if moved else 0.0, rel=1e-3)
    found = [warning for warning in live_warnings(metrics, 1, []) if "no weight has moved" in warning]
    assert len(found) == (moved == 0)


def test_spectra_are_of_the_matrices_that_moved(tmp_path: Path) -> None:
    base, factors = small_base(tmp_path / "base"), small_factors()
    for b, _ in list(factors.values())[1:]:
        b.zero_()
    metrics = read(write_adapter(tmp_path / "adapter", lora_config("base"), factors), base, "adapter")
    module, (b, a) = next(iter(factors.items()))
    change = 2 * b.double() @ a.double()
    weight = load_file(base / "model.safetensors")[f"{module}.weight"].double()
    energy = torch.linalg.svdvals(change) ** 2
    assert metrics is not None
    assert metrics.relative_fro == pytest.approx(float(change.norm() / weight.norm()), rel=1e-6)
    assert metrics.top1_energy == pytest.approx(float(energy[0] / energy.sum()), rel=1e-6)


def test_a_base_matrix_of_zeros_is_no_fault_of_the_update(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    matrices = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[matrices[0]].zero_()
    write_model(base, tensors)
    now = {name: tensor + 1e-3 * randn(*tensor.shape).float() for name, tensor in tensors.items()}
    metrics = read(write_model(tmp_path / "now", now), base)
    assert metrics is not None and 0 < metrics.relative_fro < 1
    now[matrices[0]][0, 0] = math.nan
    broken = read(write_model(tmp_path / "broken", now), base)
    assert broken is not None and math.isnan(broken.relative_fro)


def test_of_vectors_alone_there_is_nothing_to_say(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    vectors = {name: t + 1 for name, t in load_file(base / "model.safetensors").items() if t.ndim == 1}
    assert read(write_model(tmp_path / "now", vectors), base) is None
