"""Completions by vLLM, with the interface of ``spectra.training.sampling.transformers``."""

import gc
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from spectra.errors import MissingDependencyError
from spectra.training.sampling.transformers import Completion, Generator, Prompt, Sampling, end_tokens, prompt_ids, room

# Problems that are passed to vLLM together, and whose generations are written together.
_PROMPTS = 32


class VLLMGenerator(Generator):
    """Generates with vLLM, in this process.

    Every completion has its own seed, so samples do not depend on the rest of the batch, except through the rounding of
    the device.

    Parameters
    ----------
    model
        Directory of a full model.
    tokenizer
        Its tokenizer, from transformers.
    dtype
        ``float32`` or ``bfloat16``.
    memory
        Fraction of GPU memory for vLLM (gpu_memory_utilization).

    Raises
    ------
    MissingDependencyError
        If vLLM is not installed.
    """

    def __init__(self, model: Path, tokenizer: Any, *, dtype: str, memory: float) -> None:
        try:
            self._vllm = import_module("vllm")
        except ImportError as error:
            hint = "install it (`make vllm` builds an environment for the CPU), or use --generator hf"
            raise MissingDependencyError("the generator vllm needs vLLM", hint=hint) from error
        from transformers import AutoConfig, GenerationConfig

        self._tokenizer = tokenizer
        self._config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        known = GenerationConfig.from_pretrained(model) if (model / "generation_config.json").exists() else None
        config_ends = getattr(self._config, "eos_token_id", None)
        self._ends = end_tokens(config_ends if known is None else known.eos_token_id, tokenizer)
        self._engine: Any = self._vllm.LLM(
            model=str(model),
            skip_tokenizer_init=True,  # input and output are tokens
            dtype=dtype,
            gpu_memory_utilization=memory,
            generation_config="vllm",  # ignore the checkpoint's sampling defaults
        )

    def close(self) -> None:
        """Free the device's memory, which the next model needs."""
        import torch

        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prompts_at_once(self, sampling: Sampling) -> int:
        """Return the number of prompts that are generated before any of them is written."""
        return _PROMPTS

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return the completions of each prompt."""
        ids = [prompt_ids(self._tokenizer, prompt) for prompt in prompts]
        settings = [self._settings(sampling, len(tokens), number) for number, tokens in enumerate(ids)]
        inputs = [{"prompt_token_ids": tokens} for tokens in ids]
        outputs = self._engine.generate(inputs, settings, use_tqdm=False)
        return [[self._completion(drawn) for drawn in output.outputs] for output in outputs]

    def _settings(self, sampling: Sampling, prompt: int, number: int) -> Any:
        return self._vllm.SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=room(self._config, prompt, sampling.max_new_tokens),
            seed=(sampling.seed + number) % 2**31,
            stop_token_ids=self._ends,
            detokenize=False,
        )

    def _completion(self, drawn: Any) -> Completion:
        tokens = list(drawn.token_ids)
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Completion(text, len(tokens), drawn.finish_reason == "stop")
