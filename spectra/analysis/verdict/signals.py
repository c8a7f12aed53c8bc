"""Which signal of a run broke first: training log and weights on one step axis.

A signal broke if it left the level of its first window for good, by more than noise explains (autocorrelated noise
included, see :mod:`spectra.analysis.curves`) and by a relevant factor. Entropy does so in healthy runs, too.
Signals of the log are dated by the middle of the change, so that they can be compared with each other; signals of the
weights by the first snapshot that shows them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from spectra.analysis import curves
from spectra.analysis.verdict.rules.magnitude import SPECTRAL_LIMIT, accelerating
from spectra.analysis.verdict.rules.outcome import above_rounding, lasting, matrices
from spectra.analysis.verdict.rules.policy import reward_collapsed
from spectra.analysis.verdict.rules.rank import TOP1, rank_collapsed
from spectra.runs.tables import Tables

# Fraction of the base's operator norm. The largest value in our healthy runs was 0.4, in one matrix.
_LARGE = 0.5


@dataclass(frozen=True)
class Signal:
    """A signal of a run that broke.

    Attributes
    ----------
    name
        The signal, such as ``entropy``.
    onset_step
        Step since which it is broken.
    says
        What happened, as a clause.
    """

    name: str
    onset_step: int
    says: str


@dataclass(frozen=True)
class _Watch:
    """A curve of the log, and which changes of it count.

    Attributes
    ----------
    name, noun
        Column in the series table, and the noun for sentences.
    fell, rose
        Ratio of end to start from which a change counts; None if that direction is no bad sign.
    least
        Smallest absolute change that counts, for curves that start at or near zero.
    """

    name: str
    noun: str
    fell: float | None = None
    rose: float | None = None
    least: float = 0.0


_WATCHED = (
    _Watch("entropy", "entropy", fell=0.5, rose=2.0),
    _Watch("zero_advantage_share", "the fraction of groups without advantage", rose=1.0, least=0.25),
    _Watch("completion_length", "the completion length", fell=0.5, rose=2.0),
    _Watch("clipped_completions", "the fraction of truncated completions", rose=1.0, least=0.25),
    _Watch("clip_ratio", "the clip ratio", rose=3.0, least=0.01),
    _Watch("sampler_mismatch", "the mismatch between sampler and trainer", rose=3.0),
    _Watch("grad_norm", "the gradient norm", rose=5.0),
)


def signals(tables: Tables) -> list[Signal]:
    """Return the signals that broke, earliest first.

    Parameters
    ----------
    tables
        The tables of the run; empty ones are skipped.
    """
    reward = _reward(tables)
    until = reward[0].onset_step if reward else None
    logged = [found for watch in _WATCHED if (found := _broken(watch, tables.series, until)) is not None]
    weights = [found for look in _WEIGHTS if (found := look(tables)) is not None]
    return sorted([*reward, *logged, *weights], key=lambda found: found.onset_step)


def first_sign(found: Sequence[Signal], verdict: str) -> str:
    """Return a sentence on which signal broke first, and by how many steps; empty if fewer than two broke.

    Parameters
    ----------
    found
        The signals, earliest first.
    verdict
        The verdict. The distance is to the signal it rests on; if that came first, to the reward, or else to the next.
    """
    if len(found) < 2:
        return ""
    first = found[0]
    by_name = {other.name: other for other in reversed(found[1:])}
    own = by_name.get(_OWN.get(verdict, ""), by_name.get("reward", found[1]))
    steps = own.onset_step - first.onset_step
    when = "at the same step as" if steps == 0 else f"{steps} step{'s' * (steps > 1)} before"
    return f"{first.says[0].upper()}{first.says[1:]} at step {first.onset_step}, {when} {_noun(own.name)}."


_OWN = {
    "reward_collapsed": "reward",
    "entropy_collapsed": "entropy",
    "diverging": "update_size",
    "rank_collapsed": "effective_rank",
}


def _noun(name: str) -> str:
    nouns = {watch.name: watch.noun for watch in _WATCHED}
    nouns |= {"reward": "the reward", "update_size": "the update's size", "effective_rank": "the update's rank"}
    return {**nouns, "entropy": "the entropy", "top1_energy": "the update's first direction"}[name]


def _reward(tables: Tables) -> list[Signal]:
    found = reward_collapsed(tables)
    if found.onset is None:
        return []
    fact = found.evidence[0]
    return [Signal("reward", found.onset, f"the reward fell from {fact.null:.2f} to {fact.value:.2f}")]


def _broken(watch: _Watch, series: pd.DataFrame, until: int | None) -> Signal | None:
    """Return how a watched curve broke by the end, or by the fall of the reward, after which it may recover."""
    values = curves.curve(series, watch.name)
    spans = [values]
    if until is not None:
        spans.append(values[values.index < until])
    found = [signal for span in spans if (signal := _moved(watch, span)) is not None]
    return min(found, key=lambda signal: signal.onset_step, default=None)


def _moved(watch: _Watch, values: pd.Series) -> Signal | None:
    shift = curves.shift(values)
    if shift is None or abs(shift.end - shift.start) < watch.least:
        return None
    fell = watch.fell is not None and shift.end <= watch.fell * shift.start
    rose = watch.rose is not None and shift.end >= watch.rose * shift.start and shift.end > shift.start
    if not (fell or rose):
        return None
    how = "fell" if shift.end < shift.start else "rose"
    return Signal(watch.name, shift.onset, f"{watch.noun} {how} from {shift.start:.2g} to {shift.end:.2g}")


def _update_size(tables: Tables) -> Signal | None:
    """Return when an update that became large was first seen to accelerate, or to be large."""
    rows = matrices(tables)
    level = rows.groupby("step")["relative_spectral"].quantile(0.9)
    began = lasting(level >= _LARGE) if len(level) else None
    if began is None:
        return None
    left = accelerating(level, began)
    onset = int(level.index[min(left + 1, began)])
    return Signal(
        "update_size",
        onset,
        f"the update grew to {level.iloc[-1]:.2g} of the base in operator norm (limit {SPECTRAL_LIMIT:g})",
    )


def _effective_rank(tables: Tables) -> Signal | None:
    found = rank_collapsed(tables)
    if found.verdict is None or found.onset is None:
        return None
    fact = found.evidence[0]
    return Signal(
        "effective_rank", found.onset, f"the update's effective rank fell from {fact.null:.1f} to {fact.value:.1f}"
    )


def _top1_energy(tables: Tables) -> Signal | None:
    """Return when one direction came to hold nearly all energy, in matrices where it did not at first."""
    rows = above_rounding(matrices(tables))
    top = rows[rows["rank_bound"] > 1].groupby("step")["top1_energy"].median()
    began = lasting(top >= TOP1) if len(top) else None
    if not began:
        return None
    onset = int(top.index[began])
    return Signal("top1_energy", onset, f"one direction came to hold {top.iloc[-1]:.0%} of the update's energy")


_WEIGHTS: tuple[Callable[[Tables], Signal | None], ...] = (_update_size, _effective_rank, _top1_energy)
