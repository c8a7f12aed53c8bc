"""Methods that train in the basis of singular vectors of W."""

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import RANKED, TARGETS, Method, Peft
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import AtMost, Shapes, each, number_of, rank
from spectra.weights.facts import FACTS


class PsoftOptions(Section):
    """Options of PSOFT.

    Attributes
    ----------
    psoft_mag_a, psoft_mag_b
        Whether a vector scales each side of the rotation.
    """

    psoft_mag_a: bool = True
    psoft_mag_b: bool = True


def _psoft_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    sides = int(recipe.options["psoft_mag_a"]) + int(recipe.options["psoft_mag_b"])
    return rank(recipe) * (rank(recipe) - 1) // 2 + sides * rank(recipe)


class TinyloraOptions(Section):
    """Options of TinyLoRA.

    Attributes
    ----------
    u
        Length of a trained vector.
    weight_tying
        Fraction of modules that share their vector: 0 none, 1 all.
    """

    u: int = Field(default=64, ge=1)
    weight_tying: float = Field(default=0.0, ge=0, le=1)


def _tinylora_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    groups: int = max(1, round(len(shapes) * (1 - recipe.options["weight_tying"])))
    return number_of(recipe, "options.u") * groups


METHODS = (
    Method(
        FACTS["psoft"],
        trains="an r × r rotation, and a scale at each side of it, in the r leading directions of each target",
        defaults={**RANKED, "alpha": 8.0, "dropout": 0.0},
        options=PsoftOptions,
        config=Peft("PsoftConfig", {"r": "r", "alpha": "psoft_alpha", "dropout": "psoft_dropout"}),
        rules=(AtMost("r"),),
        size=each(_psoft_size),
    ),
    Method(
        FACTS["tinylora"],
        trains="one vector v (u,) per target module, or per group of them",
        defaults={**TARGETS, "r": 2, "dropout": 0.0},
        options=TinyloraOptions,
        config=Peft("TinyLoraConfig", {"r": "r", "dropout": "tinylora_dropout"}, seed="projection_seed"),
        size=_tinylora_size,
    ),
    Method(
        FACTS["osf"],
        trains="all singular triplets of each target except the r leading ones, which are frozen",
        defaults=RANKED,
        config=Peft("OSFConfig", {"r": "effective_rank"}),
        rules=(AtMost("r"),),
        size=each(lambda recipe, out, inner: (min(out, inner) - rank(recipe)) * (out + inner + 1)),
        notes=(
            "it has more trainable weights than the base model has weights",
            "snapshots have only the trained part: the rest is the decomposition of the base, recomputed on loading",
        ),
    ),
)
