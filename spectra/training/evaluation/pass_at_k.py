r"""Avg@k and Pass@k with confidence intervals.

Two sources of variation matter: the choice of problems in a benchmark, and the sampling of completions. The n problems
are a sample of similar problems, and the estimate :math:`u_i` of each already varies with its completions. So
:math:`s^2/n`, with s² the variance of the u_i between problems, includes both sources; resampling completions as well
would count the second one twice. The 95 % interval is Wilson's with the effective number of problems :math:`\bar u (1 -
\bar u) n / s^2` in place of n (Kish's design effect), and Student's quantile. To s² is added the variance of two prior
problems that are either always right or always wrong: if nearly all problems agree, a rare different one may be missing
from the sample. ``tests/training/evaluation/test_pass_at_k.py`` checks its coverage by simulation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, variance
from typing import Any

from spectra.errors import UsageError
from spectra.linalg.nulls.haar_moments import NORMAL_95
from spectra.statistics.intervals import student_quantile, wilson

_PRIOR_PROBLEMS = 2.0


@dataclass(frozen=True)
class Estimate:
    """Estimate of a fraction in [0, 1].

    Attributes
    ----------
    value
        Mean over problems.
    low, high
        95 % interval over problems and completions: for other problems of this kind.
    error
        Standard error over problems and completions; NaN for one problem.
    sampling_error
        Standard error over completions alone, for these problems: the effect of another seed. NaN if the completions of
        one problem do not determine it (Pass@k of k completions).
    """

    value: float
    low: float
    high: float
    error: float
    sampling_error: float

    def as_json(self) -> dict[str, float | None]:
        """Return plain JSON values; NaN is null."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}


def estimate_pass(outcomes: Mapping[str, Sequence[bool]], k: int) -> Estimate:
    r"""Return Pass@k, the mean over problems of :math:`1 - \binom{n-c}{k} / \binom{n}{k}` (Chen et al. 2021, eq. 1).

    Pass@1 is Avg@n: the fraction of correct completions.

    Parameters
    ----------
    outcomes
        Whether each completion of each problem is correct.
    k
        Number of completions of which at least one must be correct.

    Raises
    ------
    UsageError
        If a problem has fewer than ``k`` completions, or there is no problem.
    """
    fewest = min(map(len, outcomes.values()), default=0)
    if not 1 <= k <= fewest:
        raise UsageError(f"Pass@{k} of {fewest} samples per problem is undefined", hint="draw at least k samples")
    counts = [(len(marks), sum(marks)) for marks in outcomes.values()]
    shares = [_pass(n, c, k) for n, c in counts]
    value, count = fmean(shares), len(shares)
    low, high = interval(shares)
    error = math.sqrt(variance(shares) / count) if count > 1 else math.nan
    return Estimate(value, low, high, error, math.sqrt(math.fsum(_jackknife(n, c, k) for n, c in counts)) / count)


def estimate_all(outcomes: Mapping[str, Sequence[bool]]) -> dict[int, Estimate]:
    """Return Pass@k for k = 1, 2, 4 … up to the smallest number of completions per problem."""
    fewest = min(map(len, outcomes.values()), default=0)
    powers = [2**power for power in range(fewest.bit_length())]
    return {k: estimate_pass(outcomes, k) for k in dict.fromkeys([*powers, fewest]) if k}


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over problems, see the module; (0, 1) for one problem."""
    count, value = len(shares), fmean(shares)
    if count < 2:
        return 0.0, 1.0
    between = variance(shares)
    middle = (count * value + 0.5) / (count + 1)
    smoothed = ((count - 1) * between + _PRIOR_PROBLEMS * middle * (1 - middle)) / (count - 1 + _PRIOR_PROBLEMS)
    # At least the number of problems: a fraction varies no more than a binary outcome.
    effective = max(float(count), value * (1 - value) * count / smoothed)
    return wilson(value, effective, student_quantile(count - 1))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over benchmarks with equal weights; their errors are independent."""
    count, value = len(estimates), fmean(one.value for one in estimates)
    error = math.sqrt(math.fsum(one.error**2 for one in estimates)) / count
    sampling = math.sqrt(math.fsum(one.sampling_error**2 for one in estimates)) / count
    half = NORMAL_95 * error
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), error, sampling)


def scores(outcomes: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """Return the fields of a summary: number of problems and completions, Avg@k and every Pass@k, as JSON values."""
    estimates = estimate_all(outcomes)
    return {
        "problems": len(outcomes),
        "samples": min(map(len, outcomes.values())),
        "average": estimates[1].as_json(),
        "pass": {str(k): estimate.as_json() for k, estimate in estimates.items()},
    }


def _pass(n: int, c: int, k: int) -> float:
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def _jackknife(n: int, c: int, k: int) -> float:
    """Return the variance of one problem's estimate over its completions, by leaving each out; NaN where k = n > 1."""
    if n <= k:
        return math.nan
    without_right = _pass(n - 1, c - 1, k) if c else 0.0
    without_wrong = _pass(n - 1, c, k) if c < n else 0.0
    mean = (c * without_right + (n - c) * without_wrong) / n
    spread = c * (without_right - mean) ** 2 + (n - c) * (without_wrong - mean) ** 2
    return (n - 1) / n * spread
