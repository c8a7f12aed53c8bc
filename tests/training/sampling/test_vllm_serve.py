"""The command line of the server that training samples from."""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from spectra.training.embedded import WEIGHTS

SERVE = Path(__file__).parents[3] / "training" / "vllm" / "serve.py"


@pytest.mark.parametrize(("gpu", "files", "nccl"), [(True, False, True), (True, True, False), (False, False, False)])
def test_weights_go_by_nccl_only_where_there_are_gpus(gpu: bool, files: bool, nccl: bool) -> None:
    asked = argparse.Namespace(base="embedded", revision=None, host="127.0.0.1", port=8123, files=files)
    line = runpy.run_path(str(SERVE))["command"](asked, ["--dtype", "bfloat16"], gpu=gpu)
    assert line[line.index("--model") + 1] == str(WEIGHTS)
    assert line[line.index("--port") + 1] == "8123"
    assert line[line.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert ("--weight-transfer-config" in line) == nccl
    assert ("--enforce-eager" in line) == (not gpu)
    assert line[-2:] == ["--dtype", "bfloat16"]


def test_a_base_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SERVE, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(str(tmp_path / "none"))
    assert "no such base model directory" in done.stderr
    assert done.stderr.count("\n") == 1
