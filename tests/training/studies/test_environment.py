"""The command and the environment of a study's workers."""

import os
import sys

import pytest

from spectra.errors import RecipeError
from spectra.training.studies.environment import (
    DEVICES,
    STUDY,
    LaunchRecipe,
    check_launch,
    share,
    visible_devices,
    worker_command,
    worker_environment,
)


def test_gpus_are_shared_out_and_none_is_given_twice() -> None:
    devices = [str(index) for index in range(8)]
    for workers in (1, 2, 3, 8):
        shares = [share(devices, slot, workers) for slot in range(workers)]
        assert [device for own in shares for device in own] == devices
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [share(["0", "1"], slot, 3) for slot in range(3)] == [["0"], ["0"], ["1"]]


def test_each_worker_sees_its_own_gpus() -> None:
    seen = [worker_environment({"PATH": "/bin"}, ["0", "1", "2", "3"], slot, 2) for slot in (0, 1)]
    assert [environment[DEVICES] for environment in seen] == ["0,1", "2,3"]
    assert all(environment["PATH"] == "/bin" and environment[STUDY] == str(os.getpid()) for environment in seen)
    assert seen[0]["MASTER_PORT"] != seen[1]["MASTER_PORT"]


def test_gpus_that_are_chosen_already_are_the_ones_shared_out() -> None:
    assert visible_devices({DEVICES: "5, GPU-1a,7"}) == ["5", "GPU-1a", "7"]
    given = {DEVICES: "5,7", "MASTER_PORT": "1"}
    second = worker_environment(given, visible_devices(given), 1, 2)
    assert (second[DEVICES], second["MASTER_PORT"]) == ("7", "1")


def test_without_a_gpu_nothing_is_said_of_one() -> None:
    assert worker_environment({DEVICES: ""}, visible_devices({DEVICES: ""}), 0, 2)[DEVICES] == ""
    assert DEVICES not in worker_environment({}, [], 0, 2)


def test_a_launcher_is_given_its_file_its_processes_and_a_free_port() -> None:
    worker = ["-m", "spectra.training.studies.worker", "out"]
    assert worker_command(["out"], None, 2) == [sys.executable, *worker]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "f.yaml"]
    assert worker_command(["out"], LaunchRecipe(config="f.yaml"), 1) == [*launcher, *worker]
    several = ["--num_processes", "4", "--main_process_port", "0"]
    assert worker_command(["out"], LaunchRecipe(config="f.yaml", processes=4), 2) == [*launcher, *several, *worker]


def test_the_launchers_file_must_be_there() -> None:
    check_launch(None)
    with pytest.raises(RecipeError, match=r"launch\.config absent\.yaml: no such file"):
        check_launch(LaunchRecipe(config="absent.yaml"))
