import pytest

from tests.requirements import VARIABLES, is_skipped, needs


@pytest.mark.parametrize("package", VARIABLES)
@pytest.mark.parametrize("which", ["its own", "all"])
def test_a_required_package_is_never_skipped(package: str, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.requirements.find_spec", lambda name: None)
    for name in {ending for ending, _ in VARIABLES.values()} | {"ALL"}:
        monkeypatch.delenv(f"SPECTRA_REQUIRE_{name}", raising=False)
    assert is_skipped(package)
    assert needs(package).args == (True,)
    ending = VARIABLES[package][0] if which == "its own" else "ALL"
    monkeypatch.setenv(f"SPECTRA_REQUIRE_{ending}", "1")
    assert not is_skipped(package)


def test_a_package_that_is_there_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.requirements.find_spec", lambda name: object())
    assert not is_skipped("vllm")
