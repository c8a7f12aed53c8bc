"""Every type of peft is read, or refused with the reason."""

import json
from pathlib import Path

import pytest

from spectra.errors import UnsupportedMethodError
from spectra.runs.directory import Snapshot
from spectra.weights.facts import BY_TYPE
from spectra.weights.readers.registry import READERS
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates


@pytest.mark.parametrize("kind", sorted(set(BY_TYPE) - set(READERS)))
def test_methods_without_a_weight_update_are_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(UnsupportedMethodError, match=f"{kind} leaves no weight update to analyze: it|a|A") as caught:
        open_updates(Snapshot(0, tmp_path, "adapter"), TensorStore({}, tmp_path), None)
    assert str(BY_TYPE[kind].not_read) in str(caught.value)


def test_every_peft_type_is_read_or_refused() -> None:
    from peft import PeftType

    assert set(READERS) | {kind for kind, facts in BY_TYPE.items() if facts.not_read} == {k.value for k in PeftType}
