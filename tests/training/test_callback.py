"""The callback in plain trainers of TRL and transformers: a run directory, numbers in the log, early warnings."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import spectra
from spectra.errors import BaseModelError, UsageError
from spectra.runs.directory import open_run
from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics
from spectra.training.pulse import Pulse, warnings_of
from tests.training.rewarded import digits

STEPS = 4


def grpo(base: Path, out: Path, callbacks: list[Any], **lora: Any) -> Any:
    """Return a trainer as a user writes it, without anything of spectra but the callback."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    rows = {"prompt": [f"{a}+{b}=" for a in range(8) for b in range(2)], "answer": ["1"] * 16}
    arguments = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=4,
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return GRPOTrainer(
        model=str(base),
        reward_funcs=[digits],
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **lora),
        callbacks=callbacks,
    )


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
    modules = spectra.open(out).analyze().modules.query("step == 2")
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
    assert sum("spectra/relative_fro" in logs for logs in Tracker.seen) == STEPS
    assert [snapshot.step for snapshot in open_run(tmp_path / "run").snapshots] == [0, 1, 2, 3, 4]


def test_a_plain_trainer_that_trains_every_weight(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    ids = torch.randint(0, 80, (8, 6), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": row, "labels": row} for row in ids]
    Trainer(model, arguments, train_dataset=rows, callbacks=[spectra.SpectraCallback()]).train()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["method"], manifest["algorithm"]) == ("full", "TrainingArguments")
    logged = read_metrics(tmp_path / "out" / "metrics.jsonl").set_index("step")
    tables = spectra.open(tmp_path / "out").analyze()
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


def test_warnings() -> None:
    fine = Pulse(1e-3, 4.0, 0.4, 0.0)
    flat = [{"zero_advantage_share": 0.2, "entropy": 1.0}] * 40
    assert warnings_of(fine, 8, flat) == []
    assert "NaN" in warnings_of(Pulse(math.nan, 4.0, 0.4, 0.0), 8, [])[0]
    assert "far beyond" in warnings_of(Pulse(0.2, 4.0, 0.4, 0.0), 8, [])[0]
    assert "one direction" in warnings_of(Pulse(1e-3, 1.1, 0.97, 0.8), 8, [])[0]
    silent = [{"zero_advantage_share": 1.0}] * 10
    assert warnings_of(fine, 8, silent) == ["step 8: 100% of the groups give no gradient"]
    falling = [{"entropy": 1.0}] * 10 + [{"entropy": 0.01}] * 10
    assert warnings_of(fine, 8, falling) == ["step 8: entropy is under 10% of where it began"]


def test_bad_use(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every=0"):
        spectra.SpectraCallback(every=0)
    trainer = grpo(tiny_base, tmp_path / "out", [spectra.SpectraCallback()])
    trainer.model.peft_config["default"].base_model_name_or_path = ""
    with pytest.raises(BaseModelError, match="does not say which base"):
        trainer.train()


def test_of_several_processes_one_writes(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, bool]] = []

    def save(model: Any, layout: RunLayout, step: int, base: str, *, writes: bool) -> Path:
        saved.append((step, writes))
        return layout.snapshot(step)

    monkeypatch.setattr("spectra.training.callback.save_snapshot", save)
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path=str(tiny_base)))
    callback = spectra.SpectraCallback(out=tmp_path / "out", every=2)
    for step in range(4):
        now = SimpleNamespace(global_step=step, max_steps=3, is_world_process_zero=False, log_history=[])
        event = callback.on_step_end if step else callback.on_train_begin
        event(SimpleNamespace(output_dir=str(tmp_path)), now, None, model=model)
        callback.on_log(None, now, None, logs={"loss": 1.0})
    assert saved == [(0, False), (2, False), (3, False)]
    assert not (tmp_path / "out").exists()
