"""Methods that train norms or biases only."""

from spectra.training.methods.method import NORM_MODULES, Method, Peft
from spectra.training.methods.shapes import each
from spectra.weights.facts import FACTS

METHODS = (
    Method(
        FACTS["layernorm"],
        trains="the weight g of every norm",
        defaults={"target_modules": NORM_MODULES},
        config=Peft("LNTuningConfig"),
        targets="norm",
        size=each(lambda recipe, features, _: features),
        learning_rate=1e-2,
        notes=("needs about ten times LoRA's learning rate",),
    ),
    Method(
        FACTS["beft"],
        trains="a bias (out,) of each target module",
        defaults={"target_modules": ["v_proj"]},
        config=Peft("BeftConfig"),
        size=each(lambda recipe, out, inner: out),
        learning_rate=1e-2,
        notes=("it adds a bias to a layer without one, and cannot be merged then",),
    ),
)
