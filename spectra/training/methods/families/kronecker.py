"""Methods whose ΔW is an entrywise or Kronecker product of small factors."""

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import SCALED, Method, Peft
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import each, rank
from spectra.weights.facts import FACTS


class LokrOptions(Section):
    """Options of LoKr.

    Attributes
    ----------
    decompose_both
        Whether the small Kronecker factor is also a product of rank r if that is smaller.
    decompose_factor
        Size of the small factor; −1 splits each side as evenly as possible.
    """

    decompose_both: bool = False
    decompose_factor: int = Field(default=-1, ge=-1)


def _lokr_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    factor, r = recipe.options["decompose_factor"], rank(recipe)
    (small_out, large_out), (small_in, large_in) = split(out, factor), split(inner, factor)
    halved = recipe.options["decompose_both"] and r < max(small_out, small_in) / 2
    first = r * (small_out + small_in) if halved else small_out * small_in
    low = r < max(large_out, large_in) / 2
    return first + (r * (large_out + large_in) if low else large_out * large_in)


def split(dimension: int, factor: int) -> tuple[int, int]:
    """Return two factors of a dimension: ``factor`` first where it divides, else the most even pair up to it.

    >>> split(128, -1), split(128, 4), split(127, -1)
    ((8, 16), (4, 32), (1, 127))
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else factor
    small = max(m for m in range(1, dimension + 1) if m * m <= dimension and dimension % m == 0 and m <= max(limit, 1))
    return small, dimension // small


METHODS = (
    Method(
        FACTS["loha"],
        trains="two pairs (out, r), (r, in) of each target module",
        defaults=SCALED,
        config=Peft("LoHaConfig", {"r": "r", "alpha": "alpha"}),
        size=each(lambda recipe, out, inner: 2 * rank(recipe) * (out + inner)),
        learning_rate=1e-2,
    ),
    Method(
        FACTS["lokr"],
        trains="two Kronecker factors of each target, the large one as a product of rank r if that is smaller",
        defaults=SCALED,
        options=LokrOptions,
        config=Peft("LoKrConfig", {"r": "r", "alpha": "alpha"}),
        size=each(_lokr_size),
    ),
)
