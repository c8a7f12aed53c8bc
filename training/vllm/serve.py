"""Start a vLLM server that training samples from: python training/vllm/serve.py BASE [--port 8000] [vLLM's own options]

BASE is the recipe's `model.base`: a directory, a hub id, or `embedded`. The recipe then says
`rollout: {engine: vllm, mode: server, url: "http://localhost:8000"}`. It runs where vLLM is installed; on a CPU that is
the environment that `make vllm` builds: .venv-vllm/bin/python training/vllm/serve.py embedded --dtype bfloat16

The server loads any weights that it is told to load: let only trusted machines reach it.
"""

import argparse
import json
import os
import sys

import torch

from spectra.errors import SpectraError
from spectra.weights.storage.base import resolve_base

NCCL = ["--weight-transfer-config", json.dumps({"backend": "nccl"})]
# Defaults for a small machine; each can be overridden by the environment.
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def command(arguments: argparse.Namespace, rest: list[str], *, gpu: bool) -> list[str]:
    """Return the command line of the vLLM server."""
    return [
        # The module, because the command `vllm` fails in the CPU build.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(resolve_base(arguments.base, arguments.revision))),
        *("--host", arguments.host, "--port", str(arguments.port)),
        *("--logprobs-mode", "processed_logprobs"),  # the sampling probabilities, at any temperature
        *(NCCL if gpu and not arguments.files else []),
        *([] if gpu else ["--enforce-eager"]),  # compiling takes longer on a CPU than it saves
        *rest,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--revision")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--files", action="store_true", help="renew the weights through files though there are GPUs")
    arguments, rest = parser.parse_known_args()
    gpu = torch.cuda.is_available()
    settings = {} if gpu else {name: os.environ.get(name, value) for name, value in CPU.items()}
    settings["VLLM_SERVER_DEV_MODE"] = "1"  # weight updates are only available in this mode
    try:
        line = command(arguments, rest, gpu=gpu)
    except SpectraError as error:
        sys.exit(str(error))
    os.execve(line[0], line, {**os.environ, **settings})


if __name__ == "__main__":
    main()
