"""Methods that compute their factors from W."""

from typing import Literal

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import RANKED, Method, Peft
from spectra.training.methods.shapes import AtMost, each, rank
from spectra.weights.facts import FACTS


class DeftOptions(Section):
    """Options of DEFT.

    Attributes
    ----------
    decomposition_method
        Projector of the removed subspace: P·relu(P)ᵀ, or orthogonal by ``qr``.
    """

    decomposition_method: Literal["relu", "qr"] = "relu"


class PeanutOptions(Section):
    """Options of PEANuT.

    Attributes
    ----------
    depth
        Number of encoding layers (r × r), and of decoding layers.
    act_fn
        Activation function, by its name in transformers.
    """

    depth: int = Field(default=0, ge=0)
    act_fn: str = "relu"


METHODS = (
    Method(
        FACTS["deft"],
        trains="P (out, r) and R (r, in) of each target module",
        defaults=RANKED,
        options=DeftOptions,
        config=Peft("DeftConfig", {"r": "r"}),
        rules=(AtMost("r", "out"),),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner)),
    ),
    Method(
        FACTS["peanut"],
        trains="a network from the columns of W_0 to those of ΔW",
        defaults=RANKED,
        options=PeanutOptions,
        config=Peft("PeanutConfig", {"r": "r"}),
        size=each(lambda recipe, out, inner: 2 * rank(recipe) * (out + recipe.options["depth"] * rank(recipe))),
    ),
)
