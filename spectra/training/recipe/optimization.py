"""The recipe sections on the base model, the objective and the optimizer."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from spectra.config import KeyFault, Section
from spectra.weights.storage.base import EMBEDDED


class ModelRecipe(Section):
    """The base model.

    Attributes
    ----------
    base
        ``embedded``, a local directory, or a hub id.
    revision
        Commit, tag or branch of a hub id.
    dtype
        Type of the frozen base weights, and of the forward and backward pass: in bfloat16 by autocast. Adapters are
        float32, and so are their snapshots.
    trainable_dtype
        Type in which weights of the base are kept that train: all of them in full fine-tuning, or its norms. In
        ``float32`` the optimizer's states are too, and so are snapshots, whatever ``dtype`` says. In ``bfloat16``,
        which needs that ``dtype``, an update below about 1/256 of a weight is rounded away: at a learning rate of 1e-6
        most weights never move.
    gradient_checkpointing
        Compute activations again in the backward pass: a third more time, and memory for one layer's alone.
    """

    base: str = EMBEDDED
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    trainable_dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _not_below_the_trained(self) -> "ModelRecipe":
        if self.trainable_dtype == "bfloat16" and self.dtype != "bfloat16":
            raise KeyFault("trainable_dtype", "bfloat16 needs model.dtype bfloat16; set both, or leave it out")
        return self


class AlgorithmRecipe(Section):
    """The objective and how its completions are sampled.

    Attributes
    ----------
    name
        ``grpo``: mean over completions of the mean over tokens (DeepSeekMath, 2402.03300). ``dapo``: mean over all
        tokens of the step, and a wider upper clip (2503.14476). ``dr_grpo``: sum over tokens by a constant length, and
        advantages that are not divided by a standard deviation (2503.20783). ``bnpo``, ``cispo``, ``sapo``, ``luspo``,
        ``vespo`` and ``gspo`` are TRL's other losses.
    epsilon_low, epsilon_high
        The probability ratio is clipped to [1 − low, 1 + high]. Left out, they are the algorithm's own: 0.2 and 0.2,
        dapo 0.2 and 0.28, cispo an upper cap of 5, gspo 3e-4 and 4e-4.
    beta
        Weight of the KL divergence from the base; 0 leaves it out.
    scale_rewards
        Divide advantages by the standard deviation of the group, of the batch, or by nothing. Left out, it is the
        group, and nothing for dr_grpo.
    generations
        Completions a prompt.
    temperature
        Sampling temperature.
    max_completion_length
        Tokens; longer completions are cut.
    mask_truncated
        Leave cut completions out of the loss.
    dynamic_rounds
        DAPO's dynamic sampling: groups whose completions are all right or all wrong give no gradient, and are replaced
        by groups of further prompts, none of which came in the step before, up to so many rounds of sampling a step, or
        until no prompt is left. Null samples once.
    overlong_buffer
        DAPO's soft punishment: the reward falls linearly to −1 over the last so many tokens before the limit. Null
        leaves it out.
    """

    name: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo", "gspo"] = "dapo"
    epsilon_low: float = Field(gt=0, lt=1)
    epsilon_high: float = Field(gt=0)
    beta: float = Field(default=0.0, ge=0)
    scale_rewards: Literal["group", "batch", "none"]
    generations: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    max_completion_length: int = Field(default=8, ge=1)
    mask_truncated: bool = False
    dynamic_rounds: int | None = Field(default=None, ge=2)
    overlong_buffer: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        name = value.get("name", "dapo")
        low, high = CLIPS.get(name, (0.2, 0.2)) if isinstance(name, str) else (0.2, 0.2)
        own = {"epsilon_low": low, "epsilon_high": high, "scale_rewards": "none" if name == "dr_grpo" else "group"}
        return {**value, **{key: default for key, default in own.items() if value.get(key) is None}}

    @model_validator(mode="after")
    def _buffer(self) -> "AlgorithmRecipe":
        if (self.overlong_buffer or 0) > self.max_completion_length:
            raise KeyFault("overlong_buffer", f"{self.overlong_buffer} is more than max_completion_length")
        return self


# Lower and upper clip where they are not 0.2, as each paper has them.
CLIPS = {"dapo": (0.2, 0.28), "cispo": (0.2, 5.0), "gspo": (3e-4, 4e-4)}


class OptimizerRecipe(Section):
    """AdamW, or the method's own optimizer, and its schedule.

    Attributes
    ----------
    learning_rate
        Left out, it is the method's own, see ``spectra methods``.
    weight_decay, betas, epsilon
        As in AdamW.
    schedule
        Shape of the learning rate after ``warmup`` steps of linear rise.
    max_grad_norm
        Gradients are scaled down to this norm.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: list[float] = Field(default_factory=lambda: [0.9, 0.999], min_length=2, max_length=2)
    epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
