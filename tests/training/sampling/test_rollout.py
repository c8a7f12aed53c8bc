"""Who samples, in the words of TRL."""

import pytest

from spectra.errors import MissingDependencyError
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.sampling import rollout
from spectra.training.sampling.rollout import rollout_arguments


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rollout_arguments(RolloutRecipe()) == {}
    monkeypatch.setattr(rollout, "find_spec", lambda name: object())
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")  # restored afterwards, whatever is set meanwhile
    here = rollout_arguments(RolloutRecipe(engine="vllm", max_model_length=64))
    assert here["vllm_mode"] == "colocate"
    assert here["vllm_importance_sampling_clip_max"] == 3.0
    assert here["vllm_importance_sampling_mode"] == "sequence_mask"
    assert here["vllm_max_model_length"] == 64
    there = rollout_arguments(RolloutRecipe(engine="vllm", mode="server", url="http://a:1", importance_cap=None))
    assert there["vllm_server_base_url"] == "http://a:1"
    assert there["vllm_importance_sampling_correction"] is False


def test_vllm_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs vLLM"):
        rollout_arguments(RolloutRecipe(engine="vllm"))
