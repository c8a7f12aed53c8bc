"""Modules that are missing, misnamed, of another shape, or saved whole."""

import json
from pathlib import Path

import pytest
import torch

from tests.analysis.doctor.faulty_runs import edit_config, edit_tensors, healthy_adapter, only, seen
from tests.builders import matrix, small_base, write_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_base(tmp_path / "base", layers=2)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return healthy_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "up_proj", "down_proj"])


def without(pattern: str):  # type: ignore[no-untyped-def]
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if pattern not in name}


def test_every_layer_is_there(adapter: Path) -> None:
    assert only(adapter, "targets").status == "ok"


def test_a_missing_layer(adapter: Path) -> None:
    edit_tensors(adapter, without("layers.1.mlp.up_proj"))
    check = only(adapter, "targets")
    assert (check.status, "mlp.up_proj in layer 1" in check.evidence.says) == ("fault", True)


def test_a_layer_that_the_configuration_leaves_out(adapter: Path) -> None:
    edit_tensors(adapter, without("layers.1."))
    assert only(adapter, "targets").status == "fault"
    edit_config(adapter, layers_to_transform=[0])
    assert only(adapter, "targets").status == "note"


def test_a_target_without_tensors(adapter: Path) -> None:
    edit_tensors(adapter, without("down_proj"))
    check = only(adapter, "targets")
    assert (check.status, "down_proj" in check.evidence.says) == ("fault", True)


def test_names_of_another_model(adapter: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "gpt", {"transformer.h.0.attn.c_attn.weight": matrix(24, 24).float()})
    check = only(adapter, "targets", other)
    assert (check.status, check.verdict, check.evidence.value) == ("fault", "wrong_base", 1.0)


def test_shapes_of_another_model(adapter: Path, tmp_path: Path) -> None:
    wider = small_base(tmp_path / "wider", width=32)
    check = only(adapter, "targets", wider)
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert "24 × 24 on 32 × 32" in check.evidence.says or "24 × 48 on 32 × 64" in check.evidence.says


def test_without_a_base_nothing_is_compared(adapter: Path) -> None:
    edit_config(adapter, base_model_name_or_path=None)
    assert only(adapter, "targets").status == "skipped"


def test_modules_to_save(adapter: Path) -> None:
    edit_config(adapter, modules_to_save=["lm_head"])
    lost = only(adapter, "targets")
    assert (lost.status, "modules_to_save names lm_head" in lost.evidence.says) == ("fault", True)
    head = {"base_model.model.lm_head.weight": torch.zeros(4, 24)}
    edit_tensors(adapter, lambda tensors: tensors | head)
    assert only(adapter, "targets").status == "ok"


def test_an_embedding_that_nobody_asked_for(adapter: Path, base: Path) -> None:
    name = "model.layers.0.input_layernorm"
    edit_tensors(adapter, lambda tensors: tensors | {f"base_model.model.{name}.weight": torch.ones(25)})
    odd, resized = seen(adapter, "targets")
    assert (odd.status, f"{name}.weight" in odd.evidence.says) == ("note", True)
    assert (resized.status, "(25,), the base (24,)" in resized.evidence.says) == ("note", True)
    edit_tensors(
        adapter, lambda tensors: without(name)(tensors) | {"base_model.model.embed_tokens.weight": torch.ones(5, 24)}
    )
    assert "peft saves embeddings" in only(adapter, "targets").evidence.says
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 2


def test_one_head_of_the_two_that_peft_names(adapter: Path) -> None:
    edit_config(adapter, modules_to_save=["classifier", "score"], task_type="SEQ_CLS")
    lost = only(adapter, "targets")
    assert (lost.status, lost.evidence.value) == ("fault", 2.0)
    edit_tensors(adapter, lambda tensors: tensors | {"base_model.model.score.weight": torch.zeros(1, 24)})
    assert only(adapter, "targets").status == "ok"
    edit_config(adapter, task_type="CAUSAL_LM")
    assert "modules_to_save names classifier" in only(adapter, "targets").evidence.says


def test_a_module_to_save_that_is_one_word(adapter: Path) -> None:
    edit_config(adapter, modules_to_save="lm_head")
    assert "modules_to_save names lm_head" in only(adapter, "targets").evidence.says
