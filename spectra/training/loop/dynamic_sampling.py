"""DAPO's dynamic sampling (2503.14476, §3.2): fill the batch with groups that give a gradient.

A group whose completions are all right, or all wrong, has zero advantages. Such groups are replaced by groups of
further prompts, sampled from the same policy, until the batch is full, the rounds are used up, or no prompt is left;
remaining places keep their original groups. The order of further prompts depends on the seed and the step alone, so a
resumed run draws the same ones. No prompt occurs twice in a step, over all processes.
"""

import json
import random
from collections.abc import Iterable, Sequence

import torch

from spectra.training.compat.trl import ChosenCompletions, Drawn, Row
from spectra.training.data.dataset import prompt_order


def informative(rewards: torch.Tensor, size: int) -> list[bool]:
    """Return, for each group of ``size`` completions, whether its first reward differs within it.

    The first reward is right or wrong; a length penalty must not make a group look informative.
    """
    first = rewards[:, 0].view(-1, size)
    return [bool(group.max() > group.min()) for group in first]


def further_prompts(prompts: Sequence[str], taken: Iterable[int], seed: int, step: int) -> list[int]:
    """Return the indices of problems that can replace groups without a gradient, in order.

    Parameters
    ----------
    prompts
        Prompt of each problem; of problems with equal prompts only one is returned.
    taken
        Indices of the problems of this step, on all processes: their prompts are excluded.
    seed, step
        They determine the order.
    """
    seen, order = {prompts[at] for at in taken}, list[int]()
    for at in random.Random(f"{seed}/{step}").sample(range(len(prompts)), len(prompts)):
        if prompts[at] not in seen:
            seen.add(prompts[at])
            order.append(at)
    return order


class DynamicSampling(ChosenCompletions):
    """Dynamic sampling; a mixin that precedes ``GRPOTrainer`` among the bases of a class.

    Attributes
    ----------
    rounds
        Maximum rounds of sampling per step, including the first.
    problems
        Dataset rows to draw further prompts from.
    sampling_seed
        Seed of those draws, and of the order of the training problems.
    step_prompts
        Prompts per step, over all processes.
    """

    rounds: int
    problems: Sequence[Row]
    sampling_seed: int
    step_prompts: int

    def choose(self, rows: list[Row]) -> tuple[Drawn, float]:
        """Return a batch with as many informative groups as the rounds give, and the mean reward of the first round."""
        size, wanted = self.num_generations, len(rows) // self.num_generations
        first = self.draw(rows)
        useful = _useful(first, size)
        kept, drawn, used = first.take(useful, size), wanted, 1
        waiting: list[int] | None = None
        # Every process samples as many groups as the one that lacks most, because all take part in every gather.
        while used < self.rounds and (lacking := self._most(wanted - kept.groups(size))) > 0:
            waiting = self._waiting() if waiting is None else waiting
            share = min(lacking, len(waiting) // self.accelerator.num_processes)
            if share == 0:
                break
            more = self.draw(self._further(waiting, share, size))
            kept += more.take(_useful(more, size), size)
            drawn, used = drawn + share, used + 1
        found = kept.groups(size)
        silent = [group for group in range(wanted) if group not in useful][: max(wanted - found, 0)]
        self.log_metrics(
            {
                "dynamic_sampling/rounds": float(used),
                "dynamic_sampling/zero_advantage_share": 1 - found / drawn,
                "dynamic_sampling/unfilled_share": len(silent) / wanted,
            }
        )
        full = kept.take(range(min(found, wanted)), size) + first.take(silent, size)
        return full, self._mean_reward(first)

    def _waiting(self) -> list[int]:
        """Return the candidate problems for this step, the same on every process."""
        step, size = self.state.global_step, self.step_prompts
        own = prompt_order(len(self.problems), (step + 1) * size, self.sampling_seed)[-size:]
        texts = [json.dumps(problem["prompt"], sort_keys=True) for problem in self.problems]
        return further_prompts(texts, own, self.sampling_seed, step)

    def _further(self, waiting: list[int], share: int, size: int) -> list[Row]:
        """Remove every process's share from the waiting problems, and return the rows of this process."""
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
