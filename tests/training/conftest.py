"""A base small enough to train in a second, in the format of any other."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spectra.training.recipe.recipe import Recipe
from tests.training.loop.train_with_reward import digits

if TYPE_CHECKING:
    from tests.training.sampling.vllm_stand_in import StandIn


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a randomly initialised Llama: 2 layers, hidden 32, grouped keys and values."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def make_base(directory: Path, *, layers: int = 2, hidden: int = 32, intermediate: int = 48) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from spectra.training.embedded.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def recipe_for(tiny_base: Path) -> Callable[..., Recipe]:
    """Return a maker of recipes for two quick steps on the tiny base; keyword arguments replace sections."""

    def make(**sections: Any) -> Recipe:
        value: dict[str, Any] = {
            "model": {"base": str(tiny_base)},
            "steps": 2,
            "prompts_per_step": 4,
            "algorithm": {"generations": 4, "max_completion_length": 4},
            "snapshots": {"every": 1},
            "checkpoints": {"every": None},
            "evaluation": {"every": 1, "problems": 4, "samples": 2},
        }
        return Recipe.model_validate({**value, **sections})

    return make


@pytest.fixture
def easy_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward that a random model earns now and then, so that gradients are not zero."""
    monkeypatch.setattr("spectra.training.loop.trainer.boxed_answer_reward", digits)


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what ``datasets`` converts out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TRL's client be used whether vLLM is installed or not."""
    from trl.generation import vllm_client, vllm_generation

    from spectra.training.sampling import rollout

    monkeypatch.setattr(rollout, "find_spec", lambda name: object())
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda *args, **kwargs: True)
    monkeypatch.setattr(vllm_client, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True)
    monkeypatch.setattr(vllm_generation, "VLLMClient", vllm_client.VLLMClient)  # put back afterwards


@pytest.fixture
def server(tiny_base: Path) -> "StandIn":
    """A stand-in for vLLM's server, with the tiny base."""
    from tests.training.sampling.vllm_stand_in import StandIn

    return StandIn(tiny_base)
