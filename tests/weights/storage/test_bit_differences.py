"""Full weights as bit differences: lossless for every dtype, small if little changed, refused on a wrong base."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.errors import BaseModelError, CorruptFileError
from spectra.runs.layout import MODEL_UPDATE
from spectra.weights.storage.bit_differences import DifferenceStore, write_difference
from spectra.weights.storage.tensors import TensorStore
from tests.builders import randn, write_model

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def base_store(directory: Path, dtype: torch.dtype) -> TensorStore:
    tensors = {"a.weight": randn(40, 60, seed=0), "b.weight": randn(7, seed=1), "c.weight": torch.zeros(0, 3)}
    return TensorStore.open_model(write_model(directory, {name: t.to(dtype) for name, t in tensors.items()}))


def same(left: Tensor, right: Tensor) -> bool:
    """Equal bit for bit, NaN and −0 included."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) if t.numel() else t for t in (left, right)]
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(*bits)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("trained", DTYPES)
def test_restored_bit_for_bit(stored: torch.dtype, trained: torch.dtype, tmp_path: Path) -> None:
    base = base_store(tmp_path / "base", stored)
    state = {name: (base[name].double() + 1e-2).to(trained) for name in base}
    state["a.weight"][0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324]).to(trained)
    state["new.weight"] = randn(3, 5, seed=9).to(trained)  # not in the base
    state["b.weight"] = randn(9, seed=3).to(trained)  # another shape than in the base
    write_difference(tmp_path / MODEL_UPDATE, state, base)
    found = DifferenceStore(tmp_path / MODEL_UPDATE, base)
    assert set(found) == set(state)
    assert all(same(found[name], state[name]) for name in state)
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert set(found.half_precision.values()) == ({trained} if trained.itemsize == 2 else set())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_any_bits(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bits = [torch.randint(-(2**15), 2**15, (rows, columns), generator=generator, dtype=torch.int16) for _ in range(2)]
    before, after = (b.view(torch.bfloat16) for b in bits)
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        base = TensorStore.open_model(write_model(Path(name) / "base", {"w": before}))
        write_difference(Path(name) / MODEL_UPDATE, {"w": after}, base)
        assert same(DifferenceStore(Path(name) / MODEL_UPDATE, base)["w"], after)


def test_matrices_that_a_model_stores_transposed_stay_so(tmp_path: Path) -> None:
    before = randn(8, 8, seed=1)
    write_model(tmp_path / "base", {"h.0.attn.c_proj.weight": before})
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}')
    base = TensorStore.open_model(tmp_path / "base")
    assert base.transposed
    write_difference(tmp_path / MODEL_UPDATE, {"h.0.attn.c_proj.weight": before}, base)
    plain = TensorStore.open_file(tmp_path / "base" / "model.safetensors")
    for store in (base, plain):
        assert same(DifferenceStore(tmp_path / MODEL_UPDATE, store)["h.0.attn.c_proj.weight"], before)


def test_what_did_not_move_costs_nothing(tmp_path: Path) -> None:
    weight = (0.02 * randn(512, 512, seed=0)).bfloat16()
    base = TensorStore.open_model(write_model(tmp_path / "base", {"w": weight}))
    moved = weight.clone().view(torch.int16)
    chosen = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    moved[chosen] += 1  # the next bfloat16 number, as a step of reinforcement learning leaves a tenth of the weights
    sizes = {}
    for name, tensor in {"same": weight, "tenth": moved.view(torch.bfloat16)}.items():
        write_difference(tmp_path / name, {"w": tensor}, base)
        sizes[name] = (tmp_path / name).stat().st_size / (weight.numel() * 2)
    assert sizes["same"] < 0.01
    assert sizes["tenth"] < 0.15
    # The entropy of which tenth moved is 0.47 bits of 16 a weight: nothing lossless can be smaller.
    assert sizes["tenth"] > 0.469 / 16


def test_another_base_is_noticed(tmp_path: Path) -> None:
    base = base_store(tmp_path / "base", torch.bfloat16)
    write_difference(tmp_path / MODEL_UPDATE, {name: base[name] for name in base}, base)
    other = {name: base[name].clone() for name in base}
    other["a.weight"][3, 3] += 1
    write_model(tmp_path / "other", other)
    found = DifferenceStore(tmp_path / MODEL_UPDATE, TensorStore.open_model(tmp_path / "other"))
    with pytest.raises(BaseModelError, match=r"a\.weight cannot be restored.*--base"):
        found["a.weight"]
    assert same(found["b.weight"], base["b.weight"])


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    base = base_store(tmp_path / "base", torch.float32)
    write_difference(tmp_path / MODEL_UPDATE, {"b.weight": base["b.weight"]}, base)
    tensors = load_file(tmp_path / MODEL_UPDATE)
    save_file(tensors, tmp_path / "later", {"spectra": json.dumps({"format": "spectra-bit-difference-9"})})
    with pytest.raises(CorruptFileError, match="spectra-bit-difference-9"):
        DifferenceStore(tmp_path / "later", base)
