"""The recipe section that chooses a method."""

from typing import Any

from pydantic import Field

from spectra.config import Section


class MethodRecipe(Section):
    """What trains.

    In a recipe it is complete (:meth:`.Method.resolve`): keys that the method does not take are errors, keys left out
    take the method's own default.

    Attributes
    ----------
    name
        A name or alias from ``spectra methods``; the resolved recipe holds the name.
    r
        Rank of the factors.
    alpha
        Numerator of the scale s.
    dropout
        Dropout on the adapter's input while the gradient is computed.
    target_modules
        Names of the layers that the method changes, listed in full.
    options
        What only this method has, see ``spectra methods NAME``.
    """

    name: str = "lora"
    r: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    target_modules: list[str] | None = Field(default=None, min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
