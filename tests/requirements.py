"""Tests of optional packages: skipped where the package is missing, unless the environment says that it must be there.

``SPECTRA_REQUIRE_VLLM=1`` makes a test of vLLM run, and so fail, where vLLM is missing; ``SPECTRA_REQUIRE_ALL=1`` does
so for every package of :data:`VARIABLES`.
"""

import os
from importlib.util import find_spec

import pytest

PREFIX = "SPECTRA_REQUIRE_"
# Package → the end of its variable, and how to install it.
VARIABLES = {
    "vllm": ("VLLM", "`make vllm` builds an environment with it"),
    "deepspeed": ("DEEPSPEED", "pip install deepspeed"),
    "ray": ("RAY", "pip install 'spectra-rlvr[ray]'"),
    "reasoning_gym": ("TASKS", "pip install 'spectra-rlvr[tasks]'"),
    "champ_dataset": ("TASKS", "pip install 'spectra-rlvr[tasks]'"),
}


def is_skipped(package: str) -> bool:
    """Return whether tests of a package are skipped: it is missing, and no variable requires it."""
    names = (PREFIX + VARIABLES[package][0], f"{PREFIX}ALL")
    return find_spec(package) is None and not any(os.environ.get(name) for name in names)


def reason(package: str) -> str:
    return f"{package} is not installed: {VARIABLES[package][1]}"


def needs(package: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs an optional package."""
    return pytest.mark.skipif(is_skipped(package), reason=reason(package))
