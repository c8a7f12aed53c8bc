"""The callback in plain trainers of TRL and transformers: a run directory, numbers in the log, early warnings."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import spectra
from spectra.analysis.analyze import Options
from spectra.commands.doctor import doctor
from spectra.commands.export import export, export_model
from spectra.errors import BaseModelError, MissingInitialError, RunExistsError, UnsupportedMethodError, UsageError
from spectra.runs.directory import open_run
from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics, read_records
from spectra.training.policy.snapshots import save_snapshot
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_full_weights
from tests.training.evaluated_model import evaluated_model
from tests.training.loop.train_with_reward import digits

STEPS = 4
SHALLOW = Options(deep="none")  # the callback's numbers are those of the table of modules
ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "plain_trainer.py"


def grpo(
    base: Path, out: Path, callbacks: list[Any], settings: Mapping[str, Any] = MappingProxyType({}), **lora: Any
) -> Any:
    """Return a trainer as a user writes it, without anything of spectra but the callback."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    rows = {"prompt": [f"{a}+{b}=" for a in range(8) for b in range(2)], "answer": ["1"] * 16}
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": STEPS,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    arguments = GRPOConfig(output_dir=str(out), **{**defaults, **settings})
    return GRPOTrainer(
        model=str(base),
        reward_funcs=[digits],
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **lora),
        callbacks=callbacks,
    )


def plain(model: Any, out: Path, callbacks: list[Any], **settings: Any) -> Any:
    """Return the Trainer of transformers on a model or on the directory of one."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    defaults = {
        "use_cpu": True,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    arguments = TrainingArguments(output_dir=str(out), **{**defaults, **settings})
    ids = torch.randint(0, 80, (8, 6), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": row, "labels": row} for row in ids]
    model = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, Path) else model
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=callbacks)


def load(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base)


def steps(out: Path) -> list[int]:
    return [snapshot.step for snapshot in open_run(out).snapshots]


def logged_steps(out: Path) -> list[int]:
    return [record["step"] for record in read_records(RunLayout(out).metrics)]


def stop_at(step: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = control.should_training_stop or state.global_step == step

    return Stop()


@pytest.mark.parametrize("lora", [{}, {"init_lora_weights": "pissa"}], ids=["lora", "pissa"])
def test_one_line_in_a_trl_script(tiny_base: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    out = tmp_path / "out"
    trainer = grpo(tiny_base, out, [spectra.SpectraCallback(every=2)], **lora)
    trainer.train()
    run = open_run(out)
    assert run.layout == "spectra"
    assert [snapshot.step for snapshot in run.snapshots] == [0, 2, 4]
    logged = read_metrics(RunLayout(out).metrics).set_index("step")
    assert "reward" in logged and "entropy" in logged
    # The numbers of the callback are those of the analysis.
    modules = spectra.open(out).analyze(SHALLOW).modules.query("step == 2")
    assert logged.loc[2, "spectra/relative_fro"] == pytest.approx(modules["relative_fro"].median(), rel=1e-9)
    assert logged.loc[2, "spectra/effective_rank"] == pytest.approx(modules["effective_rank_energy"].median(), rel=1e-6)
    history = {record["step"]: record for record in trainer.state.log_history if "spectra/relative_fro" in record}
    assert set(history) == {2, 4}


def test_the_trainer_reports_where_it_is_given(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        seen: list[dict[str, float]] = []  # one test, one list

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.seen.append(dict(logs))

    trainer = grpo(tiny_base, tmp_path / "out", [Tracker()])
    trainer.add_callback(spectra.SpectraCallback(trainer, out=tmp_path / "run"))
    trainer.train()
    numbered = [logs for logs in Tracker.seen if "spectra/relative_fro" in logs]
    assert len(numbered) == STEPS
    assert all({"loss", "grad_norm", "learning_rate", "reward"} <= logs.keys() for logs in numbered)
    assert [snapshot.step for snapshot in open_run(tmp_path / "run").snapshots] == [0, 1, 2, 3, 4]


def test_a_plain_trainer_that_trains_every_weight(tiny_base: Path, tmp_path: Path) -> None:
    plain(tiny_base, tmp_path / "out", [spectra.SpectraCallback()]).train()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["method"], manifest["algorithm"]) == ("full", "TrainingArguments")
    logged = read_metrics(tmp_path / "out" / "metrics.jsonl").set_index("step")
    tables = spectra.open(tmp_path / "out").analyze(SHALLOW)
    expected = tables.modules.query("step == 2 and in_features.notna()")["relative_fro"].median()
    assert logged.loc[2, "spectra/relative_fro"] == pytest.approx(expected, rel=1e-9)
    assert "spectra/effective_rank" not in logged  # the spectrum of a dense update is not cheap


def test_what_is_wrong_is_said_once(tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = grpo(tiny_base, tmp_path / "out", [spectra.SpectraCallback(every=1)])
    trainer.args.learning_rate = 0.0
    with caplog.at_level(logging.WARNING, logger="spectra"):
        trainer.train()
    assert [record.message for record in caplog.records if "no weight has moved" in record.message] == [
        "step 1: no weight has moved; check that the adapter trains and that rewards vary"
    ]


def test_bad_use(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every=0"):
        spectra.SpectraCallback(every=0)
    trainer = grpo(tiny_base, tmp_path / "out", [spectra.SpectraCallback()])
    trainer.model.peft_config["default"].base_model_name_or_path = ""
    with pytest.raises(BaseModelError, match="does not name its base model"):
        trainer.train()


def test_of_several_processes_one_writes(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, bool]] = []

    def save(model: Any, layout: RunLayout, step: int, base: str, *, writes: bool) -> Path:
        saved.append((step, writes))
        return layout.snapshot(step)

    monkeypatch.setattr("spectra.training.monitor.callback.save_snapshot", save)
    model = SimpleNamespace(config=SimpleNamespace(name_or_path=str(tiny_base)))
    callback = spectra.SpectraCallback(out=tmp_path / "out", every=2)
    for step in range(4):
        now = SimpleNamespace(global_step=step, max_steps=3, is_world_process_zero=False, log_history=[])
        event = callback.on_step_end if step else callback.on_train_begin
        event(SimpleNamespace(output_dir=str(tmp_path)), now, None, model=model)
        callback.on_log(None, now, None, logs={"loss": 1.0})
    assert saved == [(0, False), (2, False), (3, False)]
    assert not (tmp_path / "out").exists()


def test_the_trainers_record_is_what_it_is_without_us(tiny_base: Path, tmp_path: Path) -> None:
    settings = {"max_steps": 6, "logging_steps": 3, "gradient_accumulation_steps": 2}
    without = grpo(tiny_base, tmp_path / "without", [], settings)
    without.train()
    trainer = grpo(tiny_base, tmp_path / "with", [], settings)
    trainer.add_callback(spectra.SpectraCallback(trainer, every=2))
    trainer.train()
    records = [[record for record in one.state.log_history if "loss" in record] for one in (without, trainer)]
    assert [[record["step"] for record in one] for one in records] == [[3, 6]] * 2
    assert len(without.state.log_history) == len(trainer.state.log_history)
    for expected, found in zip(*records, strict=True):
        assert {"reward", "grad_norm", "learning_rate"} <= expected.keys() < found.keys()
        assert all(found[name] == value for name, value in expected.items() if name != "step_time")
    assert any(record["reward"] > 0 and record["grad_norm"] > 0 for record in records[0])
    # Each record has the newest numbers, and our own log has each at its step.
    logged = read_metrics(tmp_path / "with" / "metrics.jsonl").set_index("step")["spectra/relative_fro"].dropna()
    assert list(logged.index) == steps(tmp_path / "with")[1:] == [2, 4, 6]
    assert [record["spectra/relative_fro"] for record in records[1]] == [logged[2], logged[6]]


def test_numbers_that_no_regular_record_took_are_in_the_last_one(tiny_base: Path, tmp_path: Path) -> None:
    trainer = plain(tiny_base, tmp_path / "out", [spectra.SpectraCallback(every=1)], logging_steps=5)
    trainer.evaluate()  # nothing has begun
    trainer.train()
    assert "spectra/relative_fro" in trainer.state.log_history[-1]
    assert logged_steps(tmp_path / "out") == [1, 2]


def test_a_directory_that_holds_a_run(tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plain(tiny_base, out, [spectra.SpectraCallback(every=1)], max_steps=3).train()
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = plain(tiny_base, out, [spectra.SpectraCallback(every=2)])
    with pytest.raises(RunExistsError, match=r"already holds a run, with 4 snapshots; .*overwrite=True") as caught:
        again.train()
    assert "\n" not in str(caught.value) and again.state.global_step == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    plain(tiny_base, out, [spectra.SpectraCallback(every=2, overwrite=True)]).train()
    assert steps(out) == [0, 2]
    assert sorted(set(logged_steps(out))) == [1, 2]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_resumed_run_goes_on_from_its_step(tiny_base: Path, tmp_path: Path) -> None:
    out, saving = tmp_path / "out", {"save_strategy": "steps", "save_steps": 2}
    plain(tiny_base, out, [spectra.SpectraCallback(every=1)], max_steps=4, **saving).train()
    began = (out / "manifest.json").read_bytes()
    trainer = plain(tiny_base, out, [spectra.SpectraCallback(every=3)], max_steps=3, **saving)
    trainer.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert steps(out) == [0, 1, 2, 3]
    assert [record["step"] for record in read_records(out / "metrics.jsonl") if "loss" in record] == [1, 2, 3]
    assert (out / "manifest.json").read_bytes() == began


def test_added_when_a_run_without_it_resumes(tiny_base: Path, tmp_path: Path) -> None:
    out, saving = tmp_path / "out", {"save_strategy": "steps", "save_steps": 2}
    plain(tiny_base, out, [], **saving).train()
    trainer = plain(tiny_base, out, [spectra.SpectraCallback(every=1)], max_steps=4, **saving)
    trainer.train(resume_from_checkpoint=True)
    assert steps(out) == [3, 4]
    logged = read_metrics(out / "metrics.jsonl").set_index("step")
    tables = spectra.open(out).analyze(SHALLOW)
    expected = tables.modules.query("step == 4 and in_features.notna()")["relative_fro"].median()
    assert logged.loc[4, "spectra/relative_fro"] == pytest.approx(expected, rel=1e-9)


def test_added_when_the_start_is_lost(tiny_base: Path, tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    grpo(tiny_base, tmp_path, [], settings, init_lora_weights="pissa").train()
    later = {**settings, "max_steps": 2}
    trainer = grpo(tiny_base, tmp_path, [spectra.SpectraCallback()], later, init_lora_weights="pissa")
    with pytest.raises(
        MissingInitialError, match="pissa moves the base at initialization, and there is no snapshot of"
    ):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 1


def test_training_that_stops_early_keeps_its_last_step(tiny_base: Path, tmp_path: Path) -> None:
    trainer = plain(
        tiny_base,
        tmp_path,
        [spectra.SpectraCallback(every=2), stop_at(3)],
        max_steps=9,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the first step, as the loss falls
    )
    trainer.train()
    assert steps(tmp_path) == [0, 2, 3]
    assert trainer.state.best_global_step < 3
    saved = open_full_weights(RunLayout(tmp_path).snapshot(3), TensorStore.open_model(tiny_base))
    expected = TensorStore.open_model(tmp_path / "checkpoint-3")
    assert set(saved) == set(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)
    assert "spectra/relative_fro" in trainer.state.log_history[-1]


def test_a_vocabulary_that_grew(tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(tiny_base)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    with caplog.at_level(logging.WARNING, logger="spectra"):
        plain(model, tmp_path / "out", [spectra.SpectraCallback(every=1)]).train()
    said = [record.message for record in caplog.records if record.name == "spectra"]
    assert said == ["step 1: model.embed_tokens is not measured (and 1 more): has shape (89, 32), in the base (81, 32)"]
    assert steps(tmp_path / "out") == [0, 1, 2]
    tables = spectra.open(tmp_path / "out").analyze(SHALLOW)
    coverage = json.loads(RunLayout(tmp_path / "out").analysis.verdict.read_text())["coverage"]
    skipped = {skip["module"] for skip in coverage["skipped"]}
    assert skipped == {"lm_head", "model.embed_tokens"}
    modules = tables.modules.query("step == 2")
    assert len(modules) == 2 * 9 + 1 and skipped.isdisjoint(modules["module"])
    # What needs the whole model says why it cannot have it.
    for make in (export, export_model):
        with pytest.raises(UnsupportedMethodError, match=r"lm_head has shape .* in the base"):
            make(tmp_path / "out", tmp_path / make.__name__)
        assert not (tmp_path / make.__name__).exists()
    with (
        pytest.raises(UnsupportedMethodError, match="is not among the weights: has shape"),
        evaluated_model(tmp_path / "out").loaded(torch.float32, "cpu"),
    ):
        pass


def test_a_full_disk_does_not_end_training(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    def full_later(model: Any, layout: RunLayout, step: int, base: str, *, writes: bool) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            if step in (1, 2):
                patch.setattr("spectra.weights.storage.bit_differences.save_file", full)
            return save_snapshot(model, layout, step, base, writes=writes)

    monkeypatch.setattr("spectra.training.monitor.callback.save_snapshot", full_later)
    trainer = plain(tiny_base, tmp_path, [spectra.SpectraCallback(every=1)], max_steps=3)
    with caplog.at_level(logging.WARNING, logger="spectra"):
        trainer.train()
    assert trainer.state.global_step == 3
    assert steps(tmp_path) == [0, 3]
    assert [record.message for record in caplog.records if record.name == "spectra"] == [
        "step 1: the snapshot is not saved (I/O error: No space left on device (os error 28)); training continues"
    ]


def test_what_cannot_be_measured_or_logged_does_not_end_training(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(*args: Any) -> None:
        raise BaseModelError("the base is gone", where="base")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spectra.training.monitor.live_metrics.LiveMetricsReader.read", faulty)
    monkeypatch.setattr("spectra.training.monitor.output_dir.append_metrics", full)
    trainer = plain(tiny_base, tmp_path, [spectra.SpectraCallback(every=1)])
    with caplog.at_level(logging.WARNING, logger="spectra"):
        trainer.train()
    assert [record["step"] for record in trainer.state.log_history if "loss" in record] == [1, 2]
    assert [record.message for record in caplog.records if record.name == "spectra"] == [
        "step 1: the snapshot is not measured (base: the base is gone); training continues",
        "step 1: the log is not written ([Errno 28] No space left on device); training continues",
    ]


def test_few_matrices_train(tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(tiny_base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)
    with caplog.at_level(logging.WARNING, logger="spectra"):
        plain(model, tmp_path, [spectra.SpectraCallback(every=1)]).train()
    assert not [record.message for record in caplog.records if record.name == "spectra"]
    sizes = spectra.open(tmp_path).analyze(SHALLOW).modules.query("step == 2 and in_features.notna()")["relative_fro"]
    assert ((sizes > 0).sum(), len(sizes)) == (3, 16)
    logged = read_metrics(tmp_path / "metrics.jsonl").set_index("step")
    assert logged.loc[2, "spectra/relative_fro"] == pytest.approx(sizes[sizes > 0].median(), rel=1e-9)
    assert diagnose(tmp_path).startswith("the checkpoint differs from its base by 0.00")


def diagnose(run: Path) -> str:
    """What the doctor says of the run's last checkpoint and its base."""
    return next(check.evidence.says for check in doctor(run).checks if check.name == "wrong_base")


def launch(out: Path, base: Path) -> subprocess.CompletedProcess[str]:
    """Run the Trainer of transformers in two processes."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    config = ["--config_file", str(ROOT / "training" / "launch" / "ddp_cpu.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [*launcher, *config, str(SCRIPT), str(base), str(out)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_train_and_one_of_them_says_what_is_wrong(tiny_base: Path, tmp_path: Path) -> None:
    done = launch(tmp_path / "out", tiny_base)
    assert done.stdout.count("trained") == 2, done.stderr  # each process, once; their lines may mix
    assert steps(tmp_path / "out") == [0, 2, 3]
    assert [r["step"] for r in read_records(tmp_path / "out" / "metrics.jsonl") if "loss" in r] == [1, 2, 3]
    assert done.returncode != 0
    assert "RunExistsError" in done.stderr and "already holds a run" in done.stderr
    assert "[rank1]: " not in done.stderr  # the other one ends without a word
