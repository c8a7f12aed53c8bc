"""Directories that other trainers write.

peft, transformers and the HF Trainer write their parts of the fixtures themselves. verl, OpenRLHF and DeepSpeed do not
install here: their directories follow the layout in their documentation and source (verl 0.9, OpenRLHF 0.9).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.errors import CorruptFileError, RunNotFoundError
from spectra.runs.directory import open_run
from spectra.runs.snapshots import snapshot_kind
from tests.builders import lora_config, small_base, small_factors, trainer_run, write_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"))


def shards(actor: Path, *, alpha: int = 16) -> Path:
    """Write what verl's FSDP workers leave, from the documented layout; the shards' bytes are never read."""
    (actor / "huggingface").mkdir(parents=True)
    for rank in range(2):
        (actor / f"model_world_size_2_rank_{rank}.pt").write_bytes(b"\x80pickle")
        (actor / f"optim_world_size_2_rank_{rank}.pt").write_bytes(b"\x80pickle")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 2}))
    meta = {"r": 4, "lora_alpha": alpha, "task_type": "CAUSAL_LM"}
    (actor / "lora_train_meta.json").write_text(json.dumps(meta))
    (actor / "huggingface" / "config.json").write_text(json.dumps({"_name_or_path": "org/model"}))
    return actor


def merged(where: Path, config: Any) -> Path:
    """Write a merged lora_adapter/ as verl's merger does: LoraConfig.to_dict(), without the name of a base."""
    return write_adapter(where / "lora_adapter", {**config, "base_model_name_or_path": None}, small_factors())


def verl_run(path: Path, steps: tuple[int, ...]) -> Path:
    for step in steps:
        merged(shards(path / f"global_step_{step}" / "actor"), lora_config(""))
    (path / "latest_checkpointed_iteration.txt").write_text(str(steps[-1]))
    return path


def test_verl_adapters_sort_as_numbers_and_come_before_merged_weights(tmp_path: Path, base: Path) -> None:
    run_dir = verl_run(tmp_path, (5, 20, 100))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, run_dir / "global_step_20" / "actor" / "huggingface" / name)
    run = open_run(run_dir)
    assert run.describe() == "verl run, 3 snapshots, steps 5–100"
    assert [s.path.name for s in run.snapshots] == ["lora_adapter"] * 3
    assert {s.kind for s in run.snapshots} == {"adapter"}
    assert run.base_name == "org/model"
    assert run.initial is None


def test_verl_merged_in_place_has_its_frozen_base_beside_the_adapter(tmp_path: Path, base: Path) -> None:
    actor = shards(tmp_path / "global_step_7" / "actor")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, actor / "huggingface" / name)
    merged(actor / "huggingface", lora_config(""))
    for start in (tmp_path, tmp_path / "global_step_7", actor, actor / "huggingface"):
        run = open_run(start)
        assert run.snapshots[0].path == actor / "huggingface" / "lora_adapter"
        assert run.base_name == str(actor / "huggingface")
        assert run.initial is None
    assert [s.step for s in open_run(actor).snapshots] == [7]


def test_verl_full_weights(tmp_path: Path, base: Path) -> None:
    actor = shards(tmp_path / "global_step_3" / "actor")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, actor / "huggingface" / name)
    run = open_run(tmp_path)
    assert (run.layout, run.snapshots[0].kind, run.snapshots[0].step) == ("verl", "full", 3)
    assert run.base_name is None


def test_verl_shards_are_refused_with_the_command_that_merges_them(tmp_path: Path) -> None:
    actor = shards(tmp_path / "global_step_3" / "actor")
    command = f"python -m verl.model_merger merge --backend fsdp --local_dir {actor} --target_dir {actor}/huggingface"
    for start in (tmp_path, tmp_path / "global_step_3", actor):
        with pytest.raises(RunNotFoundError) as caught:
            open_run(start)
        assert "holds only fsdp shards" in str(caught.value)
        assert command in str(caught.value)
    (tmp_path / "global_step_4" / "actor" / "dist_ckpt").mkdir(parents=True)
    with pytest.raises(RunNotFoundError, match="--backend megatron"):
        open_run(tmp_path / "global_step_4")


def test_verl_steps_that_cannot_be_read_are_named_beside_those_that_can(tmp_path: Path) -> None:
    run_dir = verl_run(tmp_path, (1, 2))
    shards(run_dir / "global_step_4" / "actor")
    merged(shards(run_dir / "global_step_9" / "actor"), lora_config(""))
    (run_dir / "latest_checkpointed_iteration.txt").write_text("4\n")
    run = open_run(run_dir)
    assert [s.step for s in run.snapshots] == [1, 2]
    assert "verl.model_merger" in run.ignored["global_step_4"]
    assert "newer than step 4" in run.ignored["global_step_9"]
    (run_dir / "latest_checkpointed_iteration.txt").write_text("?")
    with pytest.raises(CorruptFileError, match="must contain a step number, got '\\?'"):
        open_run(run_dir)


def test_verl_alpha_of_zero_is_refused_with_the_real_one(tmp_path: Path, base: Path) -> None:
    merged(shards(tmp_path / "global_step_3" / "actor", alpha=48), lora_config("", alpha=0))
    with pytest.raises(CorruptFileError, match=r"lora_alpha is 0 .*\(48 according to lora_train_meta.json\)"):
        open_run(tmp_path)
    other = write_adapter(tmp_path / "other", lora_config(str(base), alpha=0), small_factors())
    with pytest.raises(CorruptFileError, match=r"actor_rollout_ref\.model\.lora_alpha"):
        open_run(other)


def test_verl_file_log(tmp_path: Path) -> None:
    run_dir = verl_run(tmp_path / "checkpoints" / "project" / "experiment", (2,))
    assert open_run(run_dir).series()["step"].tolist() == []
    log = tmp_path / "project" / "experiment.jsonl"
    log.parent.mkdir()
    lines = [
        {"step": step, "data": {"critic/score/mean": step / 10, "actor/entropy": 0.5, "timing_s/gen": 3}}
        for step in (1, 2)
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "da')
    series = open_run(run_dir).series()
    assert series["step"].tolist() == [1, 2]
    assert series["reward"].tolist() == [0.1, 0.2]
    assert {"entropy", "timing_s/gen"} <= set(series.columns)
    shutil.copy(log, run_dir / "metrics.jsonl")
    assert open_run(run_dir).series()["reward"].tolist() == [0.1, 0.2]


def test_openrlhf_adapters_pickled_or_not(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "global_step20_hf", lora_config(str(base)), small_factors())
    old = write_adapter(tmp_path / "global_step3_hf", lora_config(str(base)), small_factors())
    torch.save(load_file(old / "adapter_model.safetensors"), old / "adapter_model.bin")
    (old / "adapter_model.safetensors").unlink()
    deepspeed(tmp_path, 20)
    run = open_run(tmp_path)
    assert run.describe() == "OpenRLHF run, 2 snapshots, steps 3–20"
    assert run.base_name == str(base)
    assert run.ignored == {}


def deepspeed(path: Path, step: int) -> None:
    """Write a DeepSpeed state, from the documented layout."""
    state = path / "_actor" / f"global_step{step}"
    state.mkdir(parents=True)
    (state / "mp_rank_00_model_states.pt").write_bytes(b"\x80pickle")
    (path / "_actor" / "zero_to_fp32.py").write_text("")


def test_openrlhf_states_are_refused_with_the_script_that_gathers_them(tmp_path: Path) -> None:
    deepspeed(tmp_path, 20)
    with pytest.raises(RunNotFoundError) as caught:
        open_run(tmp_path)
    assert "sharded DeepSpeed state" in str(caught.value)
    command = (
        f"python {tmp_path}/_actor/zero_to_fp32.py {tmp_path}/_actor {tmp_path}/global_step20_hf --tag global_step20"
    )
    assert command in str(caught.value)


def test_an_adapter_without_tensors_names_zero3(tmp_path: Path, base: Path) -> None:
    trainer_run(tmp_path, base)
    empty = tmp_path / "checkpoint-10"
    save_file({}, empty / "adapter_model.safetensors", {"format": "pt"})
    assert (empty / "adapter_model.safetensors").stat().st_size == 40
    run = open_run(tmp_path)
    assert [s.step for s in run.snapshots] == [2]
    assert "ZeRO-3" in run.ignored["checkpoint-10"]
    with pytest.raises(RunNotFoundError, match="holds no tensor, as DeepSpeed ZeRO-3 leaves it"):
        open_run(empty)


def test_a_broken_adapter_is_not_called_empty(tmp_path: Path, base: Path) -> None:
    path = write_adapter(tmp_path, lora_config(str(base)), small_factors())
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    assert snapshot_kind(path) == "adapter"


def test_pickled_weights_are_refused_with_the_conversion(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80pickle")
    for start in (checkpoint, tmp_path):
        with pytest.raises(RunNotFoundError) as caught:
            open_run(start)
        assert "can run code when loaded" in str(caught.value)
        assert "save_pretrained" in str(caught.value)


def test_adapters_in_shards_and_without_tensors_file(tmp_path: Path, base: Path) -> None:
    path = write_adapter(tmp_path / "a", lora_config(str(base)), small_factors())
    (path / "adapter_model.safetensors").rename(path / "adapter_model-00001-of-00001.safetensors")
    with pytest.raises(RunNotFoundError, match="adapter is sharded"):
        open_run(path)
    (path / "adapter_model-00001-of-00001.safetensors").unlink()
    with pytest.raises(RunNotFoundError, match=r"adapter_config.json without adapter_model.safetensors"):
        open_run(path)


def test_a_trainer_that_transformers_ran(tmp_path: Path) -> None:
    """The HF Trainer itself writes the checkpoints; LLaMA-Factory, axolotl and unsloth use it."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    tiny = LlamaConfig(vocab_size=16, num_hidden_layers=1, **shape)
    model = get_peft_model(LlamaForCausalLM(tiny), LoraConfig(r=2, target_modules=["q_proj"]))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, save_steps=1, logging_steps=1, use_cpu=True, report_to=[],
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    data = [{"input_ids": torch.arange(4), "labels": torch.arange(4)} for _ in range(4)]
    Trainer(model=model, args=arguments, train_dataset=data).train()
    run = open_run(tmp_path)
    assert run.describe() == "HF Trainer or TRL run, 2 snapshots, steps 1–2"
    assert run.series()["loss"].notna().sum() >= 2
