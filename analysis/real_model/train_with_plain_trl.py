"""GRPO with LoRA as a TRL user writes it: no line here knows of spectra. Leaves ``checkpoint-N`` directories behind.

::

    python analysis/real_model/train_with_plain_trl.py --base runs/real/base --out runs/real/run

A few steps on two CPU cores show that foreign runs can be read and that their numbers are right. They show nothing
about what RLVR does to a model.
"""

import argparse
import random
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def problems(count: int, seed: int) -> Dataset:
    """Return additions of two numbers below fifty, as chat prompts with their answers."""
    generator = random.Random(seed)
    pairs = [(generator.randrange(50), generator.randrange(50)) for _ in range(count)]
    ask = "What is {} + {}? Reply with the number only."
    prompts = [[{"role": "user", "content": ask.format(left, right)}] for left, right in pairs]
    return Dataset.from_dict({"prompt": prompts, "answer": [str(left + right) for left, right in pairs]})


def right_number(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
    """Give 1 where the answer appears as a word of the reply."""
    words = [reply[0]["content"].replace(".", " ").split() for reply in completions]
    return [float(wanted in said) for wanted, said in zip(answer, words, strict=True)]


def terse(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """Give the share of digits among the characters: a model this small is rarely right, and often talks."""
    texts = [reply[0]["content"].replace(" ", "") for reply in completions]
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]


def settings(arguments: argparse.Namespace) -> GRPOConfig:
    """Return the trainer's settings: two prompts of four replies a step, at most 24 tokens each."""
    return GRPOConfig(
        output_dir=str(arguments.out),
        max_steps=arguments.steps,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=24,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="constant",
        seed=arguments.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
    )


def main() -> None:
    """Train and report how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face directory of the base model")
    parser.add_argument("--out", type=Path, required=True, help="directory for checkpoint-N")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trainer = GRPOTrainer(
        model=str(arguments.base),
        reward_funcs=[right_number, terse],
        args=settings(arguments),
        train_dataset=problems(64, arguments.seed),
        processing_class=AutoTokenizer.from_pretrained(arguments.base, padding_side="left"),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )
    print(trainer.train())


if __name__ == "__main__":
    main()
