"""DAPO's dynamic sampling (2503.14476, §3.2): a batch full of groups that give a gradient.

A group whose completions are all right, or all wrong, has advantage zero everywhere. Such groups are replaced by groups
of further prompts, sampled by the same policy, until the batch is full, the rounds are used up, or no prompt is left;
what is missing then stays as it was drawn. In what order prompts come next depends on the seed and the step alone, so a
resumed run draws the same ones. No prompt comes twice in a step, on whichever process.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spectra.training.data.dataset import prompt_order

# One row a completion: the dataset's row, what was generated for it, and its rewards.
Row = dict[str, Any]

# What the mixin stands before is only known when it runs: importing TRL takes seconds.
_Trainer: Any = object


@dataclass(frozen=True)
class Drawn:
    """Completions of some rows, with their rewards.

    Attributes
    ----------
    rows
        Dataset rows, one a completion; the completions of a prompt are neighbours.
    parts
        What the trainer's ``_generate`` gives, one list or None a part, each as long as ``rows``.
    rewards
        One row a completion, one column a reward function.
    """

    rows: list[Row]
    parts: tuple[list[Any] | None, ...]
    rewards: torch.Tensor

    def groups(self, size: int) -> int:
        """Return the number of groups of ``size`` completions."""
        return len(self.rows) // size

    def take(self, groups: Sequence[int], size: int) -> "Drawn":
        """Return some groups of ``size`` completions."""
        chosen = [group * size + number for group in groups for number in range(size)]
        return Drawn(
            [self.rows[at] for at in chosen],
            tuple(None if part is None else [part[at] for at in chosen] for part in self.parts),
            self.rewards[chosen],
        )

    def __add__(self, other: "Drawn") -> "Drawn":
        parts = tuple(
            None if left is None or right is None else left + right
            for left, right in zip(self.parts, other.parts, strict=True)
        )
        return Drawn(self.rows + other.rows, parts, torch.cat([self.rewards, other.rewards]))


def informative(rewards: torch.Tensor, size: int) -> list[bool]:
    """Return, for each group of ``size`` completions, whether its first reward differs within it.

    The first reward says right or wrong; a length punishment beside it must not make a group look informative.
    """
    first = rewards[:, 0].view(-1, size)
    return [bool(group.max() > group.min()) for group in first]


def further_prompts(prompts: Sequence[str], taken: Iterable[int], seed: int, step: int) -> list[int]:
    """Return the problems that may stand in for groups without a gradient, in the order in which they do.

    Parameters
    ----------
    prompts
        Prompt of each problem; of problems with equal prompts one is returned.
    taken
        Indices of the step's own problems, of all processes: their prompts are left out.
    seed, step
        What decides the order.
    """
    seen, order = {prompts[at] for at in taken}, list[int]()
    for at in random.Random(f"{seed}/{step}").sample(range(len(prompts)), len(prompts)):
        if prompts[at] not in seen:
            seen.add(prompts[at])
            order.append(at)
    return order


class DynamicSampling(_Trainer):  # type: ignore[misc]  # the trainer comes after it
    """Dynamic sampling for a ``GRPOTrainer``, to be put before it among the bases of a class.

    Attributes
    ----------
    rounds
        Rounds of sampling a step, the first one included.
    problems
        Dataset rows to draw further prompts from.
    sampling_seed
        Seed of those draws, and of the order in which the run meets the problems.
    step_prompts
        Prompts a step, over all processes.
    """

    rounds: int
    problems: Sequence[Row]
    sampling_seed: int
    step_prompts: int
    _filled: Drawn | None = None

    def _generate_and_score_completions(self, inputs: list[Row]) -> Any:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._filled, reward = self._fill(inputs)
        try:
            batch = super()._generate_and_score_completions(self._filled.rows)
        finally:
            self._filled = None
        # Over the kept groups it is near one half whatever is learned: `reward` stays that of the prompts as drawn.
        logged = self._metrics["train"]["reward"]
        self._metrics["train"]["dynamic_sampling/reward_kept"].append(logged.pop())
        logged.append(reward)
        return batch

    def _generate(self, prompts: list[Any]) -> Any:
        if self._filled is None:
            return super()._generate(prompts)
        # The trainer adds what the reward functions need; nothing was added by a rollout of ours.
        ids, completion_ids, tool_mask, completions, logprobs = self._filled.parts
        return ids, completion_ids, tool_mask, completions, logprobs, {}, None, []

    def _calculate_rewards(self, *args: Any) -> Any:
        if self._filled is None:
            return super()._calculate_rewards(*args)
        return self.accelerator.gather(self._filled.rewards)

    def _fill(self, inputs: list[Row]) -> tuple[Drawn, float]:
        """Return a batch as full of informative groups as the rounds allow, and the reward of the first round."""
        size, wanted = self.num_generations, len(inputs) // self.num_generations
        first = self._draw(inputs)
        useful = _useful(first, size)
        kept, drawn, used = first.take(useful, size), wanted, 1
        waiting: list[int] | None = None
        # Every process samples as many groups as the one that lacks most: all of them meet in every gathering.
        while used < self.rounds and (lacking := self._most(wanted - kept.groups(size))) > 0:
            waiting = self._waiting() if waiting is None else waiting
            share = min(lacking, len(waiting) // self.accelerator.num_processes)
            if share == 0:
                break
            more = self._draw(self._further(waiting, share, size))
            kept += more.take(_useful(more, size), size)
            drawn, used = drawn + share, used + 1
        found = kept.groups(size)
        silent = [group for group in range(wanted) if group not in useful][: max(wanted - found, 0)]
        self._log_metric("dynamic_sampling/rounds", float(used))
        self._log_metric("dynamic_sampling/zero_advantage_share", 1 - found / drawn)
        self._log_metric("dynamic_sampling/unfilled_share", len(silent) / wanted)
        full = kept.take(range(min(found, wanted)), size) + first.take(silent, size)
        return full, self._mean_reward(first)

    def _draw(self, rows: list[Row]) -> Drawn:
        prompts = [row["prompt"] for row in rows]
        ids, completion_ids, tool_mask, completions, logprobs, *_ = super()._generate(prompts)
        rewards = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        start = self.accelerator.process_index * len(rows)
        parts = (ids, completion_ids, tool_mask, completions, logprobs)
        return Drawn(rows, parts, rewards[start : start + len(rows)])

    def _waiting(self) -> list[int]:
        """Return the problems that may come next in this step, the same on every process."""
        step, size = self.state.global_step, self.step_prompts
        own = prompt_order(len(self.problems), (step + 1) * size, self.sampling_seed)[-size:]
        texts = [json.dumps(problem["prompt"], sort_keys=True) for problem in self.problems]
        return further_prompts(texts, own, self.sampling_seed, step)

    def _further(self, waiting: list[int], share: int, size: int) -> list[Row]:
        """Take every process's share off the waiting problems, and return this one's rows."""
        count = share * self.accelerator.num_processes
        taken, waiting[:] = waiting[:count], waiting[count:]
        start = share * self.accelerator.process_index
        return [dict(self.problems[at]) for at in taken[start : start + share] for _ in range(size)]

    def _most(self, groups: int) -> int:
        return int(self.accelerator.gather(torch.tensor([groups], device=self.accelerator.device)).max())

    def _mean_reward(self, drawn: Drawn) -> float:
        total = (drawn.rewards * self.reward_weights.to(drawn.rewards.device)).nansum(dim=1)
        return float(self.accelerator.gather(total).mean())


def _useful(drawn: Drawn, size: int) -> list[int]:
    return [group for group, useful in enumerate(informative(drawn.rewards, size)) if useful]
