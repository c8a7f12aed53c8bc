r"""Sums of two numbers below ten as chats that show how to answer in ``\boxed{}``, in JSON lines.

::

    python analysis/real_model/write_sums.py --out runs/smollm2/sums.jsonl

SmolLM2-135M is right on a good part of them, and wrong on another: what GRPO needs to learn anything in its first step.
"""

import argparse
import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

SHOWN = ((4, 4), (7, 2), (3, 9))


def turn(left: int, right: int, answer: str | None = None) -> list[dict[str, str]]:
    """Return a question, with its answer where it is shown."""
    question = {"role": "user", "content": f"{left} + {right} = ?"}
    return [question] if answer is None else [question, {"role": "assistant", "content": rf"\boxed{{{answer}}}"}]


def rows() -> Iterator[dict[str, object]]:
    """Yield every sum that is not shown, in a fixed mixed order."""
    pairs = [pair for pair in product(range(2, 10), repeat=2) if pair not in SHOWN]
    random.Random(0).shuffle(pairs)
    shown = [message for left, right in SHOWN for message in turn(left, right, str(left + right))]
    for left, right in pairs:
        yield {"prompt": shown + turn(left, right), "answer": str(left + right)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows()))
