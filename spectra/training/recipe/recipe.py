"""The recipe: everything that decides a training run, strict and complete.

The defaults suit the base that ships with spectra: 60 steps of 32 prompts × 8 completions take about a minute a run.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from spectra.config import NAME_PATTERN, KeyFault, Section
from spectra.training.methods import MethodRecipe, find_method
from spectra.training.sampling.rollout import RolloutRecipe
from spectra.weights.storage.base import EMBEDDED

CARRY_ADDITION = "carry_addition"


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


class GeneratorRecipe(Section):
    """Problems that a ``reasoning_gym:`` generator makes.

    Attributes
    ----------
    size
        Number of problems; equal ones are left out.
    seed
        Of the problems to train on; held-out ones have the next, and none of the same.
    options
        The generator's own configuration.
    """

    size: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)


class TaskRecipe(Section):
    """Problems with verifiable answers: the built-in task, files, a dataset, or a generator.

    Attributes
    ----------
    name
        ``carry_addition``, or a name of your own for ``data``.
    data, heldout
        Problems to train and to evaluate on: a ``.jsonl`` or ``.parquet`` file, a directory that ``datasets`` reads, a
        hub id such as ``open-r1/DAPO-Math-17k-Processed``, or ``reasoning_gym:`` with a generator's name. ``heldout``
        may also be ``benchmark:`` with a name of ``spectra eval``. Paths are relative to the working directory.
    subset, split, heldout_split, revision
        Of a dataset. Subset and revision hold for ``heldout`` too where it is the same set.
    prompt, answer
        Columns; dots lead into nested ones: ``reward_model.ground_truth``. A prompt is text or chat messages; an answer
        is the gold answer, with or without a box.
    answer_after
        The gold answer is what follows the last of this text, such as ``####``.
    remove
        Texts to cut out of prompts: instructions that the format below replaces.
    unique
        Leave out prompts that came before: DAPO-Math-17k has each of its 17k about a hundred times.
    format
        ``none``: prompts as they are. ``boxed``: a chat message that asks for the answer in a box. ``think``: a chat
        whose system message asks for ``<think>…</think>`` and then the answer in a box.
    format_weight
        Reward for ending the thought once and answering in a box after it; 0 leaves it out.
    generator
        Of ``reasoning_gym:`` sources.
    data_sha256, heldout_sha256
        Digests of the problems; the run's own recipe holds them, so that changed data is noticed.
    """

    name: str = Field(default=CARRY_ADDITION, pattern=NAME_PATTERN)
    data: str | None = None
    heldout: str | None = None
    subset: str | None = None
    split: str = "train"
    heldout_split: str = "test"
    revision: str | None = None
    prompt: str = "prompt"
    answer: str = "answer"
    answer_after: str | None = None
    remove: list[str] = Field(default_factory=list)
    unique: bool = False
    format: Literal["none", "boxed", "think"] = "none"
    format_weight: float = Field(default=0.0, ge=0)
    generator: GeneratorRecipe = Field(default_factory=GeneratorRecipe)
    data_sha256: str | None = None
    heldout_sha256: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "TaskRecipe":
        if self.data is None and self.name != CARRY_ADDITION:
            raise KeyFault("name", f"no task {self.name!r}; choose {CARRY_ADDITION!r}, or give task.data a source")
        if self.data is not None and self.name == CARRY_ADDITION:
            raise KeyFault("name", f"{CARRY_ADDITION!r} is the built-in task; give your data another name")
        if self.data is None and self.heldout is not None:
            raise KeyFault("heldout", "needs task.data beside it; give both or neither")
        if self.data is None and self.format != "none":
            raise KeyFault("format", f"{CARRY_ADDITION!r} has prompts of its own; leave it out")
        return self


class SnapshotRecipe(Section):
    """When ΔW is saved: ``every`` so many steps, or at ``log_spaced`` many steps. Step 0 and the last are always saved.

    Attributes
    ----------
    every
        Distance in steps.
    log_spaced
        Number of steps after step 0, spaced by an even ratio: most of what happens to ΔW happens early.
    """

    every: int | None = Field(default=None, ge=1)
    log_spaced: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> "SnapshotRecipe":
        if (self.every is None) == (self.log_spaced is None):
            raise KeyFault("every", "give one of snapshots.every and snapshots.log_spaced, and null for the other")
        return self

    def schedule(self, last: int) -> list[int]:
        """Return the steps to save, from 0 to ``last``.

        >>> SnapshotRecipe(every=4).schedule(10)
        [0, 4, 8, 10]
        >>> SnapshotRecipe(log_spaced=4).schedule(64)
        [0, 1, 4, 16, 64]
        """
        if self.every is not None:
            return sorted({*range(0, last, self.every), last})
        return [0, *log_spaced(last, self.log_spaced or 1)]


class CheckpointRecipe(Section):
    """Resumable trainer state.

    Attributes
    ----------
    every
        Distance in steps; null keeps none, and a killed run starts again.
    keep
        Number of the newest that stay.
    """

    every: int | None = Field(default=10, ge=1)
    keep: int = Field(default=2, ge=1)


class EvaluationRecipe(Section):
    """Accuracy on held-out problems while training, at step 0, ``every`` so many steps, and the last.

    Attributes
    ----------
    every
        Distance in steps; null evaluates nothing.
    problems
        The first so many held-out problems.
    samples
        Completions a problem.
    temperature
        Sampling temperature; the whole distribution is sampled.
    batch_size
        Completions at once. Less needs less memory.
    """

    every: int | None = Field(default=20, ge=1)
    problems: int = Field(default=100, ge=1)
    samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=256, ge=1)

    def due(self, step: int, last: int) -> bool:
        """Return whether ``step`` of a run of ``last`` steps is evaluated."""
        return self.every is not None and (step % self.every == 0 or step == last)


class Recipe(Section):
    """One training run.

    Attributes
    ----------
    name
        Name of the run; the default output directory has it.
    model, method, algorithm, rollout, optimizer, task, snapshots, checkpoints, evaluation
        The sections, see each.
    steps
        Optimizer steps.
    prompts_per_step
        Prompts a step; each gets ``algorithm.generations`` completions.
    micro_batch
        Completions a forward pass on each process; null takes all of the step's at once. Less needs less memory.
    seed
        Seed of adapter initialisation, order of prompts and sampling.
    report_to
        Where the logged numbers go too: ``tensorboard`` (files under ``checkpoints/runs``), ``wandb``, ``trackio``.
    """

    name: str = Field(default="run", pattern=NAME_PATTERN)
    model: ModelRecipe = Field(default_factory=ModelRecipe)
    method: MethodRecipe = Field(default_factory=lambda: MethodRecipe.model_validate({}))
    algorithm: AlgorithmRecipe = Field(default_factory=lambda: AlgorithmRecipe.model_validate({}))
    rollout: RolloutRecipe = Field(default_factory=RolloutRecipe)
    optimizer: OptimizerRecipe = Field(default_factory=OptimizerRecipe)
    task: TaskRecipe = Field(default_factory=TaskRecipe)
    steps: int = Field(default=60, ge=1)
    prompts_per_step: int = Field(default=32, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    snapshots: SnapshotRecipe = Field(default_factory=lambda: SnapshotRecipe(every=10))
    checkpoints: CheckpointRecipe = Field(default_factory=CheckpointRecipe)
    evaluation: EvaluationRecipe = Field(default_factory=EvaluationRecipe)
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)

    @property
    def completions_per_step(self) -> int:
        """Completions that one optimizer step learns from."""
        return self.prompts_per_step * self.algorithm.generations

    @model_validator(mode="before")
    @classmethod
    def _learning_rate(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        method, optimizer = value.get("method") or {}, value.get("optimizer") or {}
        if not isinstance(method, Mapping) or not isinstance(optimizer, Mapping):
            return value  # the field validators say what is wrong
        if optimizer.get("learning_rate") is not None:
            return value
        try:
            rate = find_method(str(method.get("name", "lora"))).learning_rate
        except KeyFault:
            return value  # so does the method's own
        return {**value, "optimizer": {**optimizer, "learning_rate": rate}}

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        total, method = self.completions_per_step, find_method(self.method.name)
        if self.micro_batch is not None and total % self.micro_batch:
            parts = f"prompts_per_step × generations = {total}"
            raise KeyFault("micro_batch", f"{self.micro_batch} does not divide {parts}; choose a divisor of it")
        if method.check_steps is not None:
            method.check_steps(self.method, self.steps)
        if method.moves_base and self.algorithm.beta > 0:
            raise KeyFault(
                "algorithm.beta",
                f"must be 0 with {self.method.name}, which moves the base: the reference would be the residual model",
            )
        if (self.snapshots.log_spaced or 0) > self.steps:
            raise KeyFault("snapshots.log_spaced", f"{self.snapshots.log_spaced} is more than steps = {self.steps}")
        if self.evaluation.every is not None and self.task.data is not None and self.task.heldout is None:
            raise KeyFault("evaluation.every", "needs held-out problems; give task.heldout, or set it to null")
        return self


def log_spaced(last: int, count: int) -> list[int]:
    """Return ``count`` different steps in even ratios from 1 to ``last``; needs ``count`` ≤ ``last``.

    >>> log_spaced(100, 5), log_spaced(5, 5), log_spaced(7, 1)
    ([1, 3, 10, 32, 100], [1, 2, 3, 4, 5], [7])
    """
    steps: list[int] = []
    for index in range(count):
        ideal = last ** (index / (count - 1)) if count > 1 else last
        # Early ideals lie closer than one step; moving them up never overshoots, as the ideals are convex in index.
        steps.append(max(round(ideal), steps[-1] + 1 if steps else 1))
    return steps
