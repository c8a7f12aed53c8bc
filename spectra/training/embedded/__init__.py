"""Embedded base model, small enough to ship with the package, and the code that builds and measures it.

The model (0.81 M parameters) adds two-digit numbers, and drops the carries more often than not: the right skill is its
minority mode, which reinforcement learning with a verifiable reward can amplify on a laptop.
"""

from pathlib import Path

import spectra.weights

WEIGHTS = Path(spectra.weights.__file__).parent / "embedded"
"""Hugging Face directory of the embedded base model, for ``from_pretrained`` of a model or tokenizer."""
