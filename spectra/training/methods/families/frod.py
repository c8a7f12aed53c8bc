"""FRoD: W in a basis shared by all modules of a module type."""

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import TARGETS, Method, Peft
from spectra.training.methods.shapes import each
from spectra.weights.facts import FACTS


class FrodOptions(Section):
    """Options of FRoD.

    Attributes
    ----------
    sparse_rate
        Fraction of the off-diagonal entries that train.
    """

    sparse_rate: float = Field(default=0.01, ge=0, le=1)


METHODS = (
    Method(
        FACTS["frod"],
        trains="the diagonal L and sparse entries S of each target in a basis V shared per module type",
        defaults={**TARGETS, "dropout": 0.0},
        options=FrodOptions,
        config=Peft(
            "FrodConfig", {"dropout": "frod_dropout"}, seed="projection_prng_key", fixed={"progressbar": False}
        ),
        size=each(lambda recipe, out, inner: inner + int(inner * inner * recipe.options["sparse_rate"])),
    ),
)
