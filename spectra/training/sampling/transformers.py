"""Completions from a transformers model, and the interface that vLLM implements too."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spectra.errors import UsageError
from spectra.training.compat.transformers import shared_prefixes
from spectra.training.data.carry_addition import Message

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Prompt = str | list[Message]

# Options that are not set here would come from the checkpoint's generation_config.json.
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
UNCUT = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0}


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Attributes
    ----------
    samples
        Completions per prompt; must be 1 where ``temperature`` is 0.
    temperature
        0 is greedy decoding.
    top_p
        Nucleus sampling threshold (top-p); 1 samples from all tokens.
    max_new_tokens
        Maximum length of a completion, in tokens.
    seed
        Seed of a separate random stream.
    """

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"samples must be at least 1, got {self.samples}", hint="draw one sample or more")
        if self.temperature == 0 and self.samples > 1:
            hint = "draw one sample, or set a temperature above 0"
            raise UsageError(f"cannot draw {self.samples} samples at temperature {self.temperature}", hint=hint)
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            fault = f"temperature {self.temperature}, top-p {self.top_p}, {self.max_new_tokens} tokens"
            hint = "temperature must be at least 0, top-p in (0, 1], and at least one token"
            raise UsageError(f"cannot sample with {fault}", hint=hint)


@dataclass(frozen=True)
class Completion:
    """One completion.

    Attributes
    ----------
    text
        Text without special tokens.
    tokens
        Generated tokens, the end-of-sequence token included.
    finished
        Whether the model ended the completion with an end token.
    """

    text: str
    tokens: int
    finished: bool


class Generator(ABC):
    """Samples completions of prompts."""

    @abstractmethod
    def prompts_at_once(self, sampling: Sampling) -> int:
        """Return the best number of prompts per call of ``generate``."""

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return the completions of each prompt. Equal arguments give equal completions."""


class ModelGenerator(Generator):
    """Generates with ``model.generate``.

    Parameters
    ----------
    model
        Any Hugging Face causal language model, with or without a peft adapter.
    tokenizer
        Its tokenizer. Chat prompts go through its chat template.
    batch_size
        Sequences generated at once. Samples depend on it.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, batch_size: int = 256
    ) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._ends = end_tokens(model.generation_config.eos_token_id, tokenizer)

    def prompts_at_once(self, sampling: Sampling) -> int:
        """Return the number of prompts that fill a batch."""
        return max(1, self._batch_size // sampling.samples)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return the completions of each prompt; global random state and the model's mode are not changed."""
        ids = [prompt_ids(self._tokenizer, prompt) for prompt in prompts]
        rows = [prompt for prompt in ids for _ in range(sampling.samples)]
        found: list[Completion] = []
        with _evaluating(self._model, sampling.seed), shared_prefixes(self._model):
            for start in range(0, len(rows), self._batch_size):
                found += self._complete(rows[start : start + self._batch_size], sampling)
        count = sampling.samples
        return [found[at * count : (at + 1) * count] for at in range(len(prompts))]

    def _complete(self, batch: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        longest = max(map(len, batch))
        config = self._config(sampling, room(self._model.config, longest, sampling.max_new_tokens))
        padded = [[config.pad_token_id] * (longest - len(ids)) + ids for ids in batch]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch]
        output = self._model.generate(
            input_ids=torch.tensor(padded, device=self._model.device),
            attention_mask=torch.tensor(mask, device=self._model.device),
            generation_config=config,
        )
        ended = [_ended(tokens, self._ends) for tokens in output[:, longest:].tolist()]
        texts = self._tokenizer.batch_decode([tokens for tokens, _ in ended], skip_special_tokens=True)
        return [Completion(text, len(tokens), done) for text, (tokens, done) in zip(texts, ended, strict=True)]

    def _config(self, sampling: Sampling, max_new_tokens: int) -> "GenerationConfig":
        from transformers import GenerationConfig

        tokenizer, pad = self._tokenizer, self._tokenizer.pad_token_id
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, **UNCUT}
        return GenerationConfig(
            do_sample=sampling.temperature > 0,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=next(iter([*self._ends, 0])) if pad is None else pad,
            bos_token_id=tokenizer.bos_token_id,
            **NEUTRAL,
            **(drawn if sampling.temperature > 0 else {}),
        )


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> list[int]:
    """Return the tokens of a prompt; of a chat, with the generation prompt.

    Raises
    ------
    UsageError
        If the prompt is a chat and the tokenizer has no chat template.
    """
    plain = isinstance(prompt, str)
    try:
        text = prompt if plain else tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    except ValueError as error:
        if getattr(tokenizer, "chat_template", None):
            raise
        raise UsageError("the tokenizer has no chat template", hint="use the prompt format `none`") from error
    # A chat template includes the special tokens; for a plain prompt the tokenizer adds them.
    ids: list[int] = tokenizer(text, add_special_tokens=plain)["input_ids"]
    return ids


def end_tokens(known: "int | list[int] | None", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the tokens that end a completion: those of the tokenizer and of the generation config.

    Instruct models have different tokens for the end of a turn and of a text; only the generation config has both.
    """
    several = known if isinstance(known, list) else [known]
    return sorted({end for end in (*several, tokenizer.eos_token_id) if end is not None})


def positions(config: object) -> int | None:
    """Return the number of positions of a model; None if its config does not state it."""
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found


def room(config: object, prompt: int, wanted: int) -> int:
    """Return the maximum number of new tokens after a prompt: ``wanted``, or the model's remaining positions.

    Raises
    ------
    UsageError
        If the prompt leaves no position.
    """
    available = positions(config)
    if available is None:
        return wanted
    if prompt >= available:
        fault = f"a prompt has {prompt} tokens, and the model has {available} positions"
        raise UsageError(fault, hint="evaluate on shorter problems, or use the prompt format `none`")
    return min(wanted, available - prompt)


def _ended(tokens: list[int], ends: list[int]) -> tuple[list[int], bool]:
    end = next((index for index, token in enumerate(tokens) if token in ends), None)
    return (tokens, False) if end is None else (tokens[: end + 1], True)


@contextmanager
def _evaluating(model: "PreTrainedModel", seed: int) -> Iterator[None]:
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        # Not inference mode: FSDP keeps the gathered tensors and uses them in training.
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            yield
    finally:
        model.train(training)
