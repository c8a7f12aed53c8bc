"""TRL's private methods are as spectra's overrides know them, and what they do is not to be had otherwise."""

import inspect
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
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
    GRPOTrainer(build_policy(recipe).model, lambda **columns: [], arguments, train_dataset=trainer.train_dataset)


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
