"""TRL's private methods are as spectra's overrides know them, and what they do is not to be had otherwise."""

import inspect
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_client, vllm_generation

from spectra.runs.layout import RunLayout
from spectra.training.compat.trl import take_free_port, use_client
from spectra.training.loop.trainer import build_trainer
from spectra.training.policy.policy import build_policy
from spectra.training.recipe.recipe import Recipe
from spectra.training.sampling.vllm_server import ServerClient

Maker = Callable[..., Recipe]


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def trainer_for(recipe: Recipe, where: Path) -> Any:
    trainer = build_trainer(recipe, build_policy(recipe), RunLayout(where), [])
    trainer.model.train()
    return trainer


def test_the_methods_that_are_overridden_have_the_signatures_that_are_known() -> None:
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters(GRPOTrainer._generate) == ["self", "prompts"]
    scored = ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters(GRPOTrainer._calculate_rewards) == scored
    assert parameters(GRPOTrainer._log_metric) == ["self", "name", "value"]


def test_generating_returns_the_eight_parts_that_are_known(recipe_for: Maker, tmp_path: Path) -> None:
    trainer = trainer_for(recipe_for(), tmp_path)
    prompts = ["1 + 2 =", "3 + 40 ="]
    ids, completion_ids, tool_mask, texts, logprobs, *others = trainer._generate(prompts)
    decode = trainer.processing_class.batch_decode
    assert decode(ids, skip_special_tokens=True) == prompts
    assert decode(completion_ids, skip_special_tokens=True) == texts
    assert (tool_mask, logprobs, others) == (None, None, [{}, None, []])


def test_rewards_and_the_mean_reward_are_where_they_are_looked_for(recipe_for: Maker, tmp_path: Path) -> None:
    trainer = trainer_for(recipe_for(), tmp_path)
    row = dict(trainer.train_dataset[0])
    rewards = trainer._calculate_rewards([row] * 2, [row["prompt"]] * 2, ["", rf"\boxed{{{row['answer']}}}"], [[0]] * 2)
    assert rewards.tolist() == [[0.0], [1.0]]
    trainer._generate_and_score_completions([row] * trainer.num_generations)
    assert len(trainer._metrics["train"]["reward"]) == 1


def test_trl_still_has_no_dynamic_sampling_of_its_own() -> None:
    assert not [field.name for field in fields(GRPOConfig) if "dynamic" in field.name or "resampl" in field.name]


def test_trl_still_copies_the_adapter_where_beta_is_among_its_arguments(recipe_for: Maker, tmp_path: Path) -> None:
    recipe = recipe_for(algorithm={**recipe_for().algorithm.model_dump(), "beta": 0.3})
    trainer = trainer_for(recipe, tmp_path)
    assert list(trainer.model.peft_config) == ["default"]
    assert trainer.beta == 0.3
    arguments = GRPOConfig(output_dir=str(tmp_path), beta=0.3, use_cpu=True, report_to="none")
    policy = build_policy(recipe)
    GRPOTrainer(
        model=policy.model,
        reward_funcs=[lambda **columns: []],
        args=arguments,
        train_dataset=trainer.train_dataset,
        processing_class=policy.tokenizer,
    )
    assert list(policy.model.peft_config) == ["default", "ref"]  # needed as long as it does


def test_beta_decides_when_the_loss_is_computed() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss) + inspect.getsource(
        GRPOTrainer._generate_and_score_completions
    )
    assert "self.beta" in source
    assert "self.args.beta" not in source


def test_a_free_port_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "x")  # restored afterwards
        monkeypatch.delenv(name)
    take_free_port()
    first = os.environ["MASTER_PORT"]
    take_free_port()
    assert int(first) > 0
    assert os.environ["MASTER_PORT"] == first


def test_the_client_of_vllms_server_has_the_methods_that_are_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    client = vllm_client.VLLMClient
    assert parameters(client.check_server) == ["self", "total_timeout", "retry_interval"]
    assert parameters(client.init_communicator) == ["self", "device"]
    assert parameters(client.update_named_params) == ["self", "metadata", "named_params"]
    assert parameters(client._get) == parameters(client._post) == ["self", "url", "kwargs"]
    assert {"get_server_info", "generate"} <= vars(client).keys()
    monkeypatch.setattr(vllm_generation, "VLLMClient", vllm_generation.VLLMClient)  # restored afterwards
    use_client(ServerClient, start="so")
    assert issubclass(vllm_generation.VLLMClient, ServerClient)
    assert "VLLMClient(" in inspect.getsource(vllm_generation.VLLMGeneration)


def test_equal_rows_are_scored_once_with_the_same_loss_and_gradient(
    recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(recipe_for(), tmp_path)
    row = dict(trainer.train_dataset[0])
    inputs = trainer._generate_and_score_completions([row] * 8)
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"):
        inputs[name][1::2] = inputs[name][::2]  # each row twice
    inputs["advantages"] = torch.linspace(-1, 1, 8)
    trainer.current_gradient_accumulation_steps = 1
    rows: list[int] = []
    embedding = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.Embedding))
    embedding.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    loss, gradient = loss_and_gradient(trainer, inputs)
    assert rows.pop() <= 4
    every_row = GRPOTrainer._get_per_token_logps_and_entropies.__get__(trainer)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", every_row)
    plain_loss, plain_gradient = loss_and_gradient(trainer, inputs)
    assert rows.pop() == 8  # needed as long as TRL scores every row
    assert loss == plain_loss
    size = torch.linalg.vector_norm(plain_gradient)
    assert size > 0
    assert torch.linalg.vector_norm(gradient - plain_gradient) <= 1e-5 * size


def loss_and_gradient(trainer: Any, inputs: Any) -> tuple[float, torch.Tensor]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_dropout_scores_every_row(recipe_for: Maker, tmp_path: Path) -> None:
    trainer = trainer_for(recipe_for(method={"name": "lora", "dropout": 0.5}), tmp_path)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # B is 0 at step 0
                parameter += 0.1
    ids = torch.tensor([[4, 5, 6, 7]] * 6)
    logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), 2)
    assert len(logps) == 6
    assert not torch.equal(logps[0], logps[1])


def test_the_methods_that_share_work_have_the_signatures_that_are_known() -> None:
    assert parameters(GRPOTrainer._generate_single_turn)[:3] == ["self", "prompt_ids", "images"]
    scored = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"]
    assert parameters(GRPOTrainer._get_per_token_logps_and_entropies)[: len(scored) + 1] == [
        *scored,
        "compute_aux_loss",
    ]
