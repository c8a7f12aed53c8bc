"""The one table of methods. Another method is another entry here; nothing else asks for a method by name."""

from collections.abc import Mapping

from spectra.config import KeyFault, nearest
from spectra.training.methods import adalora, additive, lora, multiplicative, networks, shared, sparse, vectors
from spectra.training.methods.left_out import LEFT_OUT
from spectra.training.methods.method import Method

# The methods of the study first, in its order; then the others.
_STUDY = (
    *("full", "lora", "rank1", "rslora", "dora", "adalora", "miss", "pissa", "milora", "milora_plus"),
    *("lora_plus", "lora_fa", "vera", "layernorm", "ia3"),
)
_MODULES = (vectors, lora, adalora, additive, shared, sparse, multiplicative, networks)
_ALL: Mapping[str, Method] = {method.name: method for module in _MODULES for method in module.METHODS}

STUDY: tuple[Method, ...] = tuple(_ALL[name] for name in _STUDY)
METHODS: tuple[Method, ...] = (*STUDY, *(method for name, method in _ALL.items() if name not in _STUDY))

_BY_NAME: Mapping[str, Method] = {name: method for method in METHODS for name in (method.name, *method.aliases)}


def find_method(name: str) -> Method:
    """Return the method of that name or alias.

    Raises
    ------
    KeyFault
        If there is none; names the nearest one, or says why it is left out.
    """
    method = _BY_NAME.get(name)
    if method is None and name.lower() in LEFT_OUT:
        raise KeyFault("name", f"{name!r} is not trained: {LEFT_OUT[name.lower()]}")
    if method is None:
        near = nearest(name, list(_BY_NAME))
        hint = f"choose one of {', '.join(m.name for m in METHODS)}" if near is None else f"did you mean {near!r}?"
        raise KeyFault("name", f"no method {name!r}; {hint}")
    return method
