"""What of transformers is set behind its back is there, and there is no other way."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Trainer, TrainerCallback, TrainingArguments

from spectra.training.compat.transformers import call_first, draws_dropout, shared_prefixes, use_one_device
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


PROMPTS = ["1 + 2 =", "30 + 4 =", "1 + 2 =", "12 + 345 =", "1 + 2 =", "30 + 4 ="]


def sampled(policy: Any, batch: Any, **options: Any) -> torch.Tensor:
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 8, **options}
    config = GenerationConfig(pad_token_id=0, eos_token_id=1, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        found: torch.Tensor = policy.generate(**batch, generation_config=config)
    return found


def read(model: Any) -> tuple[list[int], Any]:
    """Note how many rows each forward pass has."""
    rows: list[int] = []
    embedding = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    return rows, embedding.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.3}, {"do_sample": False}])
def test_equal_rows_are_computed_once_and_sampled_the_same(
    method: str, options: dict[str, Any], recipe_for: Maker
) -> None:
    policy = build_policy(recipe_for(method={"name": method}))
    batch = policy.tokenizer(PROMPTS * 4, return_tensors="pt", padding=True).data
    batch.pop("token_type_ids", None)
    rows, hook = read(policy.model)
    alone = sampled(policy.model, batch, **options)
    assert set(rows) == {len(PROMPTS) * 4}  # needed as long as transformers computes every row
    rows.clear()
    with shared_prefixes(policy.model):
        together = sampled(policy.model, batch, **options)
    assert torch.equal(alone, together)
    assert rows[0] == len(set(PROMPTS))
    assert sorted(rows) == rows
    assert sum(rows) < len(PROMPTS) * 4 * len(rows)
    hook.remove()
    rows, hook = read(policy.model)
    assert torch.equal(sampled(policy.model, batch, **options), alone)
    assert set(rows) == {len(PROMPTS) * 4}  # it is as it was before


def test_rows_that_all_differ_are_left_alone(recipe_for: Maker) -> None:
    policy = build_policy(recipe_for())
    batch = policy.tokenizer(sorted(set(PROMPTS)), return_tensors="pt", padding=True).data
    batch.pop("token_type_ids", None)
    rows, _ = read(policy.model)
    with shared_prefixes(policy.model):
        together = sampled(policy.model, batch)
    assert set(rows) == {3}
    assert torch.equal(together, sampled(policy.model, batch))


def test_dropout_while_training_keeps_every_row(recipe_for: Maker) -> None:
    policy = build_policy(recipe_for(method={"name": "lora", "dropout": 0.5}))
    batch = policy.tokenizer(PROMPTS, return_tensors="pt", padding=True).data
    batch.pop("token_type_ids", None)
    rows, _ = read(policy.model)
    for training, count in ((True, len(PROMPTS)), (False, 3)):
        policy.model.train(training)
        assert draws_dropout(policy.model) is training
        rows.clear()
        with shared_prefixes(policy.model):
            sampled(policy.model, batch)
        assert rows[0] == count
