"""Full fine-tuning: every parameter of the base model trains."""

from spectra.training.methods.method import Method
from spectra.weights.facts import FACTS

METHODS = (
    Method(
        FACTS["full"],
        trains="every parameter of the base",
        learning_rate=1e-4,
        notes=("needs about a tenth of LoRA's learning rate",),
    ),
)
