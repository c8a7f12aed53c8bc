"""Recipe sections for the base model, the objective and the optimizer."""

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
        Data type of the frozen base weights, and of the forward and backward pass (in bfloat16 by autocast). Adapters
        are float32, and so are their snapshots.
    trainable_dtype
        Data type of trained base weights: all of them in full fine-tuning, or the norms. With ``float32``, optimizer
        states and snapshots are float32 too, whatever ``dtype`` is. With ``bfloat16``, which requires ``dtype``
        bfloat16, an update below about 1/256 of a weight is rounded away: at a learning rate of 1e-6 most weights
        never move.
    gradient_checkpointing
        Recompute activations in the backward pass: a third more time, and activation memory of one layer only.
    """

    base: str = EMBEDDED
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    trainable_dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _not_below_the_trained(self) -> "ModelRecipe":
        if self.trainable_dtype == "bfloat16" and self.dtype != "bfloat16":
            raise KeyFault("trainable_dtype", "bfloat16 needs model.dtype bfloat16; set both, or remove it")
        return self


class AlgorithmRecipe(Section):
    """The objective and the sampling of its completions.

    Attributes
    ----------
    name
        ``grpo``: mean over completions of the mean over tokens (DeepSeekMath, 2402.03300). ``dapo``: mean over all
        tokens of the step, and a wider upper clip (2503.14476). ``dr_grpo``: sum over tokens divided by a constant
        length, and advantages that are not divided by a standard deviation (2503.20783). ``bnpo``, ``cispo``, ``sapo``,
        ``luspo``, ``vespo`` and ``gspo`` are TRL's other losses.
    epsilon_low, epsilon_high
        The probability ratio is clipped to [1 − low, 1 + high]. Defaults depend on the algorithm: 0.2 and 0.2,
        dapo 0.2 and 0.28, cispo an upper cap of 5, gspo 3e-4 and 4e-4.
    beta
        Weight of the KL divergence from the base model; 0 disables it.
    scale_rewards
        Divide advantages by the standard deviation of the group, of the batch, or by nothing. Default: ``group``, and
        ``none`` for dr_grpo.
    generations
        Completions per prompt.
    temperature
        Sampling temperature.
    max_completion_length
        Maximum tokens per completion; longer completions are truncated.
    mask_truncated
        Exclude truncated completions from the loss.
    dynamic_rounds
        Maximum rounds of DAPO's dynamic sampling per step: groups whose completions are all right or all wrong give no
        gradient, and are replaced by groups of further prompts, none of them used earlier in the step, until no prompt
        is left. Null samples once.
    overlong_buffer
        Length in tokens of DAPO's soft overlong penalty: the reward falls linearly to −1 over the last tokens before
        the limit. Null disables it.
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
            raise KeyFault("overlong_buffer", f"must be at most max_completion_length, got {self.overlong_buffer}")
        return self


# Lower and upper clip where they are not 0.2, from each paper.
CLIPS = {"dapo": (0.2, 0.28), "cispo": (0.2, 5.0), "gspo": (3e-4, 4e-4)}


class OptimizerRecipe(Section):
    """AdamW, or the optimizer of the method, and its schedule.

    Attributes
    ----------
    learning_rate
        Default: that of the method, see ``spectra methods``.
    weight_decay, betas, epsilon
        As in AdamW.
    schedule
        Learning rate schedule after ``warmup`` steps of linear increase.
    max_grad_norm
        Gradients are clipped to this norm.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: list[float] = Field(default_factory=lambda: [0.9, 0.999], min_length=2, max_length=2)
    epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
