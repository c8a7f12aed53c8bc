"""TRL's ``GRPOTrainer`` and its vLLM client: the private methods that spectra overrides or calls.

Tested with TRL 1.16. Upstream: dynamic sampling is trl#3708 (open), the reference adapter trl#4723, the fixed port of a
colocated vLLM trl#3979.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spectra.training.compat.transformers import distinct_rows, draws_dropout, shared_prefixes

# One row per completion: the dataset's row, what was generated for it, and its rewards.
Row = dict[str, Any]

# The class that the mixin precedes is only known at run time: importing TRL takes seconds.
_Trainer: Any = object


@dataclass(frozen=True)
class Drawn:
    """Completions of some rows, with their rewards.

    Attributes
    ----------
    rows
        Dataset rows, one per completion; the completions of a prompt are neighbors.
    parts
        What ``GRPOTrainer._generate`` returns for each completion (prompt tokens, completion tokens, tool mask, texts,
        log probabilities), each a list as long as ``rows``, or None.
    rewards
        One row per completion, one column per reward function.
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


class ChosenCompletions(_Trainer):  # type: ignore[misc]  # the trainer comes after it
    """Trains on completions that ``choose`` returns; a mixin that precedes ``GRPOTrainer`` among the bases of a class.

    TRL samples, scores and builds the batch in one method. Here that method runs on completions that were sampled and
    scored before: what it asks for (``_generate``, ``_calculate_rewards``) returns those.
    """

    _chosen: Drawn | None = None

    def choose(self, rows: list[Row]) -> tuple[Drawn, float]:
        """Return as many completions as there are rows to train on, and the mean reward to log as ``reward``."""
        raise NotImplementedError

    def draw(self, rows: list[Row]) -> Drawn:
        """Sample one completion per row from the policy, and score it."""
        prompts = [row["prompt"] for row in rows]
        ids, completion_ids, tool_mask, completions, logprobs, *_ = super()._generate(prompts)
        rewards = super()._calculate_rewards(rows, prompts, completions, completion_ids)  # of all processes
        first = self.accelerator.process_index * len(rows)
        parts = (ids, completion_ids, tool_mask, completions, logprobs)
        return Drawn(rows, parts, rewards[first : first + len(rows)])

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Add numbers to the record of the current step."""
        for name, value in values.items():
            self._log_metric(name, value)

    def _generate_and_score_completions(self, inputs: list[Row]) -> Any:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._chosen, reward = self.choose(inputs)
        try:
            batch = super()._generate_and_score_completions(self._chosen.rows)
        finally:
            self._chosen = None
        # Over the chosen completions it is near one half whatever is learned.
        logged = self._metrics["train"]["reward"]
        self._metrics["train"]["dynamic_sampling/reward_kept"].append(logged.pop())
        logged.append(reward)
        return batch

    def _generate(self, prompts: list[Any]) -> Any:
        if self._chosen is None:
            return super()._generate(prompts)
        # Then come fields of a rollout function, images, and images of tools: there are none.
        return (*self._chosen.parts, {}, None, [])

    def _calculate_rewards(self, *args: Any) -> Any:
        if self._chosen is None:
            return super()._calculate_rewards(*args)
        return self.accelerator.gather(self._chosen.rewards)


class SharedWork(_Trainer):  # type: ignore[misc]  # the trainer comes after it
    """Computes what equal rows of a batch have in common once; a mixin that precedes ``GRPOTrainer``.

    The completions of a group have one prompt, and short ones are often equal. Sampling computes each distinct prefix
    once. The loss scores each distinct sequence once: its log probabilities are copied to the rows that hold it, whose
    gradients are summed before they go back through the model. On the CPU what is sampled and the loss are the same bit
    for bit, the gradient up to the order in which rows are summed. Where all rows differ, nothing changes.
    """

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with shared_prefixes(self.model):
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, *args: Any, **kwargs: Any
    ) -> Any:
        score = super()._get_per_token_logps_and_entropies
        of_rows = any(isinstance(value, torch.Tensor) for value in kwargs.values())  # pixels, token types
        if of_rows or kwargs.get("compute_aux_loss") or draws_dropout(model):
            return score(model, input_ids, attention_mask, *args, **kwargs)
        first, row = distinct_rows(torch.cat([input_ids, attention_mask], dim=1))
        logps, entropies, aux_loss = score(model, input_ids[first], attention_mask[first], *args, **kwargs)
        return logps[row], None if entropies is None else entropies[row], aux_loss


def set_beta(trainer: Any, beta: float) -> None:
    """Weigh the KL term by ``beta`` with the base as the reference: the policy, its adapter switched off.

    With beta in its arguments, TRL gives an adapter a frozen copy of itself as the reference, which some methods cannot
    have twice, and which a resumed Trainer loads in place of the policy.
    """
    trainer.beta = beta


def take_free_port() -> None:
    """Set ``MASTER_ADDR`` and a free ``MASTER_PORT`` where no launcher did: several runs may share a machine."""
    from trl.trainer.utils import ensure_master_addr_port

    ensure_master_addr_port()


def use_client(mixin: type[Any], **attributes: Any) -> None:
    """Let TRL talk to a vLLM server through its own client, preceded by a mixin with these attributes."""
    from trl.generation import vllm_client, vllm_generation

    vllm_generation.VLLMClient = type("Client", (mixin, vllm_client.VLLMClient), attributes)
