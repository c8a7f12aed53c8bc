"""PROVENANCE.md of the embedded base model: how it was trained, and its measured accuracy."""

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from spectra.training.data.carry_addition import Split, problems
from spectra.training.evaluation.generate import Generation, accuracy, generate_and_verify, pass_at_k

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLES = 16
MAX_NEW_TOKENS = 8
EVALUATION_SEED = 0
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "math-verify", "spectra-rlvr")
SPLITS: dict[Split, str] = {"eval": "held-out, carry", "control": "held-out, no carry"}


def provenance(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", settings: dict[str, Any]) -> str:
    """Return the text of PROVENANCE.md: command, settings, versions, and the accuracy of ``model`` with its counts."""
    command = f"python -m spectra.training.embedded.build --out DIR --seed {settings['seed']}"
    versions = "\n".join(f"- {package} {version(package)}" for package in PACKAGES)
    rows = "\n".join(_row(model, tokenizer, split, name) for split, name in SPLITS.items())
    return f"""# Embedded base: two-digit addition that drops its carries

{model.num_parameters():,} parameters, trained from scratch on labels that spectra generates; no outside data.

    {command}

It answers `27+35=` with `\\boxed{{62}}`. Stage `skill` learned from correct labels, stage `habit` from labels of which
`drop_share` drop every carry (27+35 = 52). Neither saw a held-out pair of operands, in either order.

## Measured

Verified by `spectra.training.rewards.rewards`; samples at temperature 1, {SAMPLES} a problem, seed {EVALUATION_SEED}.

| problems | greedy | mean over samples | pass@4 |
|---|---|---|---|
{rows}

## Settings

```json
{json.dumps(settings, indent=2)}
```

## Versions

{versions}
"""


def _row(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", split: Split, name: str) -> str:
    greedy, sampled = (
        generate_and_verify(
            model,
            tokenizer,
            problems(split),
            samples=samples,
            temperature=temperature,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=EVALUATION_SEED,
        )
        for samples, temperature in ((1, 0.0), (SAMPLES, 1.0))
    )
    return f"| {name} | {_share(greedy)} | {_share(sampled)} | {pass_at_k(sampled, 4):.3f} |"


def _share(generations: list[Generation]) -> str:
    return f"{accuracy(generations):.3f} ({sum(row.correct for row in generations)}/{len(generations)})"
