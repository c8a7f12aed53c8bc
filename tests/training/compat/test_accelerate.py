"""The launcher tells a process what it was asked for by the variables that are read."""

import inspect
from collections.abc import Callable

import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import launch

from spectra.training.compat.accelerate import lost_others, sharded_by, wants_cpu

KNOWN = ("ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "MASTER_PORT", "RANK")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give this process what `accelerate launch` would give a script."""

    def set_up(*options: str) -> None:
        for name in KNOWN:
            monkeypatch.delenv(name, raising=False)
        asked = launch_command_parser().parse_args(["--num_machines", "1", *options, "script.py"])
        # What the launcher fills in where neither an option nor a configuration file says it.
        asked.mixed_precision = asked.dynamo_backend = "no"
        asked.use_cpu = False
        for name, value in launch.prepare_simple_launcher_cmd_env(asked)[1].items():
            monkeypatch.setenv(name, value)

    return set_up


def test_the_cpu_is_asked_for(launched: Callable[..., None]) -> None:
    launched("--cpu", "--num_processes", "1")
    assert wants_cpu()
    launched("--num_processes", "1")
    assert not wants_cpu()


def test_of_several_processes_on_the_cpu_one_is_still_started(launched: Callable[..., None]) -> None:
    launched("--cpu", "--num_processes", "2")
    assert lost_others()
    launched("--cpu", "--num_processes", "1")
    assert not lost_others()


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_what_shards_is_said(name: str, launched: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    launched("--num_processes", "1")
    assert sharded_by() is None
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    assert sharded_by() == name
    assert f'["ACCELERATE_USE_{name}"] = "true"' in inspect.getsource(launch)


def test_the_device_can_be_named() -> None:
    assert "ACCELERATE_TORCH_DEVICE" in inspect.getsource(PartialState)


def test_a_launcher_that_starts_one_of_several_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not lost_others()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert not lost_others()
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert lost_others()
    monkeypatch.setenv("RANK", "0")
    assert not lost_others()
