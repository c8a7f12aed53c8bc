"""Runs whose adapter is not the method that their recipe, manifest or name says."""

import json
from pathlib import Path

import pytest

from spectra.training.methods import METHODS
from tests.analysis.doctor.faulty_runs import edit_config, healthy_adapter, only, seen
from tests.builders import own_run, small_base, trainer_run


def test_the_recipe_of_a_run_of_ours(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    (run / "recipe.yaml").write_text("method: {name: lora, r: 4, alpha: 8}\n")
    assert only(run, "method").status == "ok"
    (run / "recipe.yaml").write_text("method: {name: dora, r: 4, alpha: 8}\n")
    check = only(run, "method")
    assert check.status == "fault"
    assert check.evidence.says == "recipe.yaml says method dora, the adapter does not set use_dora"


@pytest.mark.parametrize(("key", "value"), [("r", 16), ("alpha", 32)])
def test_another_rank_or_alpha(key: str, value: int, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    (run / "recipe.yaml").write_text(f"method: {{name: lora, {key}: {value}}}\n")
    assert f"{value}, the adapter has" in only(run, "method").evidence.says


def test_the_manifest_alone(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"), method="rslora")
    check = only(run, "method")
    assert (check.status, "manifest.json says method rslora" in check.evidence.says) == ("fault", True)


@pytest.mark.parametrize(
    ("method", "settings", "right"),
    [
        ("vera", {}, False),
        ("pissa", {}, False),
        ("lora_plus", {}, True),
        ("LoRA+", {}, True),
        ("milora_plus", {}, True),
    ],
)
def test_methods_against_types(method: str, settings: dict[str, object], right: bool, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"), method=method)
    assert only(run, "method").status == ("ok" if right else "fault")


# Methods whose snapshots are plain LoRA: by training, by the optimizer, or as the equal LoRA of twice the rank.
PLAIN = ("lora", "lora_plus", "lora_fa", "milora", "milora_plus", "corda", "eva")


@pytest.mark.parametrize("method", [m.name for m in METHODS], ids=str)
def test_every_method_against_a_plain_lora_adapter(method: str, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    (run / "recipe.yaml").write_text(f"method: {{name: {method}}}\n")
    check = only(run, "method")
    assert check.status == ("ok" if method in PLAIN else "fault")
    wrong = "r 1" if method == "rank1" else f"method {method}"
    assert check.evidence.says.startswith("the adapter is what" if method in PLAIN else f"recipe.yaml says {wrong}, ")


@pytest.mark.parametrize("name", ["something of their own", "grpo"])
def test_a_name_that_is_not_known_is_neither_right_nor_wrong(name: str, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    (run / "recipe.yaml").write_text(f"method: {{name: {name}}}\n")
    check = only(run, "method")
    assert (check.status, check.evidence.says) == (
        "skipped",
        f"recipe.yaml says {name!r}, which is no method that spectra knows: not compared",
    )
    (run / "recipe.yaml").write_text(f"method: {{name: {name}, r: 16}}\n")
    assert only(run, "method").status == "fault"


@pytest.mark.parametrize(
    ("declared", "settings", "right"),
    [
        ("{name: lora}", {"init_lora_weights": "pissa"}, False),
        ("{name: milora_plus}", {"init_lora_weights": "pissa_niter_4"}, False),
        ("{name: lora, init_lora_weights: pissa}", {"init_lora_weights": "pissa_niter_4"}, True),
        ("{name: corda}", {"init_lora_weights": "corda"}, True),
        ("{name: pissa}", {"init_lora_weights": "pissa_niter_4"}, True),
        ("{name: pissa}", {"init_lora_weights": "olora"}, False),
        ("{name: lora}", {"init_lora_weights": "gaussian"}, True),
        ("{name: lora}", {"kasa_config": {"beta": 1e-4}}, False),
        ("{name: lora, use_dora: true}", {"use_dora": True}, True),
        ("{name: dora, use_dora: false}", {}, False),
    ],
)
def test_what_else_the_configuration_tells(
    declared: str, settings: dict[str, object], right: bool, tmp_path: Path
) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"), **settings)
    (adapter / "recipe.yaml").write_text(f"method: {declared}\n")
    assert only(adapter, "method").status == ("ok" if right else "fault")


def test_the_old_name_of_a_type(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"))
    (adapter / "recipe.yaml").write_text("method: {name: bone}\n")
    assert only(adapter, "method").evidence.says == "recipe.yaml says method bone, the adapter is of type LORA"


def test_a_stacked_adapter_has_twice_the_rank_of_its_recipe(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"), method="milora")
    (run / "recipe.yaml").write_text("method: {name: milora, r: 2, alpha: 4}\n")
    assert only(run, "method").status == "ok"
    (run / "recipe.yaml").write_text("method: {name: milora, r: 4, alpha: 4}\n")
    assert "r 4 (times 2), the adapter has 4" in only(run, "method").evidence.says


def test_the_configuration_of_another_trainer(tmp_path: Path) -> None:
    run = trainer_run(tmp_path / "run", small_base(tmp_path / "base"))
    (run / "config.yaml").write_text("peft: {type: dora, lora_r: 4}\n")
    assert only(run, "method").status == "fault"
    (run / "config.yaml").write_text("peft: {type: lora, lora_r: 4}\n")
    assert only(run, "method").status == "ok"


def test_the_name_of_the_directory(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "dapo-dora-7b", small_base(tmp_path / "base"))
    check = only(adapter, "method")
    assert (check.status, "dapo-dora-7b" in check.evidence.says) == ("note", True)
    edit_config(adapter, use_dora=True)
    assert seen(adapter, "method") == []


@pytest.mark.parametrize("declared", ["finetuning_type: lora", "peft_type: LORA"])
def test_a_family_is_no_method(declared: str, tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"), use_rslora=True)
    (adapter / "training_config.yaml").write_text(f"{declared}\n")
    assert only(adapter, "method").status == "ok"
    (adapter / "training_config.yaml").write_text(f"{declared}\nuse_rslora: true\nuse_dora: false\n")
    assert only(adapter, "method").status == "ok"
    (adapter / "training_config.yaml").write_text(f"{declared}\nuse_rslora: true\nuse_dora: true\n")
    check = only(adapter, "method")
    assert check.evidence.says == "training_config.yaml says use_dora true, the adapter does not set use_dora"
    (adapter / "training_config.yaml").write_text(declared.replace("lora", "oft").replace("LORA", "OFT"))
    assert only(adapter, "method").status == "fault"


@pytest.mark.parametrize("values", [{"rank": 0}, {"rank": 3}, {"r": True}, {"lora_r": 0}, {"r": -1}])
def test_numbers_that_are_no_rank(values: dict[str, object], tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"))
    (adapter / "args.json").write_text(json.dumps({"peft_type": "LORA", **values}))
    assert only(adapter, "method").status == "ok"


def test_a_rank_in_its_section(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"))
    (adapter / "args.json").write_text(json.dumps({"peft": {"type": "lora", "rank": 16}}))
    assert "r 16, the adapter has 2" in only(adapter, "method").evidence.says
