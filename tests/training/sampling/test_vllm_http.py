"""A vLLM server that is not there, not yet there, or no longer there."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from spectra.errors import EngineError
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from spectra.training.sampling import vllm_http
from tests.training.sampling.vllm_stand_in import Refusal, StandIn, connect, free_port, listening, section

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own deprecations are not ours to mend

Maker = Callable[..., Recipe]


@pytest.mark.usefixtures("easy_reward", "without_vllm")
def test_a_server_that_is_not_there_is_told_in_one_line(recipe_for: Maker, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError) as caught:
        train(recipe_for(rollout=section(url, timeout=0), evaluation={"every": None}), tmp_path / "run", quiet=True)
    line = str(caught.value)
    assert "the vLLM server does not answer (waited 0 s, rollout.timeout)" in line
    assert "python training/vllm/serve.py" in line
    assert url in line
    assert "\n" not in line
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("without_vllm")
def test_a_server_that_goes_away_is_told_in_one_line(server: StandIn) -> None:
    with listening(server) as url:
        client = connect(server.base, url)
    with pytest.raises(
        EngineError, match=r"stopped answering at /reset_prefix_cache; .*resumes from its last checkpoint"
    ):
        client.reset_prefix_cache()


@pytest.mark.usefixtures("without_vllm")
def test_a_slow_answer_is_waited_for_and_that_of_a_server_that_is_ending_is_not(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, ended = Event(), Event()

    def slow(body: dict[str, Any]) -> Any:
        ended.wait(1.0 if not ending.is_set() else 60.0)
        return {"success": True}

    def health(body: dict[str, Any]) -> Any:
        if ending.is_set():
            raise Refusal(503, "ending")
        return {}

    monkeypatch.setattr(vllm_http, "_HEALTH_SECONDS", 0.2)
    monkeypatch.setattr(server, "on_reset_prefix_cache", slow)
    monkeypatch.setattr(server, "on_health", health)
    with listening(server) as url:
        client = connect(server.base, url, timeout=0.0)
        client.reset_prefix_cache()
        ending.set()
        with pytest.raises(EngineError, match="stopped answering at /reset_prefix_cache"):
            client.reset_prefix_cache()
        ended.set()


@pytest.mark.usefixtures("without_vllm")
def test_a_server_that_is_still_starting_is_waited_for(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []

    def starting(body: dict[str, Any]) -> Any:
        asked.append(None)
        if len(asked) < 3:
            raise Refusal(503, "starting")
        return {}

    monkeypatch.setattr(server, "on_health", starting)
    with listening(server) as url:
        with pytest.raises(EngineError, match="answers 503"):
            connect(server.base, url, timeout=0.0)
        assert connect(server.base, url).model == "stand-in"
    assert len(asked) == 3
