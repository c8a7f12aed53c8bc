"""Hand-made tables of runs that look like real ones: drawn from the null, tilted along the singular index."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from spectra.linalg.nulls.haar_moments import haar_share
from spectra.runs.tables import Tables, conform, empty
from tests.figures import deep_tables

SHAPES = {
    "q_proj": (96, 96),
    "k_proj": (32, 96),
    "v_proj": (32, 96),
    "o_proj": (96, 96),
    "gate_proj": (256, 96),
    "up_proj": (256, 96),
    "down_proj": (96, 256),
}
BINS = 16
FRACTIONS = (0.05, 0.1, 0.25, 0.5)

Tilt = Callable[[np.ndarray], np.ndarray]


def flat(position: np.ndarray) -> np.ndarray:
    return np.ones_like(position)


def principal(position: np.ndarray) -> np.ndarray:
    """Nearly everything in the first tenth: an SVD-initialized adapter that stays where it began."""
    return np.where(position < 0.1, 1.0, 3e-3)


def off_principal(position: np.ndarray) -> np.ndarray:
    return 0.6 + 0.8 * position


@dataclass(frozen=True)
class Spec:
    """What a synthetic run looks like."""

    layers: int = 4
    steps: tuple[int, ...] = (0, 16, 32, 48, 64)
    rank: int | None = 16  # None: full rank
    left: Tilt = flat
    right: Tilt = flat
    relative: Callable[[int], float] = lambda step: 2e-4 * step**0.7
    reward: Callable[[np.ndarray], np.ndarray] = lambda t: 0.1 + 0.5 * (1 - np.exp(-t / 20))
    method: str = "lora"
    norms: bool = False
    embedding: bool = False
    kinds: tuple[str, ...] = tuple(SHAPES)
    seed: int = 0
    extra_series: dict[str, float] = field(default_factory=dict)
    deep: tuple[int, ...] = ()  # steps with map, drift, coordinates, nulls; any gives trajectory and summary too
    tilt: float = 0.0  # of the map, towards the last directions
    rounding: float = 0.0  # ‖rounding‖/‖W‖ of every snapshot


def make(spec: Spec) -> Tables:
    """Return the tables of a synthetic run; the deep ones are empty unless ``spec.deep`` names steps."""
    rng = np.random.default_rng(spec.seed)
    modules, projection, profile, spectrum = [], [], [], []
    further: dict[str, list[dict]] = {name: [] for name in ("map", "drift", "coordinates", "nulls", "trajectory")}
    planted = np.random.default_rng(spec.seed + 1)  # the other tables stay what they are without the deep ones
    for step in spec.steps:
        for name, layer, kind, shape in _modules(spec):
            row = {"step": step, "module": name, "layer": layer, "kind": kind, "method": spec.method}
            modules.append(row)
            if len(shape) == 1:
                row |= _vector(shape[0], spec.relative(step))
                continue
            p = _energies(min(shape), spec.rank, rng)
            row |= _matrix(shape, p, spec.relative(step) * rng.lognormal(0, 0.3), step)
            row["rounding_fro"] = spec.rounding * row["weight_fro"]
            for side in ("left", "right"):
                here = {"step": step, "module": name, "side": side}
                shares = _shares(p, shape, side, getattr(spec, side), rng) if step else None
                profile += [here | bins for bins in _profile(shares, shape, side)]
                projection += [here | part for part in _projection(shares, p, shape, side)]
            spectrum += [
                {"step": step, "module": name, "index": i, "sigma": s * bool(step)} for i, s in enumerate(np.sqrt(p))
            ]
            if spec.deep:
                _add_deep(further, spec, planted, row)
    frames = {"modules": modules, "projection": projection, "profile": profile, "spectrum": spectrum, **further}
    tables = {key: _table(key, rows) for key, rows in frames.items()}
    summary = _table("summary", deep_tables.summary_rows(tables["modules"]) if spec.deep else [])
    return Tables(**tables, summary=summary, series=_series(spec, rng))


def _table(name: str, rows: Iterable[dict]) -> pd.DataFrame:
    rows = list(rows)
    return conform(name, deep_tables.filled(name, rows)) if rows else empty(name)


def _add_deep(tables: dict[str, list[dict]], spec: Spec, rng: np.random.Generator, row: dict) -> None:
    key, step = {"step": row["step"], "module": row["module"]}, row["step"]
    shape = row["out_features"], row["in_features"]
    tables["trajectory"].append(deep_tables.trajectory_row(key, shape, step / max(spec.steps), spec.rank or min(shape)))
    if step and step in spec.deep:
        tables["map"] += deep_tables.map_rows(rng, key, shape, spec.tilt)
        tables["drift"].append(deep_tables.drift_row(rng, key, shape, row["relative_fro"]))
        tables["coordinates"].append(deep_tables.coordinates_row(rng, key, row["kind"], row["relative_fro"]))
        tables["nulls"] += deep_tables.null_rows(rng, key)


def one_matrix(
    update: Iterable[float], base: Iterable[float], *, shape: tuple[int, int], concentration: float, name: str = "m"
) -> Tables:
    """Return tables of one matrix at step 1 with the given left shares in equal bins, and nothing else."""
    update, base = list(update), list(base)
    q, count = min(shape), len(update)
    edges = [round(b * q / count) for b in range(count + 1)]
    rows = [
        {"step": 1, "module": name, "side": "left", "bin": b, "index_lo": edges[b], "index_hi": edges[b + 1],
         "update_share": update[b], "base_share": base[b], "expected": (edges[b + 1] - edges[b]) / shape[0]}
        for b in range(count)
    ]  # fmt: skip
    energies = np.full(round(1 / concentration), concentration)
    row = {"step": 1, "module": name, "layer": 0, "kind": "q_proj", "method": "lora"} | _matrix(
        shape, energies, 0.01, 1
    )
    row["participation_ratio"] = 1 / concentration
    frames = {"modules": [row], "profile": rows}
    return Tables(
        **{key: _table(key, frames[key]) for key in frames},
        projection=empty("projection"),
        spectrum=empty("spectrum"),
        series=empty("series"),
    )


def merged(*parts: Tables) -> Tables:
    """Return one set of tables with the rows of several."""
    return Tables(**{name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]})


def comparison(names: list[str]) -> pd.DataFrame:
    """Return a comparison of runs whose points crowd: the labels have to give way."""
    count = len(names)
    shares = [1.0, *np.geomspace(0.021, 0.00008, count - 1)]
    end = 0.42 + 0.03 * np.sin(np.arange(count))
    return pd.DataFrame(
        {
            "run": names,
            "method": [name.split("-")[0] for name in names],
            "learning_rate": 1e-5,
            "trainable_parameters": [int(1.34e8 * share) for share in shares],
            "trainable_share": shares,
            "steps": 64,
            "reward_start": 0.11,
            "reward_end": np.linspace(0.6, 0.2, count),
            "accuracy_start": 0.40,
            "accuracy_end": end,
            "accuracy_low": end - 0.03,
            "accuracy_high": end + 0.03,
            "relative_fro": np.linspace(2e-3, 2e-1, count),
            "effective_rank": np.linspace(60, 2, count),
            "lift_left": np.linspace(0.9, 9.0, count),
            "lift_right": np.linspace(1.0, 8.0, count),
            "z_left": np.linspace(-3, 400, count),
            "z_right": np.linspace(0.2, 380, count),
            "verdict": ["healthy"] * (count - 1) + ["reward_collapsed"],
            "onset_step": [None] * (count - 1) + [40],
        }
    )


def verdict(word: str = "healthy") -> dict:
    """Return a verdict in the shape of ``verdict.json``."""
    sick = word != "healthy"
    return {
        "verdict": word,
        "summary": "Reward fell to zero after step 40 while ‖ΔW‖ kept growing."
        if sick
        else "ΔW grows steadily, keeps its rank, and the reward rises.",
        "action": "Lower the learning rate and start again from step 32." if sick else "Nothing to do.",
        "onset_step": 40 if sick else None,
        "evidence": [
            {"metric": "relative_fro", "value": 0.213 if sick else 2.1e-3, "null": None, "threshold": 0.02,
             "first_step": 40 if sick else None, "says": "median ‖ΔW‖/‖W‖ of the last snapshot"},
            {"metric": "principal_lift_left", "value": 1.03, "null": 1.0, "threshold": 2.0, "first_step": None,
             "says": "energy in the first 10 % of left singular vectors is what chance gives"},
            {"metric": "entropy", "value": None, "null": "start of the run", "threshold": None, "first_step": None,
             "says": "was not logged"},
        ],
        "coverage": {"analysed": 28, "total": 30, "text": "28/30 matrices, 2 skipped",
                     "ignored": [], "skipped": [{"module": "lm_head", "reason": "tied to the embedding"},
                                 {"module": "model.embed_tokens", "reason": "not trained"}]},
        "signals": [
            {"signal": "entropy", "onset_step": 28, "says": "entropy fell from 0.9 to 0.4"},
            {"signal": "reward", "onset_step": 40, "says": "the reward fell from 0.50 to 0.01"},
            {"signal": "update_size", "onset_step": 48, "says": "the update grew to 0.6 of the base in operator norm"},
        ] if sick else [],
        "checks": [
            {"name": "wrong_base", "status": "ok", "verdict": None, "where": "", "action": "",
             "evidence": {"metric": "base_digest", "value": None, "null": None, "threshold": None, "first_step": None,
                          "says": "30 tensors are the ones that the run was trained on"}},
            {"name": "labels", "status": "fault" if sick else "note", "verdict": None, "where": "adapter_config.json",
             "action": "Set use_dora to false.",
             "evidence": {"metric": "dora_magnitudes", "value": 0.0, "null": None, "threshold": 1.0, "first_step": None,
                          "says": "use_dora is true and no magnitude is stored"}},
        ],
        "modules": {
            f"model.layers.{layer}.self_attn.{kind}": {"verdict": word, "says": "as the run"}
            for layer in range(4)
            for kind in ("q_proj", "k_proj")
        },
    }  # fmt: skip


def _modules(spec: Spec) -> Iterable[tuple[str, int | None, str, tuple[int, ...]]]:
    for layer in range(spec.layers):
        for kind in spec.kinds:
            block = "self_attn" if kind in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            yield f"model.layers.{layer}.{block}.{kind}", layer, kind, SHAPES[kind]
        if spec.norms:
            yield f"model.layers.{layer}.input_layernorm", layer, "input_layernorm", (96,)
    if spec.embedding:
        yield "model.embed_tokens", None, "embed_tokens", (512, 96)


def _vector(size: int, relative: float) -> dict:
    return _norms(relative) | {"out_features": size, "in_features": None} | dict.fromkeys(_SPECTRAL, np.nan)


_SPECTRAL = (
    "delta_spectral", "relative_spectral", "stable_rank", "effective_rank", "effective_rank_energy",
    "participation_ratio", "nuclear_ratio", "top1_energy", "rank_bound", "numerical_rank", "outside_left",
    "outside_right",
)  # fmt: skip


def _norms(relative: float) -> dict:
    return {"delta_fro": 10 * relative, "weight_fro": 10.0, "relative_fro": relative}


def _matrix(shape: tuple[int, ...], p: np.ndarray, relative: float, step: int) -> dict:
    row = {"out_features": shape[0], "in_features": shape[1], "rank_bound": len(p)}
    row |= _norms(relative if step else 0.0)
    spectral = dict.fromkeys(_SPECTRAL, np.nan)
    if step:
        sigma = np.sqrt(p) / np.sqrt(p).sum()
        spectral |= {
            "delta_spectral": row["delta_fro"] * np.sqrt(p[0]), "relative_spectral": relative * np.sqrt(p[0]),
            "stable_rank": 1 / p[0], "effective_rank": np.exp(-(sigma * np.log(sigma)).sum()),
            "effective_rank_energy": np.exp(-(p * np.log(p)).sum()), "participation_ratio": 1 / (p**2).sum(),
            "nuclear_ratio": np.sqrt(p).sum() / np.sqrt(len(p)), "top1_energy": p[0], "numerical_rank": len(p),
            "centroid_left": 0.5, "centroid_right": 0.5, "diagonal_share": 1 / max(shape), "tail_values": len(p),
            "outside_left": max(0, 1 - min(shape) / shape[0]), "outside_right": max(0, 1 - min(shape) / shape[1]),
        }  # fmt: skip
    return spectral | row


def _energies(q: int, rank: int | None, rng: np.random.Generator) -> np.ndarray:
    p = np.sort(rng.lognormal(0, 0.8, rank or q))[::-1]
    return p / p.sum()


def _shares(p: np.ndarray, shape: tuple[int, ...], side: str, tilt: Tilt, rng: np.random.Generator) -> np.ndarray:
    """Return the share of ΔW in every direction of the side, those outside the base's span last."""
    dim, q = shape[0 if side == "left" else 1], min(shape)
    position = np.minimum(np.arange(dim) / q, 1.0)
    vectors = rng.standard_normal((len(p), dim)) ** 2 * tilt(position)
    return p @ (vectors / vectors.sum(axis=1, keepdims=True))


def _profile(shares: np.ndarray | None, shape: tuple[int, ...], side: str) -> Iterable[dict]:
    dim, q = shape[0 if side == "left" else 1], min(shape)
    base = np.arange(1, q + 1) ** -0.8
    base /= base.sum()
    for b in range(BINS):
        lo, hi = b * q // BINS, (b + 1) * q // BINS
        yield {
            "bin": b, "index_lo": lo, "index_hi": hi, "base_share": base[lo:hi].sum(), "expected": (hi - lo) / dim,
            "update_share": np.nan if shares is None else shares[lo:hi].sum(),
        }  # fmt: skip


def _projection(shares: np.ndarray | None, p: np.ndarray, shape: tuple[int, ...], side: str) -> Iterable[dict]:
    dim, q = shape[0 if side == "left" else 1], min(shape)
    for fraction in FRACTIONS:
        k = max(1, round(fraction * q))
        null = haar_share(k, dim, float((p**2).sum()))
        for subspace, part in (("principal", slice(0, k)), ("minor", slice(q - k, q))):
            share = np.nan if shares is None else float(shares[part].sum())
            yield {
                "subspace": subspace, "fraction": fraction, "k": k, "share": share, "expected": null.mean,
                "lift": share / null.mean, "z": (share - null.mean) / null.sd, "p": 0.5,
            }  # fmt: skip


def _series(spec: Spec, rng: np.random.Generator) -> pd.DataFrame:
    t = np.arange(1, max(spec.steps) + 1)
    if len(t) == 0:
        return empty("series")
    frame = pd.DataFrame(
        {
            "step": t,
            "reward": np.clip(spec.reward(t) + rng.normal(0, 0.04, len(t)), 0, 1),
            "entropy": 0.3 + 0.6 * np.exp(-t / 30) + rng.normal(0, 0.02, len(t)),
            "eval_accuracy": np.where(t % 16 == 0, spec.reward(t), np.nan),
        }
    )
    return conform("series", frame.assign(**spec.extra_series))
