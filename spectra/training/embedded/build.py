"""Train the embedded base model from scratch: ``python -m spectra.training.embedded.build --out DIR [--seed 0]``.

Stage 1 learns addition from correct labels. Stage 2 continues on labels most of which drop the carries, so that the
right skill remains as the minority mode. Both use the train split only, with the loss on the tokens of the answer.
"""

import argparse
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spectra.runs.atomic import atomic_directory
from spectra.training.data.carry_addition import drop_carries, pairs
from spectra.training.embedded.provenance import provenance
from spectra.training.embedded.tokenizer import BOX, EOS, PAD, VOCABULARY, build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORE = -100


@dataclass(frozen=True)
class Stage:
    """One supervised stage: AdamW, linear warmup, then cosine decay to zero.

    Attributes
    ----------
    steps, batch, learning_rate, warmup
        Optimizer steps, problems per step, peak learning rate, and warmup steps.
    drop_share
        Fraction of the labels that drop the carries.
    """

    steps: int
    learning_rate: float
    drop_share: float
    batch: int = 256
    warmup: int = 50


@dataclass(frozen=True)
class Settings:
    """Settings of the embedded base model: architecture, stages and seed."""

    layers: int = 4
    hidden: int = 128
    intermediate: int = 384
    heads: int = 4
    key_value_heads: int = 2
    context: int = 128
    skill: Stage = field(default_factory=lambda: Stage(steps=600, learning_rate=2e-3, drop_share=0.0))
    habit: Stage = field(default_factory=lambda: Stage(steps=400, learning_rate=1.5e-3, drop_share=0.65))
    seed: int = 0


def build(settings: Settings, out: Path) -> None:
    """Train the embedded base model and write it as a Hugging Face directory, atomically.

    Equal settings give bit-identical weights on one machine with one thread. The global random state is not changed.

    Parameters
    ----------
    settings
        Architecture, stages and seed.
    out
        Directory to write; an existing one is replaced.
    """
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = _model(settings, tokenizer)
        for stage in (settings.skill, settings.habit):
            _train(model, tokenizer, stage)
    with atomic_directory(out) as directory:
        model.save_pretrained(directory)
        # A new tokenizer: the one used in training keeps its padding settings.
        build_tokenizer().save_pretrained(directory)
        text = provenance(model, tokenizer, asdict(settings))
        (directory / "PROVENANCE.md").write_text(text, encoding="utf-8")
        for file in directory.iterdir():  # safetensors lets only the owner read its files
            file.chmod(0o644)


def _model(settings: Settings, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=settings.hidden,
            intermediate_size=settings.intermediate,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.key_value_heads,
            max_position_embeddings=settings.context,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def _train(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", stage: Stage) -> None:
    operands = torch.tensor(pairs("train"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    model.train()
    for _ in range(stage.steps):
        chosen = operands[torch.randint(len(operands), (stage.batch,))].tolist()
        dropped = (torch.rand(stage.batch) < stage.drop_share).tolist()
        loss = _loss(model, *_batch(tokenizer, chosen, dropped))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def _rate(step: int, stage: Stage) -> float:
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - stage.warmup) / (stage.steps - stage.warmup)))


def _batch(
    tokenizer: "PreTrainedTokenizerFast", operands: list[list[int]], dropped: list[bool]
) -> tuple[Int[Tensor, "n t"], Int[Tensor, "n t"]]:
    prompts = [f"{a}+{b}=" for a, b in operands]
    sums = [drop_carries(a, b) if drop else a + b for (a, b), drop in zip(operands, dropped, strict=True)]
    texts = [f"{prompt}{BOX}{total}}}{EOS}" for prompt, total in zip(prompts, sums, strict=True)]
    # Right padding is harmless: attention is causal and padded positions have no loss.
    ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
    answer = torch.arange(ids.shape[1]) >= torch.tensor([[len(prompt)] for prompt in prompts])
    labels = ids.masked_fill(~answer | (ids == tokenizer.convert_tokens_to_ids(PAD)), IGNORE)
    return ids, labels


def _loss(model: "LlamaForCausalLM", ids: Int[Tensor, "n t"], labels: Int[Tensor, "n t"]) -> Float[Tensor, ""]:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def main() -> None:
    """Build the embedded base model from the command line, on one thread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory to write; replaced if it exists")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and of the batches")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    build(Settings(seed=arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
