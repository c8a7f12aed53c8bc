"""Methods that rotate or reflect the inputs or outputs of W."""

from typing import Literal

from pydantic import Field

from spectra.config import Section
from spectra.errors import RecipeError
from spectra.training.methods.method import RANKED, TARGETS, Method, Peft
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import AtMost, Divides, Shapes, each, number_of, rank
from spectra.weights.facts import FACTS


class OftOptions(Section):
    """Options of OFT.

    Attributes
    ----------
    oft_block_size
        Side of a rotated block of inputs; must divide the in-features of every target.
    block_share
        Whether all blocks of a module share one rotation.
    use_cayley_neumann
        Whether to approximate the Cayley transform by a series; the rotation is then only nearly orthogonal.
    """

    oft_block_size: int = Field(default=16, ge=2)
    block_share: bool = False
    use_cayley_neumann: bool = True


def _oft_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    block = number_of(recipe, "options.oft_block_size")
    return (1 if recipe.options["block_share"] else inner // block) * block * (block - 1) // 2


class BoftOptions(Section):
    """Options of BOFT.

    Attributes
    ----------
    boft_block_size
        Side of a rotated block of inputs; must divide the in-features of every target.
    """

    boft_block_size: int = Field(default=4, ge=2)


class RoadOptions(Section):
    """Options of RoAd.

    Attributes
    ----------
    variant
        One angle and scale per pair of outputs (``road_1``), per row of each pair (``road_2``), or per entry
        (``road_4``).
    group_size
        Number of outputs in a group of pairs; even, and must divide the out-features of every target.
    """

    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    group_size: int = Field(default=64, ge=2, multiple_of=2)


def even_rank(recipe: MethodRecipe, shapes: Shapes) -> None:
    """Raise :class:`RecipeError` for an odd rank."""
    if rank(recipe) % 2:
        raise RecipeError(f"must be even for {recipe.name}, got {recipe.r}", where="method.r", hint="choose an even r")


METHODS = (
    Method(
        FACTS["oft"],
        trains="a skew-symmetric b × b block for each block of inputs of each target module",
        defaults=TARGETS,
        options=OftOptions,
        config=Peft("OFTConfig"),
        rules=(Divides("options.oft_block_size", ("in",)),),
        size=each(_oft_size),
    ),
    Method(
        FACTS["boft"],
        trains="a b × b block for each block of inputs, and a scale s (out,), of each target module",
        defaults=TARGETS,
        options=BoftOptions,
        refused={
            "boft_n_butterfly_factor": "peft silently sets it to 1 if its CUDA extension cannot be built; "
            "spectra always uses 1"
        },
        config=Peft("BOFTConfig"),
        rules=(Divides("options.boft_block_size", ("in",)),),
        size=each(lambda recipe, out, inner: inner * number_of(recipe, "options.boft_block_size") + out),
    ),
    Method(
        FACTS["hra"],
        trains="r reflection vectors u (in,) of each target module",
        defaults=RANKED,
        refused={"apply_GS": "its vectors are initialized in equal pairs, for which Gram-Schmidt divides 0 by 0"},
        config=Peft("HRAConfig", {"r": "r"}),
        rules=(AtMost("r", "in"), even_rank),
        size=each(lambda recipe, out, inner: rank(recipe) * inner),
        notes=("r must be even: the reflections are initialized in equal pairs that cancel",),
    ),
    Method(
        FACTS["road"],
        trains="an angle and a scale for pairs of outputs of each target module",
        defaults=TARGETS,
        options=RoadOptions,
        config=Peft("RoadConfig"),
        rules=(Divides("options.group_size", ("out",)),),
        size=each(lambda recipe, out, inner: out * {"road_1": 1, "road_2": 2, "road_4": 4}[recipe.options["variant"]]),
        learning_rate=1e-2,
    ),
)
