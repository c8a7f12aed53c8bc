"""Are p-values uniform where there is nothing to find? Null updates through every metric that has a p-value or a z.

    python analysis/null_calibration.py --updates 2000 --report reports/null_calibration.md

An update is drawn from a null, measured as any other, and its p-values are collected: they must be uniform on 0 to 1
(Kolmogorov-Smirnov), and z must have mean 0 and variance 1. Haar nulls are tried on updates of random orientation with
five kinds of spectra; sampled nulls on updates of the family itself, or of one that the family's null includes.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import special, stats

from spectra.analysis.tables.coordinates import BaseCoordinates
from spectra.analysis.tables.null_draws import null_rows
from spectra.analysis.tables.spectral import measure_matrix
from spectra.linalg.decompositions import spectrum
from spectra.linalg.decompositions.basis import Basis, decompose
from spectra.linalg.measures.alignment import align
from spectra.linalg.nulls.random_updates import FAMILIES, Original, haar
from spectra.linalg.nulls.share_distributions import centroid_distribution, diagonal_share_distribution
from spectra.linalg.operators.basic import LowRank, Operator

SHAPES = ((40, 64), (64, 40), (48, 48))
LEVEL = 0.01

# Operations that give eight draws, some statistics a few dozen, on these shapes, as a large matrix gets: Student's t
# is on trial. Ranks among more draws are uniform by construction.
FEW_DRAWS = 4e7

Key = tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """A base matrix in bfloat16 and what is made of it once."""

    weight: torch.Tensor
    basis: Basis
    coordinates: BaseCoordinates

    @classmethod
    def of(cls, rows: int, columns: int, generator: torch.Generator) -> "Base":
        q = min(rows, columns)
        sigma = torch.arange(1, q + 1, dtype=torch.float64) ** -0.5
        weight = (haar(rows, q, generator) * sigma) @ haar(columns, q, generator).T
        weight = weight.to(torch.bfloat16).to(torch.float64)
        basis = decompose(weight)
        return cls(weight, basis, BaseCoordinates(weight, basis))


@dataclass
class Samples:
    """p-values and z of one metric in one regime."""

    p: list[float] = field(default_factory=list)
    z: list[float] = field(default_factory=list)
    discrete: bool = False

    def add(self, p: float, z: float) -> None:
        self.p.append(p)
        self.z.append(z)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(self.p + other.p, self.z + other.z, self.discrete or other.discrete)

    @property
    def defined(self) -> np.ndarray:
        p = np.array(self.p, dtype=np.float64)
        kept: np.ndarray = p[~np.isnan(p)]
        return kept

    def ks(self) -> tuple[float, float]:
        """Return D and p; of a discrete metric, whether small p-values are more frequent than they say."""
        found = stats.kstest(self.defined, "uniform", alternative="greater" if self.discrete else "two-sided")
        return float(found.statistic), float(found.pvalue)

    def z_moments(self) -> tuple[float, float]:
        z = np.array(self.z)
        z = z[np.isfinite(z)]
        return float(z.mean()), float(z.var())


Collected = dict[Key, Samples]


def oriented(sigma: Callable[[int], torch.Tensor]) -> Callable[[Base, torch.Generator], Operator]:
    """Return a draw of U diag(σ) Vᵀ with Haar U and V."""

    def draw(base: Base, generator: torch.Generator) -> Operator:
        rows, columns = base.basis.shape
        values = sigma(min(rows, columns))
        u, v = haar(rows, len(values), generator), haar(columns, len(values), generator)
        return LowRank(u * values * 1e-2, v.T)

    return draw


def of_family(family: str, rank: int | None = None) -> Callable[[Base, torch.Generator], Operator]:
    """Return a draw of a family of null updates, of a norm at which about half of the entries show in bfloat16."""

    def draw(base: Base, generator: torch.Generator) -> Operator:
        rows, columns = base.basis.shape
        sigma = torch.ones(rank or min(rows, columns), dtype=torch.float64)
        u, v = haar(rows, len(sigma), generator), haar(columns, len(sigma), generator)
        norm = 3e-3 * float(torch.linalg.vector_norm(base.weight))
        sigma *= norm / len(sigma) ** 0.5
        return FAMILIES[family](Original(LowRank(u * sigma, v.T), sigma), generator)

    return draw


def _falling(count: int) -> torch.Tensor:
    return 1 / torch.arange(1, count + 1, dtype=torch.float64)


ORIENTED: Mapping[str, Callable[[Base, torch.Generator], Operator]] = {
    "rank 1": oriented(lambda q: torch.ones(1, dtype=torch.float64)),
    "rank 8, flat": oriented(lambda q: torch.ones(8, dtype=torch.float64)),
    "rank 8, steep": oriented(lambda q: _falling(8)),
    "full, Gaussian": of_family("gaussian"),
    "full, steep": oriented(_falling),
}
# Regime: how updates are drawn, and the nulls that are true of them.
DRAWN: Mapping[str, tuple[Callable[[Base, torch.Generator], Operator], tuple[str, ...]]] = {
    "rank 1": (of_family("low_rank", 1), ("low_rank", "spectrum_matched")),
    "rank 8": (of_family("low_rank", 8), ("low_rank", "spectrum_matched")),
    "Gaussian": (of_family("gaussian"), ("gaussian", "spectrum_matched", "sign_flipped", "permuted")),
    "±c": (of_family("adam_like"), ("adam_like", "sign_flipped")),
}


def haar_nulls(bases: list[Base], updates: int, generator: torch.Generator) -> Collected:
    """Collect shares, centroids and the diagonal share, all against the Haar null."""
    out: Collected = defaultdict(Samples)
    for regime, draw in ORIENTED.items():
        for number in range(updates):
            base = bases[number % len(bases)]
            update = draw(base, generator)
            measured = measure_matrix(base.weight, base.basis, update)
            for row in measured.projection:
                name = f"{row['side']} share, {row['subspace']} {row['fraction']:.0%}"
                out[name, regime].add(row["p"], row["z"])
            _orientation(out, regime, base, update, measured.modules[0])
    return out


def _orientation(out: Collected, regime: str, base: Base, update: Operator, row: Mapping[str, float]) -> None:
    aligned = align(base.basis, base.weight, update)
    directions = len(aligned.left)
    for side, value, inside in (
        ("left", aligned.centroid_left(), aligned.inside_left()),
        ("right", aligned.centroid_right(), aligned.inside_right()),
    ):
        name = f"centroid_{side}"
        out[name, regime].add(centroid_distribution(directions, inside).p(value), row[f"z_{name}"])
    shares = spectrum.energy_shares(aligned.sigma).numpy()
    distribution = diagonal_share_distribution(*aligned.shape, shares)
    out["diagonal_share", regime].add(distribution.p(row["diagonal_share"]), row["z_diagonal_share"])


def sampled_nulls(bases: list[Base], updates: int, generator: torch.Generator) -> Collected:
    """Collect the rows of table ``nulls``, and z of table ``coordinates`` under Gaussian updates."""
    out: Collected = defaultdict(Samples)
    for index, (regime, (draw, true)) in enumerate(DRAWN.items()):
        for number in range(updates):
            base = bases[number % len(bases)]
            update = draw(base, generator)
            rows = null_rows(
                base.weight, base.basis, update, base.coordinates, seed=index * updates + number, budget=FEW_DRAWS
            )
            for row in rows:
                if row["null"] in true and row["sd"] > 0:
                    samples = out[row["metric"], row["null"], regime]
                    samples.discrete = row["draws"] == 0
                    samples.add(row["p"], row["z"])
            if regime == "Gaussian":
                _closed(out, base, update)
    return out


def _closed(out: Collected, base: Base, update: Operator) -> None:
    for name, z in base.coordinates.row(update).items():
        if name.startswith("z_"):
            out[name[2:], "gaussian, closed form", "Gaussian"].add(float(2 * special.ndtr(-abs(z))), z)


def holm(p: Iterable[float]) -> list[bool]:
    """Return which tests are rejected at LEVEL, family-wise, by Holm's method."""
    values = np.array(list(p))
    order = np.argsort(values)
    passed = values[order] > LEVEL / (len(values) - np.arange(len(values)))
    first = int(np.argmax(passed)) if passed.any() else len(values)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order[:first]] = True
    return rejected.tolist()


def tested(collected: Collected) -> Collected:
    """Return what has enough values for a test."""
    return {key: samples for key, samples in collected.items() if len(samples.defined) >= 100}


def table(collected: Collected, rejected: Mapping[Key, bool], heads: tuple[str, ...]) -> str:
    """Return one line a test."""
    lines = [
        f"| {' | '.join(heads)} | n | KS D | KS p | mean z | var z |",
        "|" + "---|" * (len(heads) + 5),
    ]
    for key, samples in collected.items():
        distance, p = samples.ks()
        mean, variance = samples.z_moments()
        mark = " **rejected**" if rejected[key] else ""
        sided = " (discrete)" if samples.discrete else ""
        numbers = f"{len(samples.defined)}{sided} | {distance:.4f} | {p:.3g}{mark} | {mean:+.3f} | {variance:.3f}"
        lines.append(f"| {' | '.join(key)} | {numbers} |")
    return "\n".join(lines)


def pooled(collected: Collected, keep: int) -> Collected:
    """Return samples of all regimes together, by the first ``keep`` parts of the key."""
    out: Collected = defaultdict(Samples)
    for key, samples in collected.items():
        out[key[:keep]] += samples
    return out


def matrix(collected: Collected, rejected: Mapping[Key, bool]) -> str:
    """Return KS p-values of Haar metrics, metrics by regimes."""
    names = list(dict.fromkeys(name for name, _ in collected))
    lines = [f"| metric | {' | '.join(ORIENTED)} |", "|" + "---|" * (len(ORIENTED) + 1)]
    for name in names:
        cells = []
        for regime in ORIENTED:
            key = (name, regime)
            mark = "**" if rejected[key] else ""
            distance, p = collected[key].ks()
            cells.append(f"{mark}{distance:.3f} ({p:.2g}){mark}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(of_haar: Collected, of_samples: Collected, arguments: argparse.Namespace, seconds: float) -> str:
    """Return the report."""
    of_haar, of_samples = tested(of_haar), tested(of_samples)
    every = {**of_haar, **of_samples}
    rejected = dict(zip(every, holm(s.ks()[1] for s in every.values()), strict=True))
    by_metric = tested(pooled(of_haar, 1))
    by_null = tested(pooled(of_samples, 2))
    together = {**by_metric, **by_null}
    pooled_rejected = dict(zip(together, holm(s.ks()[1] for s in together.values()), strict=True))
    furthest = max(every, key=lambda key: every[key].ks()[0])
    return TEXT.format(
        updates=arguments.updates,
        sampled=arguments.sampled,
        haar_updates=arguments.updates * len(ORIENTED),
        sampled_updates=arguments.sampled * len(DRAWN),
        seed=arguments.seed,
        seconds=seconds,
        shapes=", ".join(f"{m} × {n}" for m, n in SHAPES),
        tests=len(every),
        smallest=min(len(s.defined) for s in every.values()),
        level=LEVEL,
        failures=sum(rejected.values()),
        failed=_named(rejected),
        largest=f"{every[furthest].ks()[0]:.3f} ({'; '.join(furthest)})",
        pooled_tests=len(together),
        pooled_failures=sum(pooled_rejected.values()),
        pooled_failed=_named(pooled_rejected),
        haar_ks=1.358 / arguments.updates**0.5,
        by_metric=table(by_metric, pooled_rejected, ("metric",)),
        matrix=matrix(of_haar, rejected),
        by_null=table(by_null, pooled_rejected, ("metric", "null")),
        regimes=table(of_samples, rejected, ("metric", "null", "regime")),
    )


TEXT = """# Are the p-values uniform where there is nothing to find?

Made by

    python analysis/null_calibration.py --updates {updates} --sampled {sampled} --seed {seed} --report FILE

in {seconds:.0f} CPU-seconds. Updates are drawn from a null, measured as any other update, and their p-values compared
with the uniform law by Kolmogorov-Smirnov: {haar_updates} updates against the Haar null ({updates} in each of five
regimes), {sampled_updates} against sampled nulls ({sampled} in each of four). Shapes {shapes} in turn, on bfloat16
bases with σ_i ∝ i^−½. These are small on purpose: on larger matrices shares average over more directions and are nearer
to normal, so that this is the hard case.

## Verdict

- Per metric and regime: {tests} tests, of at least {smallest} p-values each. Rejected by Holm's method at a family-wise
  level of {level:.0%}: **{failures}**{failed}. Largest distance D: {largest}.
- Per metric, regimes together: {pooled_tests} tests. Rejected: **{pooled_failures}**{pooled_failed}.

Tests are not independent of each other (the same update gives all of its p-values), which Holm's method allows.

## Against the Haar null

ΔW keeps its singular values, and its orientation is uniform. Here D ({haar_ks:.3f} is the 5 % point of a single test at
{updates} values), with the KS p-value in brackets; bold where rejected.

{matrix}

All regimes together, with mean and variance of z (0 and 1 under the null):

{by_metric}

How these p-values are made: by the law that has the first four exact moments (zonal polynomials; Weingarten calculus
for the diagonal share) in Pearson's system, which is exact for one-sided shares of rank 1. For one or two base
directions the strongest direction of ΔW is taken apart first; a joint share is the product of two such laws, exact for
rank 1 and for one direction. No draws are needed, and p is not resolved below 1e-9.

Where four moments are not all: the joint share of an uneven spectrum in few directions. With half of the energy in one
direction over fifteen weak ones, 20,000 draws put the distribution function wrong by up to 0.04 in exactly two
directions a side (the fractions of 5 % here), and by up to 0.02 in three to five. The centroid on the longer side is
conditional on what lies inside the base's span.

z is calibrated in mean and variance, and is not normal: a share of rank 1 in one direction is a χ² with one degree of
freedom. p is what to read there.

## Against sampled nulls

Updates are drawn from a family and compared with that family, or with another whose null is true of them: a Gaussian
update stays one when its signs are flipped, its entries permuted, or its singular vectors redrawn. All regimes
together:

{by_null}

With fewer than 99 draws, as here (8 for most statistics), p is Student's: exact if the statistic is normal under the
null, which a mean over thousands of entries is. z from n draws has the variance (n² − 1)/(n(n − 3)), 1.6 for eight.
From 99 draws on p is a rank, and uniform by construction. *gaussian, closed form* is z of the table `coordinates` read
as normal.

Discrete metrics, marked so, are tested for one thing only, that small p-values are not more frequent than they say
(one-sided): random signs leave few entries of W to chance, so their counts take few values, and half a step is given to
chance. Not in the table because they have no spread under these nulls: the number of intruders (0 in every draw at this
size of update), and the shape of the spectrum of a rank-1 update against rank-1 updates.

By regime:

{regimes}
"""


def _named(rejected: Mapping[Key, bool]) -> str:
    names = ["; ".join(key) for key, found in rejected.items() if found]
    return f" ({', '.join(names)})" if names else ""


def main() -> None:
    """Draw, measure, test and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2000, help="null updates in each of the five Haar regimes")
    parser.add_argument("--sampled", type=int, default=2000, help="null updates in each of the four sampled regimes")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    generator = torch.Generator().manual_seed(arguments.seed)
    bases = [Base.of(*shape, generator) for shape in SHAPES]
    of_haar = haar_nulls(bases, arguments.updates, generator)
    of_samples = sampled_nulls(bases, arguments.sampled, generator)
    text = report(of_haar, of_samples, arguments, time.process_time() - started)
    arguments.report.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
