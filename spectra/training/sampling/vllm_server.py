"""vLLM server: check that it is up, serves the base model of the policy, and samples from the weights of this step.

TRL sends the merged weights through NCCL, which only GPUs have. Without NCCL they are transferred through files: the
trainer writes them to a directory, and vLLM loads them in place of its own.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import EngineError
from spectra.training.compat.trl import use_client
from spectra.training.sampling.vllm_http import RESUME, HTTPClientMixin

_PROBE = "12+34= \\boxed{x}? Straße, 東京."
_SHAPE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
# Size of one file of weights: merged weights are copied before they are written, but not all at once.
_FILE_BYTES = 2**30


@dataclass(frozen=True)
class ServedModel:
    """Model that a server must serve.

    Attributes
    ----------
    base
        Directory of the base weights.
    config
        Configuration of the base model, from transformers.
    tokenizer
        Tokenizer of the base model.
    corrects
        Whether the loss is corrected with the server's log probabilities (importance sampling).
    """

    base: Path
    config: Any
    tokenizer: Any
    corrects: bool

    @property
    def start(self) -> str:
        """Hint: how to start such a server."""
        return f"start one with python training/vllm/serve.py {self.base}"


class ServerClient(HTTPClientMixin):
    """Client of a vLLM server; a mixin that precedes TRL's ``VLLMClient`` among the bases of a class.

    Every failure is an ``EngineError`` of one line.

    Attributes
    ----------
    served
        Model that the server must serve.
    """

    served: ServedModel
    _folder: Path | None = None
    _version: str | None = None

    def get_server_info(self) -> Any:
        """Return the server's configuration."""
        return self._get(f"{self.base_url}/server_info", params={"config_format": "json"})["vllm_config"]

    def init_communicator(self, device: Any = 0) -> None:
        """Check the served model, and choose how to update its weights: through NCCL if both sides have it.

        Raises
        ------
        EngineError
            If it serves another model or vocabulary, or its log probabilities are not those of the sampling
            distribution.
        """
        import torch

        info = self.get_server_info()
        self._check(info)
        transfer = info["weight_transfer_config"]
        if transfer is not None and transfer["backend"] == "nccl" and torch.cuda.is_available():
            super().init_communicator(device)
        else:
            self._folder = Path(tempfile.gettempdir())

    def _check(self, info: Any) -> None:
        there = info["model_config"]
        difference = _difference(there["model"], self.served.config)
        if difference is not None:
            fault = f"the vLLM server serves a different model, {there['model']}: {difference}"
            raise EngineError(fault, where=self.base_url, hint=self.served.start)
        question = {"model": self.model, "prompt": _PROBE, "add_special_tokens": False}
        tokens = self._post(f"{self.base_url}/tokenize", json=question)["tokens"]
        if tokens != self.served.tokenizer(_PROBE, add_special_tokens=False)["input_ids"]:
            fault = f"the vLLM server has a different vocabulary, that of {there['tokenizer']}"
            raise EngineError(fault, where=self.base_url, hint=self.served.start)
        if self.served.corrects and there["logprobs_mode"] != "processed_logprobs":
            fault = f"the vLLM server returns {there['logprobs_mode']}, not the probabilities that it samples from"
            hint = "start it with --logprobs-mode processed_logprobs, or set rollout.importance_cap to null"
            raise EngineError(fault, where=self.base_url, hint=hint)

    def update_named_params(
        self, metadata: Sequence[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, Any]]
    ) -> None:
        """Send the weights of this step to the server.

        Raises
        ------
        EngineError
            If the server cannot load them.
        """
        if self._folder is None:
            super().update_named_params(metadata, named_params)
            return
        directory = Path(tempfile.mkdtemp(prefix="spectra-weights-", dir=self._folder))
        try:
            write_weights(named_params, directory)
            self._reload(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        self._version = uuid.uuid4().hex
        self._post(f"{self.base_url}/update_weight_version", json={"new_version": self._version})

    def _reload(self, directory: Path) -> None:
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        try:
            self._post(f"{self.base_url}/collective_rpc", json=call)
        except EngineError as error:
            hint = f"the server needs access to {self._folder} of this machine (set TMPDIR to change it); {RESUME}"
            raise EngineError(error.what, where=self.base_url, hint=hint) from error

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Return completions from the server, see TRL's client.

        Raises
        ------
        EngineError
            If the server no longer has the weights that were sent last.
        """
        if self._folder is not None:
            held = self._get(f"{self.base_url}/weight_info")["weight_version"]
            if held != self._version:
                fault = "the vLLM server lost this step's weights: it was restarted, or another run updates them too"
                raise EngineError(fault, where=self.base_url, hint="use one server per run, and train again")
        return super().generate(*args, **kwargs)


def use_server(served: ServedModel) -> None:
    """Make TRL use :class:`ServerClient` for its server."""
    use_client(ServerClient, served=served, start=served.start)


def write_weights(weights: Iterator[tuple[str, Any]], directory: Path, *, file_bytes: int = _FILE_BYTES) -> None:
    """Write named tensors as safetensors files of at most ``file_bytes`` each, or of one tensor.

    Parameters
    ----------
    weights
        Names and tensors, on any device. Each tensor is copied before the next one is requested: an iterator that
        merges an adapter restores the base weights when it ends.
    directory
        Directory to write to.
    file_bytes
        Bytes in memory at once.
    """
    from safetensors.torch import save_file

    held: dict[str, Any] = {}
    size = files = 0
    for name, tensor in weights:
        grown = tensor.numel() * tensor.element_size()
        if held and size + grown > file_bytes:
            save_file(held, directory / f"{files:05d}.safetensors")
            held, size, files = {}, 0, files + 1
        held[name] = tensor.detach().contiguous().to("cpu", copy=True)
        size += grown
    save_file(held, directory / f"{files:05d}.safetensors")


def _difference(model: str, expected: Any) -> str | None:
    """Return how a model's shape differs from a configuration; None if equal, or if its files are not found."""
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    for key in _SHAPE:
        there, here = getattr(found, key, None), getattr(expected, key, None)
        if there != here:
            return f"{key} is {there} there and {here} here"
    return None
