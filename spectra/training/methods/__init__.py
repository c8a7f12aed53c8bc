"""Methods that spectra trains, and the recipe section that selects one."""

from spectra.training.methods.method import LINEAR_MODULES, NORM_MODULES, InitializationContext, Method, RunContext
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.registry import LEFT_OUT, METHODS, STUDY, find_method
from spectra.training.methods.shapes import embedded_shapes

__all__ = [
    "LEFT_OUT",
    "LINEAR_MODULES",
    "METHODS",
    "NORM_MODULES",
    "STUDY",
    "Method",
    "MethodRecipe",
    "RunContext",
    "InitializationContext",
    "embedded_shapes",
    "find_method",
]
