"""The oracles are tested too: planted structure, Monte Carlo for the nulls, formulas for peft's merge.

So is the comparison of a real run's tables with them: it must find one wrong number among all.
"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from spectra.errors import CorruptFileError
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import SCHEMAS, conform, write_table
from tests import oracles

DRAWS = 20_000
SPECTRA = {
    "rank 1": np.array([3.0]),
    "flat, rank 4": np.full(4, 2.0),
    "steep, rank 5": 2.0 ** -np.arange(5),
    "power law, rank 8": np.arange(1.0, 9.0) ** -0.5,
}
Check = dict[str, Callable[..., Any]]


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def haar_frames(rng: np.random.Generator, draws: int, dim: int, rank: int) -> oracles.Matrix:
    """Return the first ``rank`` columns of Haar orthogonal matrices, [draws dim rank]."""
    q, r = np.linalg.qr(rng.normal(size=(draws, dim, rank)))
    # Without the sign of R's diagonal, LAPACK's Q is not Haar.
    frames: oracles.Matrix = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return frames


def assert_moments(samples: oracles.Matrix, mean: float, deviation: float) -> None:
    """Fail where mean or variance of the samples is more than four standard errors away."""
    centred = samples - samples.mean()
    error_of_variance = np.sqrt((np.mean(centred**4) - np.mean(centred**2) ** 2) / samples.size)
    assert abs(samples.mean() - mean) < 4 * samples.std() / np.sqrt(samples.size)
    assert abs(samples.var() - deviation**2) < 4 * error_of_variance


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("m", "n", "k"), [(12, 12, 1), (12, 12, 6), (9, 20, 3), (24, 8, 2)])
def test_haar_nulls_have_the_moments_of_random_orientations(
    rng: np.random.Generator, m: int, n: int, k: int, spectrum: str
) -> None:
    s = SPECTRA[spectrum]
    p = s**2 / np.sum(s**2)
    left, right = haar_frames(rng, DRAWS, m, s.size), haar_frames(rng, DRAWS, n, s.size)
    assert_moments((left[:, :k] ** 2 @ p).sum(axis=1), *oracles.haar_null_share(k, m, p))
    core = (left[:, :k] * s) @ right[:, :k].transpose(0, 2, 1)
    assert_moments((core**2).sum(axis=(1, 2)) / np.sum(s**2), *oracles.haar_null_joint(k, m, n, p))


def test_a_full_rank_flat_update_has_no_spread_in_its_one_sided_null() -> None:
    # ΔW = c·Q: every projector keeps exactly k/d of it.
    assert oracles.haar_null_share(3, 8, np.full(8, 0.125)) == (3 / 8, 0.0)


def test_haar_null_in_one_dimension_is_certain() -> None:
    assert oracles.haar_null_joint(1, 1, 5, [1.0])[0] == pytest.approx(0.2)
    assert oracles.haar_null_share(1, 1, [1.0]) == (1.0, 0.0)


@pytest.fixture(scope="module")
def planted(rng: np.random.Generator) -> tuple[oracles.Matrix, oracles.Matrix]:
    """Return ΔW = 3·u_0 v_1ᵀ + 1·u_9 v_0ᵀ of a [20 10] W with singular values 10 … 1."""
    basis = oracles.singular_basis(rng.normal(size=(20, 10)))
    weight = (basis.left * np.arange(10.0, 0.0, -1.0)) @ basis.right.T
    delta = 3.0 * np.outer(basis.left[:, 0], basis.right[:, 1]) + np.outer(basis.left[:, 9], basis.right[:, 0])
    return delta, weight


def test_modules_row_of_a_planted_update(planted: tuple[oracles.Matrix, oracles.Matrix]) -> None:
    row = oracles.modules_row(*planted)
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    expected = {"delta_fro": 10**0.5, "delta_spectral": 3.0, "weight_fro": 385**0.5, "relative_fro": (10 / 385) ** 0.5}
    expected |= {"relative_spectral": 0.3, "stable_rank": 10 / 9, "nuclear_ratio": 1.6, "top1_energy": 0.9}
    expected |= {"effective_rank": 4 / 3**0.75, "effective_rank_energy": np.exp(entropy), "numerical_rank": 2}
    expected |= {"participation_ratio": 1 / 0.82, "outside_left": 0.0, "outside_right": 0.0}
    assert row == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_projection_rows_of_a_planted_update(planted: tuple[oracles.Matrix, oracles.Matrix]) -> None:
    frame = pd.DataFrame(oracles.projection_rows(*planted, fractions=(0.01, 0.2)))
    shares = frame.set_index(["subspace", "k", "side"])["share"].sort_index()
    assert shares["principal", 1].to_dict() == pytest.approx({"left": 0.9, "right": 0.1, "joint": 0.0}, abs=1e-12)
    assert shares["principal", 2].to_dict() == pytest.approx({"left": 0.9, "right": 1.0, "joint": 0.9}, abs=1e-12)
    assert shares["minor", 1].to_dict() == pytest.approx({"left": 0.1, "right": 0.0, "joint": 0.0}, abs=1e-12)
    assert frame[frame["k"] == 2].groupby("side")["expected"].first().to_dict() == pytest.approx(
        {"left": 0.1, "right": 0.2, "joint": 0.02}
    )
    assert frame["lift"].to_numpy() == pytest.approx((frame["share"] / frame["expected"]).to_numpy())


def test_z_is_standard_for_random_orientations(rng: np.random.Generator) -> None:
    weight, s = rng.normal(size=(15, 10)), SPECTRA["steep, rank 5"]
    left, right = haar_frames(rng, 300, 15, 5), haar_frames(rng, 300, 10, 5)
    rows = [
        row | {"draw": draw}
        for draw in range(300)
        for row in oracles.projection_rows((left[draw] * s) @ right[draw].T, weight, fractions=(0.2,))
    ]
    by_share = pd.DataFrame(rows).groupby(["side", "subspace"])["z"]
    assert by_share.mean().abs().max() < 4 / np.sqrt(300)
    assert by_share.std().between(0.75, 1.3).all()


def test_profile_of_a_tall_update_sums_to_the_share_inside_the_base(rng: np.random.Generator) -> None:
    delta, weight = rng.normal(size=(50, 40)), rng.normal(size=(50, 40))
    frame = pd.DataFrame(oracles.profile_rows(delta, weight))
    sums = frame.groupby("side")[["update_share", "base_share", "expected"]].sum()
    row = oracles.modules_row(delta, weight)
    assert row["outside_right"] == 0.0
    assert 0.1 < row["outside_left"] < 0.3
    assert sums["update_share"].to_dict() == pytest.approx({"left": 1 - row["outside_left"], "right": 1.0})
    assert sums["base_share"].to_numpy() == pytest.approx(1.0)
    assert sums["expected"].to_dict() == pytest.approx({"left": 0.8, "right": 1.0})
    assert frame.groupby("side")["bin"].count().to_dict() == {"left": 32, "right": 32}
    assert set(frame["index_hi"] - frame["index_lo"]) == {1, 2}


def test_no_update_has_norms_and_nothing_else(rng: np.random.Generator) -> None:
    zero, weight = np.zeros((6, 4)), rng.normal(size=(6, 4))
    row = oracles.modules_row(zero, weight)
    assert [row[name] for name in ("delta_fro", "delta_spectral", "relative_fro", "relative_spectral")] == [0.0] * 4
    assert row.pop("numerical_rank") == 0
    assert all(np.isnan(row[name]) for name in oracles.SPECTRAL_COLUMNS if name in row)
    projection = pd.DataFrame(oracles.projection_rows(zero, weight))
    assert projection[["share", "lift", "z"]].isna().all(axis=None)
    assert projection["expected"].notna().all()
    assert pd.DataFrame(oracles.profile_rows(zero, weight))["update_share"].isna().all()


def test_vectors_have_norms_only() -> None:
    row = oracles.modules_row(np.array([3.0, 4.0]), np.array([0.0, 10.0]))
    assert (row["delta_fro"], row["relative_fro"]) == (5.0, 0.5)
    assert np.isnan(row["delta_spectral"])


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random Llama of two layers: hidden 64, inner 96, keys and values 32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_hidden_layers=2, max_position_embeddings=32, **sizes))
    path = tmp_path_factory.mktemp("base")
    model.save_pretrained(path)
    return path


def adapter(base_dir: Path, out: Path, **options: Any) -> Any:
    """Save an adapter as made (``out/initial``) and moved at random (``out/checkpoint-2``); return the moved model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_dir), config)
    model.save_pretrained(out / "initial")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(out / "checkpoint-2")
    return model


def factors(path: Path) -> dict[str, dict[str, oracles.Matrix]]:
    """Return the saved tensors in float64: base module -> name -> array."""
    found: dict[str, dict[str, oracles.Matrix]] = {}
    for key, tensor in load_file(path / "adapter_model.safetensors").items():
        module, _, name = key.removeprefix("base_model.model.").partition(".lora_")
        found.setdefault(module, {})[name.removesuffix(".weight")] = tensor.astype(np.float64)
    return found


def assert_close(found: dict[str, oracles.Matrix], expected: dict[str, oracles.Matrix], tolerance: float) -> None:
    assert len(found) == 14
    assert found.keys() == expected.keys()
    for module, delta in expected.items():
        assert np.linalg.norm(found[module] - delta) < tolerance * np.linalg.norm(delta), module


@pytest.mark.parametrize(
    ("options", "scale", "special"),
    [
        ({}, 2.0, 2.0),
        ({"use_rslora": True}, 4.0, 4.0),
        ({"r": 1, "lora_alpha": 2}, 2.0, 2.0),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 6}}, 2.0, 3.0),
    ],
    ids=["lora", "rslora", "rank 1", "patterns"],
)
def test_merged_minus_base_is_the_scaled_product(
    base_dir: Path, tmp_path: Path, options: dict[str, Any], scale: float, special: float
) -> None:
    adapter(base_dir, tmp_path, **options)
    expected = {
        module: (special if module.endswith("q_proj") else scale) * (f["B"] @ f["A"])
        for module, f in factors(tmp_path / "checkpoint-2").items()
    }
    found = oracles.merged_minus_base_float64(base_dir, tmp_path / "checkpoint-2")
    assert_close(found, expected, 1e-11)
    assert all(not delta.any() for delta in oracles.merged_minus_base_float64(base_dir, tmp_path / "initial").values())


def test_merged_minus_base_of_dora(base_dir: Path, tmp_path: Path) -> None:
    adapter(base_dir, tmp_path, use_dora=True)
    base, expected = oracles.base_weights_float64(base_dir), {}
    for module, f in factors(tmp_path / "checkpoint-2").items():
        moved = base[module] + 2.0 * f["B"] @ f["A"]
        rows = np.linalg.norm(moved, axis=1, keepdims=True)
        expected[module] = f["magnitude_vector"][:, None] * moved / rows - base[module]
    assert_close(oracles.merged_minus_base_float64(base_dir, tmp_path / "checkpoint-2"), expected, 1e-11)


def test_merged_minus_base_of_pissa(base_dir: Path, tmp_path: Path) -> None:
    model = adapter(base_dir, tmp_path, init_lora_weights="pissa")
    last, first = factors(tmp_path / "checkpoint-2"), factors(tmp_path / "initial")
    formula = {m: 2.0 * (last[m]["B"] @ last[m]["A"] - first[m]["B"] @ first[m]["A"]) for m in last}
    found = oracles.merged_minus_base_float64(base_dir, tmp_path / "checkpoint-2", tmp_path / "initial")
    assert_close(found, formula, 1e-11)
    # The model that was trained, merged in float32 from its own residual base, is a second witness.
    merged, base = model.merge_and_unload().state_dict(), oracles.base_weights_float64(base_dir)
    assert_close(found, {m: merged[f"{m}.weight"].double().numpy() - base[m] for m in found}, 1e-5)


def test_pissa_without_its_first_adapter_is_refused(base_dir: Path, tmp_path: Path) -> None:
    adapter(base_dir, tmp_path, init_lora_weights="pissa")
    with pytest.raises(ValueError, match="initial_dir"):
        oracles.merged_minus_base_float64(base_dir, tmp_path / "checkpoint-2")


@pytest.fixture(scope="module")
def check() -> Check:
    """Load the script, which is run and never imported."""
    path = Path(__file__).parents[1] / "analysis" / "real_model" / "check_against_dense.py"
    return runpy.run_path(str(path))


@pytest.fixture(scope="module")
def run_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    adapter(base_dir, run)
    return run


@pytest.fixture(scope="module")
def dense(base_dir: Path, run_dir: Path, check: Check) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = check["dense_tables"](base_dir, run_dir)
    return tables


@pytest.fixture
def tables(dense: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return right tables in the way of a factored ΔW: singular values up to the rank only."""
    modules = dense["modules"].assign(layer=0, rank_bound=4, kind="", method="lora")
    frames = dense | {"modules": modules, "spectrum": dense["spectrum"].query("index < 4")}
    # What the script does not recompute is missing here.
    return {name: conform(name, frame.reindex(columns=list(SCHEMAS[name]))) for name, frame in frames.items()}


def test_check_accepts_right_tables_and_reports(
    base_dir: Path, run_dir: Path, check: Check, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    for name, frame in tables.items():
        write_table(frame, AnalysisLayout(tmp_path).table(name))
    report = tmp_path / "dense.md"
    command = [str(base_dir), str(run_dir), "--analysis", str(tmp_path), "--report", str(report)]
    assert check["main"](command) == 0
    lines = report.read_text().splitlines()
    assert sum(line.startswith("| projection | ") for line in lines) == 5  # k, share, expected, lift, z
    assert not any("TOO LARGE" in line for line in lines)
    write_table(tables["spectrum"].assign(sigma=1.0), AnalysisLayout(tmp_path).table("spectrum"))
    assert check["main"](command) == 1


@pytest.mark.parametrize(
    ("table", "column", "change"),
    [
        ("modules", "effective_rank", lambda value: value * (1 + 3e-6)),
        ("modules", "numerical_rank", lambda value: value + 1),
        ("modules", "outside_left", lambda value: value + 2e-6),
        ("projection", "z", lambda value: value * (1 + 1e-3)),
        ("projection", "share", lambda value: np.nan),
        ("profile", "update_share", lambda value: value * (1 + 3e-6) + 1e-8),
        ("spectrum", "sigma", lambda value: value * (1 + 3e-6)),
    ],
)
def test_check_finds_one_wrong_number(
    dense: dict[str, pd.DataFrame],
    tables: dict[str, pd.DataFrame],
    check: Check,
    table: str,
    column: str,
    change: Callable[[float], float],
) -> None:
    values = tables[table][column].to_numpy(copy=True)
    place = np.argmax(np.abs(values))
    values[place] = change(values[place])
    tables[table] = tables[table].assign(**{column: values})
    wrong = [(e.table, e.column) for e in check["compare"](tables, dense) if e.scaled > check["TOLERANCE"]]
    assert wrong == [(table, column)]


@pytest.mark.parametrize("table", ["modules", "projection", "profile", "spectrum"])
def test_check_finds_a_missing_and_a_doubled_row(
    dense: dict[str, pd.DataFrame], tables: dict[str, pd.DataFrame], check: Check, table: str
) -> None:
    frame = tables[table]
    with pytest.raises(CorruptFileError, match="no partner"):
        check["compare"](tables | {table: frame.drop(index=3)}, dense)
    with pytest.raises(CorruptFileError, match="twice"):
        check["compare"](tables | {table: pd.concat([frame, frame.iloc[:1]])}, dense)
