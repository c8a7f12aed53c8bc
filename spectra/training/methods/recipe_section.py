"""Recipe section that selects a method."""

from typing import Any

from pydantic import Field

from spectra.config import Section


class MethodRecipe(Section):
    """Method and its settings.

    A resolved section is complete (:meth:`.Method.resolve`): keys that the method does not take are errors, and missing
    keys take the default of the method.

    Attributes
    ----------
    name
        Name or alias from ``spectra methods``; the resolved recipe has the name.
    r
        Rank of the factors.
    alpha
        Numerator of the scale s.
    dropout
        Dropout on the adapter's input while gradients are computed.
    target_modules
        Names of the target layers; there is no wildcard.
    options
        Method-specific options, see ``spectra methods NAME``.
    """

    name: str = "lora"
    r: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    target_modules: list[str] | None = Field(default=None, min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
