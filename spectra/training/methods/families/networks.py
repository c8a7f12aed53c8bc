"""Methods whose update depends on the input: they can be trained and evaluated, but have no ΔW to analyze."""

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import RANKED, Method, Peft
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import Shapes, number_of, rank
from spectra.weights.facts import FACTS


class LilyOptions(Section):
    """Options of Lily.

    Attributes
    ----------
    num_B
        Number of matrices B that a router mixes, shared per module type.
    scaling
        Scale of the product.
    """

    num_B: int = Field(default=2, ge=2)
    scaling: float = Field(default=2.0, gt=0)


def _lily_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    count, r = number_of(recipe, "options.num_B"), rank(recipe)
    kinds = {(name.rpartition(".")[2], shape) for name, shape in shapes.items()}
    shared = sum(count * r * shape[0] for _, shape in kinds)
    return shared + sum(r * shape[1] + count * r for shape in shapes.values())


class ShadowOptions(Section):
    """Options of ShadowPEFT.

    Attributes
    ----------
    shadow_alpha
        Strength of the correction of hidden states.
    """

    shadow_alpha: float = Field(default=0.1, gt=0)


METHODS = (
    Method(
        FACTS["lily"],
        trains="A (r, in) and a router of each target module, and matrices B shared per module type",
        defaults=RANKED,
        options=LilyOptions,
        config=Peft("LilyConfig", {"r": "r"}),
        size=_lily_size,
        notes=("it cannot be merged, and spectra analyze refuses it",),
    ),
    Method(
        FACTS["shadow"],
        trains="a small decoder next to the base model, and projections that feed it back into every block",
        defaults={"r": 8, "dropout": 0.0},
        options=ShadowOptions,
        config=Peft("ShadowConfig", {"r": "r", "dropout": "shadow_dropout"}),
        notes=("it cannot be merged, and spectra analyze refuses it",),
    ),
)
