"""A file is opened once, however often it is read, and closed when too many others are open."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import CorruptFileError
from spectra.weights.storage.open_files import OpenFiles
from spectra.weights.storage.tensors import TensorStore
from tests.builders import write_model


def test_the_file_used_longest_ago_is_closed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path in paths:
        save_file({"x": torch.ones(2)}, path)
    files = OpenFiles(limit=2)
    first, second = files[paths[0]], files[paths[1]]
    assert files[paths[0]] is first
    assert files[paths[2]] is not None
    assert files[paths[0]] is first
    assert files[paths[1]] is not second


def test_a_copy_opens_its_own(tmp_path: Path) -> None:
    store = TensorStore.open_model(write_model(tmp_path, {"x.weight": torch.ones(2, 3)}))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.open_files is not store.open_files
    assert torch.equal(copy["x.weight"], store["x.weight"])


def test_stores_share_what_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TensorStore.open_model(
        write_model(tmp_path, {f"{name}.weight": torch.ones(2, 3) for name in "abcd"}, shards=2)
    )
    _ = store.shapes
    monkeypatch.setattr("spectra.weights.storage.open_files.safe_open", None)  # nothing more is opened
    assert store.as_stored().half_precision == {}
    assert all(torch.equal(tensor, torch.ones(2, 3)) for tensor in store.as_stored().values())


def test_what_is_no_safetensors_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 40)
    for name in ("x.safetensors", "missing.safetensors"):
        with pytest.raises(CorruptFileError, match=f"{name}: cannot be read as safetensors"):
            OpenFiles()[tmp_path / name]
