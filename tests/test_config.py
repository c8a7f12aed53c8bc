"""Every fault names where it is, what it is, and the way out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from spectra import config
from spectra.config import Document, KeyFault, Section, build, differences, dump, load
from spectra.errors import RecipeError


class Optimizer(Section):
    learning_rate: float = Field(default=1e-3, gt=0)
    betas: list[float] = Field(default_factory=lambda: [0.9, 0.999], min_length=2, max_length=2)


class Whole(Section):
    name: str = "run"
    steps: int = 60
    half: int | None = None
    optimizer: Optimizer = Field(default_factory=Optimizer)

    @model_validator(mode="after")
    def _check(self) -> "Whole":
        if self.half is not None and self.half * 2 != self.steps:
            raise KeyFault("half", f"must be half of steps = {self.steps}")
        return self


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def fault(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(Whole, write(tmp_path, text), overrides)
    return str(caught.value)


def test_reads_values_and_defaults(tmp_path: Path) -> None:
    whole = load(Whole, write(tmp_path, "steps: 5\noptimizer: {learning_rate: 1e-3}\n"))
    assert (whole.steps, whole.name, whole.optimizer.learning_rate) == (5, "run", 0.001)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(Whole, write(tmp_path, "# nothing\n")) == Whole()


def test_unknown_key_names_file_line_key_and_nearest(tmp_path: Path) -> None:
    message = fault(tmp_path, "steps: 5\noptimizer:\n  learning_rat: 0.1\n")
    assert message == f"{tmp_path}/recipe.yaml:3: unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?"


def test_unknown_key_that_belongs_in_a_section(tmp_path: Path) -> None:
    assert "did you mean 'optimizer.learning_rate'?" in fault(tmp_path, "learning_rate: 0.1\n")


def test_unknown_key_without_a_neighbour_lists_the_valid_ones(tmp_path: Path) -> None:
    assert "valid keys are name, steps, half, optimizer" in fault(tmp_path, "zzz: 1\n")


def test_a_misspelt_key_is_reported_before_other_faults(tmp_path: Path) -> None:
    assert "unknown key 'stepz'" in fault(tmp_path, "name: 3\nstepz: 1\n")


def test_value_out_of_range_names_line_key_and_range(tmp_path: Path) -> None:
    message = fault(tmp_path, "name: x\noptimizer:\n  learning_rate: -1.0\n")
    assert message.startswith(f"{tmp_path}/recipe.yaml:3: optimizer.learning_rate is -1.0")
    assert "greater than 0" in message


@pytest.mark.parametrize("value", ["'5'", "5.5", "true", "[5]", "null"])
def test_no_silent_conversion(tmp_path: Path, value: str) -> None:
    assert ":1: steps is " in fault(tmp_path, f"steps: {value}\n")


def test_nan_is_not_a_learning_rate(tmp_path: Path) -> None:
    assert "learning_rate" in fault(tmp_path, "optimizer: {learning_rate: .nan}\n")


def test_a_fault_inside_a_list_has_its_own_line(tmp_path: Path) -> None:
    message = fault(tmp_path, "optimizer:\n  betas:\n    - 0.9\n    - high\n")
    assert message.startswith(f"{tmp_path}/recipe.yaml:4: optimizer.betas.1 is 'high'")


def test_a_section_that_is_not_a_mapping(tmp_path: Path) -> None:
    assert ":1: optimizer is 3" in fault(tmp_path, "optimizer: 3\n")


def test_fault_between_keys_has_the_line_of_its_key(tmp_path: Path) -> None:
    message = fault(tmp_path, "steps: 6\nhalf: 4\n")
    assert message == f"{tmp_path}/recipe.yaml:2: half: must be half of steps = 6"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("steps: 1\nsteps: 2\n", 2, "duplicate key 'steps'"),
        ("optimizer:\n  betas: [1.0, 1.0]\n  betas: [0.5, 0.5]\n", 3, "duplicate key 'betas'"),
        ("steps: [1\nname: x\n", 2, "invalid YAML"),
        ("1: x\n", 1, "key 1 is not a string"),
        ("steps: !!python/object:os.system x\n", 1, "invalid YAML"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, line: int, word: str) -> None:
    message = fault(tmp_path, text)
    assert f"recipe.yaml:{line}:" in message
    assert word in message


def test_a_list_is_not_a_recipe(tmp_path: Path) -> None:
    assert "the top level must be a mapping" in fault(tmp_path, "- 1\n")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml.*pass the path of a YAML recipe"):
        load(Whole, tmp_path / "absent.yaml")


def test_overrides_are_yaml_and_checked_alike(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 5\n")
    whole = load(Whole, path, ["optimizer.learning_rate=2e-4", "steps=8", "half=4"])
    assert (whole.optimizer.learning_rate, whole.steps, whole.half) == (2e-4, 8, 4)
    assert whole.optimizer.betas == [0.9, 0.999]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lerning_rate=1.0", "--set optimizer.lerning_rate=1.0: unknown key 'optimizer.lerning_rate'"),
        ("steps=many", "--set steps=many: steps is 'many'"),
        ("steps", "--set: 'steps' is not a valid override; write --set section.key=value"),
        ("steps=[1", "--set steps=[1"),
    ],
)
def test_a_faulty_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in fault(tmp_path, "steps: 5\n", override)


@given(
    st.builds(
        Whole,
        name=st.text(max_size=8),
        steps=st.integers(-(10**6), 10**6),
        optimizer=st.builds(Optimizer, learning_rate=st.floats(1e-300, 1e300, allow_subnormal=False)),
    )
)
def test_dump_loads_back_equal(whole: Whole) -> None:
    assert build(Whole, Document.parse(dump(whole), "dump")) == whole


def test_differences_have_the_key_and_both_values() -> None:
    other = Whole(steps=3, optimizer=Optimizer(learning_rate=0.5))
    assert differences(Whole(), Whole()) == {}
    assert differences(Whole(), other) == {"steps": (60, 3), "optimizer.learning_rate": (0.001, 0.5)}


def test_a_bad_name_says_what_is_allowed(tmp_path: Path) -> None:
    class Named(Section):
        name: str = Field(pattern=config.NAME_PATTERN)

    with pytest.raises(RecipeError, match="name is 'a b'; it should be letters, digits, '.', '_' and '-', starting"):
        load(Named, write(tmp_path, "name: a b"))


def test_merged_documents_keep_where_each_value_was_written() -> None:
    low = Document.parse("optimizer:\n  betas: [1.0, 2.0]\n  learning_rate: 3\n", "low")
    merged = low.merged(Document.parse("optimizer: {learning_rate: no}\n", "high"))
    assert merged.value == {"optimizer": {"betas": [1.0, 2.0], "learning_rate": False}}
    assert merged.place(("optimizer", "betas")) == "low:2"
    assert merged.place(("optimizer", "learning_rate")) == "high:1"


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path))
    assert config.cache_dir() == tmp_path
    monkeypatch.delenv("SPECTRA_CACHE")
    assert config.cache_dir().name == "spectra"
