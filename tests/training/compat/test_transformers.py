"""What of transformers is set behind its back is there, and there is no other way."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from spectra.training.compat.transformers import call_first, use_one_device
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]


def test_a_process_that_sees_several_gpus_uses_one(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    arguments._n_gpu = 4
    assert arguments.n_gpu == 4
    assert arguments.train_batch_size == 4 * arguments.per_device_train_batch_size  # why it is needed
    use_one_device(arguments)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
    assert vars(TrainingArguments)["n_gpu"].fset is None  # no public way


def test_a_callback_that_is_called_first_is_called_before_all_others(tmp_path: Path) -> None:
    called: list[str] = []

    class Noted(TrainerCallback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            called.append(self.name)

    late = Noted("late")
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, callbacks=[Noted("early"), late])
    count = len(trainer.callback_handler.callbacks)
    call_first(trainer, late)
    assert len(trainer.callback_handler.callbacks) == count
    trainer.callback_handler.call_event("on_log", arguments, trainer.state, SimpleNamespace(), logs={})
    assert called == ["late", "early"]


def test_a_bfloat16_policy_generates_under_autocast_which_it_would_not_by_itself(recipe_for: Maker) -> None:
    model = build_policy(recipe_for(model={**recipe_for().model.model_dump(), "dtype": "bfloat16"})).model
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda *args: None)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda *args: seen.append(torch.is_autocast_enabled("cpu")))
    prompt = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    model.generate(**prompt, max_new_tokens=1)
    assert seen == [True]
    type(model).generate(model, **prompt, max_new_tokens=1)
    assert seen == [True, False]
