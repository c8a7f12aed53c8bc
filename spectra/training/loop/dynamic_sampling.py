"""DAPO's dynamic sampling (2503.14476, §3.2): a batch full of groups that give a gradient.

A group whose completions are all right, or all wrong, has advantage zero everywhere. Such groups are replaced by groups
of further prompts, sampled by the same policy, until the batch is full, the rounds are used up, or no prompt is left;
what is missing then stays as it was drawn. In what order prompts come next depends on the seed and the step alone, so a
resumed run draws the same ones. No prompt comes twice in a step, on whichever process.
"""

import json
import random
from collections.abc import Iterable, Sequence

import torch

from spectra.training.compat.trl import ChosenCompletions, Drawn, Row
from spectra.training.data.dataset import prompt_order


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


class DynamicSampling(ChosenCompletions):
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

    def choose(self, rows: list[Row]) -> tuple[Drawn, float]:
        """Return a batch as full of informative groups as the rounds allow, and the reward of the first round."""
        size, wanted = self.num_generations, len(rows) // self.num_generations
        first = self.draw(rows)
        useful = _useful(first, size)
        kept, drawn, used = first.take(useful, size), wanted, 1
        waiting: list[int] | None = None
        # Every process samples as many groups as the one that lacks most: all of them meet in every gathering.
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
