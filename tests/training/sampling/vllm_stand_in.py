"""A stand-in for vLLM's server: its HTTP interface as far as spectra and TRL use it, over transformers on the CPU."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from spectra.training.sampling.vllm_server import ServedModel, use_server


class Refusal(Exception):
    """What the server answers in place of a result: a status and a word."""


class StandIn:
    """Serves one base, and keeps every set of weights that it is given.

    Attributes
    ----------
    received
        The weights of each renewal, by name.
    info
        What ``/server_info`` tells; None where the server does not offer it.
    shift
        Added to every token of ``/tokenize``: another vocabulary.
    """

    def __init__(self, base: Path, dtype: torch.dtype = torch.float32) -> None:
        self.base = base
        self.model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.received: list[dict[str, torch.Tensor]] = []
        self.version = "default"
        self.shift = 0
        self.info: dict[str, Any] | None = {
            "model_config": {"model": str(base), "tokenizer": str(base), "logprobs_mode": "processed_logprobs"},
            "weight_transfer_config": None,
        }
        self._generator = torch.Generator().manual_seed(0)
        self._lock = Lock()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        handle = getattr(self, "on_" + path.strip("/").replace("/", "_"))
        if path == "/health":
            return handle(body)
        with self._lock:
            return handle(body)

    def on_health(self, body: dict[str, Any]) -> Any:
        return {}

    def on_v1_models(self, body: dict[str, Any]) -> Any:
        return {"data": [{"id": "stand-in"}]}

    def on_server_info(self, body: dict[str, Any]) -> Any:
        if self.info is None:
            raise Refusal(404, "Not Found")
        return {"vllm_config": self.info}

    def on_tokenize(self, body: dict[str, Any]) -> Any:
        tokens = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
        return {"tokens": [token + self.shift for token in tokens]}

    def on_collective_rpc(self, body: dict[str, Any]) -> Any:
        assert body["method"] == "reload_weights"
        files = sorted(Path(body["kwargs"]["weights_path"]).iterdir())
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
        if weights.keys() != dict(self.model.named_parameters()).keys():
            raise Refusal(500, "Worker failed with error 'unknown weights'")
        self.received.append(weights)
        self.model.load_state_dict(weights, strict=False)
        return {"results": [None]}

    def on_update_weight_version(self, body: dict[str, Any]) -> Any:
        self.version = body["new_version"]
        return {"success": True}

    def on_weight_info(self, body: dict[str, Any]) -> Any:
        return {"weight_version": self.version}

    def on_reset_prefix_cache(self, body: dict[str, Any]) -> Any:
        return {"success": True}

    def on_v1_completions(self, body: dict[str, Any]) -> Any:
        return {"choices": [choice for prompt in body["prompt"] for choice in self._sample(prompt, body)]}

    @torch.no_grad()
    def _sample(self, prompt: list[int], body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        rows = torch.tensor([prompt] * body["n"])
        logs = []
        for _ in range(body["max_tokens"]):
            log = (self.model(rows).logits[:, -1].float() / body["temperature"]).log_softmax(-1)
            drawn = torch.multinomial(log.exp(), 1, generator=self._generator)
            rows = torch.cat([rows, drawn], 1)
            logs.append(log.gather(1, drawn))
        ends = self.tokenizer.eos_token_id
        for row, log in zip(rows[:, len(prompt) :].tolist(), torch.cat(logs, 1).tolist(), strict=True):
            stop = row.index(ends) + 1 if ends in row else len(row)
            names = [f"token_id:{token}" for token in row[:stop]]
            said = {"tokens": names, "token_logprobs": log[:stop], "top_logprobs": [None] * stop}
            yield {"prompt_token_ids": prompt, "token_ids": row[:stop], "logprobs": said}


@contextmanager
def listening(stand_in: StandIn) -> Iterator[str]:
    """Serve, and give the address."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, value = 200, None
            try:
                value = stand_in.answer(self.path.partition("?")[0], body)
            except Refusal as refusal:
                status, said = refusal.args
                value = {"error": {"message": said}}
            payload = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = _reply

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def section(url: str, **keys: Any) -> dict[str, Any]:
    """Return the recipe's section ``rollout``."""
    return {"engine": "vllm", "mode": "server", "url": url, "timeout": 30, **keys}


def connect(base: Path, url: str, *, corrects: bool = True, timeout: float = 30.0) -> Any:
    """Return a client that has greeted the server, as TRL's generation makes it."""
    from trl.generation import vllm_generation

    config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    use_server(ServedModel(base, config, tokenizer, corrects))
    client = vllm_generation.VLLMClient(base_url=url, connection_timeout=timeout)
    client.init_communicator(device="cpu")
    return client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
