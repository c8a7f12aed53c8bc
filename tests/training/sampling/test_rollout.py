"""Who samples, in the words of TRL."""

import os
from pathlib import Path

import pytest

from spectra.errors import MissingDependencyError
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.sampling import rollout
from spectra.training.sampling.rollout import rollout_arguments


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rollout_arguments(RolloutRecipe()) == {}
    monkeypatch.setattr(rollout, "find_spec", lambda name: object())
    environment = dict(os.environ)
    here = rollout_arguments(RolloutRecipe(engine="vllm", max_model_length=64))
    assert here["vllm_mode"] == "colocate"
    assert here["vllm_importance_sampling_clip_max"] == 3.0
    assert here["vllm_importance_sampling_mode"] == "sequence_mask"
    assert here["vllm_max_model_length"] == 64
    there = rollout_arguments(RolloutRecipe(engine="vllm", mode="server", url="http://a:1", importance_cap=None))
    assert there["vllm_server_base_url"] == "http://a:1"
    assert there["vllm_importance_sampling_correction"] is False
    assert dict(os.environ) == environment


def test_vllm_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs vLLM"):
        rollout_arguments(RolloutRecipe(engine="vllm"))


def test_a_colocated_vllm_alone_is_told_its_place_when_the_trainer_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    for name in names:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(rollout, "keep_renewable", lambda: None)
    rollout.prepare_sampler(RolloutRecipe(engine="vllm"), object(), object(), Path("base"))
    assert [os.environ[name] for name in names[2:]] == ["0", "0", "1"]
    assert int(os.environ["MASTER_PORT"]) > 0
