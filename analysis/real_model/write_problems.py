r"""Questions for the number after one below a hundred, as chats that show how to answer in ``\boxed{}``, in JSON lines.

::

    python analysis/real_model/write_problems.py --out runs/smollm2/problems.jsonl

SmolLM2-135M is right about every other time, which gives GRPO something to learn from in its first step. Of sums of two
numbers it knows almost none: every group was all wrong, and the first update zero.
"""

import argparse
import json
import random
from pathlib import Path

SHOWN = (30, 58, 91)


def turn(number: int) -> list[dict[str, str]]:
    """Return the question and its answer."""
    return [
        {"role": "user", "content": f"Which number comes after {number}?"},
        {"role": "assistant", "content": rf"\boxed{{{number + 1}}}"},
    ]


def rows() -> list[dict[str, object]]:
    """Return every question that is not shown, in a fixed mixed order."""
    numbers = [number for number in range(10, 99) if number not in SHOWN]
    random.Random(0).shuffle(numbers)
    shown = [message for number in SHOWN for message in turn(number)]
    return [{"prompt": [*shown, turn(number)[0]], "answer": str(number + 1)} for number in numbers]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows()))
