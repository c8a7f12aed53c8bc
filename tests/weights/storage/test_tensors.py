"""Lazy reading of sharded safetensors, digests, and resolving a base."""

from pathlib import Path

import pytest
import torch

from spectra.errors import BaseModelError, CorruptFileError
from spectra.weights.storage.base import EMBEDDED, fingerprint, resolve_base
from spectra.weights.storage.tensors import TensorStore, digest
from tests.builders import randn, write_model

TENSORS = {f"layer.{i}.weight": randn(3, 4, seed=i).float() for i in range(5)}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_once(tmp_path: Path, shards: int) -> None:
    store = TensorStore.open_model(write_model(tmp_path, TENSORS, shards=shards))
    assert sorted(store) == sorted(TENSORS)
    assert store.shapes == {name: (3, 4) for name in TENSORS}
    for name, tensor in TENSORS.items():
        assert torch.equal(store[name], tensor)
    with pytest.raises(KeyError):
        store["layer.9.weight"]


def test_broken_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"holds neither model\.safetensors nor"):
        TensorStore.open_model(tmp_path)
    write_model(tmp_path, TENSORS, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptFileError, match=r"names model-00002-of-00002\.safetensors, which is missing"):
        TensorStore.open_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(CorruptFileError, match="cannot be read as safetensors"):
        TensorStore.open_model(tmp_path)


def test_a_shard_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    write_model(tmp_path / "model", TENSORS, shards=2)
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))
    store = TensorStore.open_model(tmp_path / "model")
    assert {path.parent for path in store.files.values()} == {tmp_path / "model"}


def test_digest_sees_bytes_shape_and_dtype() -> None:
    x = randn(2, 6)
    assert digest(x) == digest(x.clone())
    assert digest(x.T.contiguous().T) == digest(x)
    others = (x.reshape(3, 4), x.float(), x + 1e-15, x.view(torch.int64), torch.empty(0))
    assert len({digest(x), *map(digest, others)}) == 6


def test_fingerprint_is_independent_of_sharding(tmp_path: Path) -> None:
    one, two = write_model(tmp_path / "a", TENSORS), write_model(tmp_path / "b", TENSORS, shards=2)
    assert fingerprint(one) == fingerprint(two)


def test_resolving_a_base(tmp_path: Path) -> None:
    assert (resolve_base(EMBEDDED) / "model.safetensors").exists()
    assert resolve_base(str(write_model(tmp_path / "m", TENSORS))) == tmp_path / "m"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"contains no config\.json"):
        resolve_base(str(tmp_path / "empty"))
    for name in ("/no/such/dir", "./relative", "plain"):
        with pytest.raises(BaseModelError, match="no such base model directory"):
            resolve_base(name)


def test_a_hub_name_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match="pass a local directory with it to --base"):
        resolve_base("somebody/some-model")
