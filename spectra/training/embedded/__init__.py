"""A base model small enough to ship, its task, and the commands that made and measure it.

The base (0.81 M parameters) adds two-digit numbers, and drops the carries more often than not: the right skill is there
as the minority mode, which is what reinforcement learning with a verifiable reward can bring out on a laptop.
"""

from pathlib import Path

import spectra.weights

WEIGHTS = Path(spectra.weights.__file__).parent / "embedded"
"""Hugging Face directory of the shipped base: give it to ``from_pretrained`` of a model or tokenizer."""
