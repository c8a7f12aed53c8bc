"""Recipe of a training run: strict and complete.

The defaults suit the base model that ships with spectra: 60 steps of 32 prompts × 8 completions take about a minute.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from spectra.config import NAME_PATTERN, KeyFault, Section
from spectra.training.methods import MethodRecipe, find_method
from spectra.training.recipe.optimization import AlgorithmRecipe, ModelRecipe, OptimizerRecipe
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.recipe.schedules import CheckpointRecipe, EvaluationRecipe, SnapshotRecipe
from spectra.training.recipe.task import TaskRecipe


class Recipe(Section):
    """Recipe of one training run.

    Attributes
    ----------
    name
        Name of the run, used in the default output directory.
    model, method, algorithm, rollout, optimizer, task, snapshots, checkpoints, evaluation
        Sections, documented in their classes.
    steps
        Optimizer steps.
    prompts_per_step
        Prompts per step; each gets ``algorithm.generations`` completions.
    micro_batch
        Completions per forward pass on each process; null takes all of the step at once. Fewer need less memory.
    seed
        Seed of adapter initialization, prompt order and sampling.
    report_to
        Additional loggers: ``tensorboard`` (files under ``checkpoints/runs``), ``wandb``, ``trackio``.
    """

    name: str = Field(default="run", pattern=NAME_PATTERN)
    model: ModelRecipe = Field(default_factory=ModelRecipe)
    method: MethodRecipe = Field(default_factory=lambda: MethodRecipe.model_validate(resolve_method({})))
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
        """Completions per optimizer step."""
        return self.prompts_per_step * self.algorithm.generations

    @field_validator("method", mode="before")
    @classmethod
    def _complete_method(cls, value: Any) -> Any:
        return resolve_method(value)

    @model_validator(mode="before")
    @classmethod
    def _learning_rate(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        method, optimizer = value.get("method") or {}, value.get("optimizer") or {}
        if not isinstance(method, Mapping) or not isinstance(optimizer, Mapping):
            return value  # the field validators report it
        if optimizer.get("learning_rate") is not None:
            return value
        try:
            rate = find_method(str(method.get("name", "lora"))).learning_rate
        except KeyFault:
            return value  # the method's validator reports it
        return {**value, "optimizer": {**optimizer, "learning_rate": rate}}

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        total, method = self.completions_per_step, find_method(self.method.name)
        if self.micro_batch is not None and total % self.micro_batch:
            parts = f"prompts_per_step × generations = {total}"
            raise KeyFault("micro_batch", f"{self.micro_batch} does not divide {parts}; choose a divisor")
        if method.check_steps is not None:
            method.check_steps(self.method, self.steps)
        if method.facts.moves_base and self.algorithm.beta > 0:
            raise KeyFault(
                "algorithm.beta",
                f"must be 0 with {self.method.name}, which moves the base: the reference would be the residual model",
            )
        if (self.snapshots.log_spaced or 0) > self.steps:
            raise KeyFault(
                "snapshots.log_spaced", f"must be at most {self.steps} steps, got {self.snapshots.log_spaced}"
            )
        if self.evaluation.every is not None and self.task.data is not None and self.task.heldout is None:
            raise KeyFault("evaluation.every", "needs held-out problems; give task.heldout, or set it to null")
        return self


def resolve_method(value: Any) -> Any:
    """Return a recipe's method section, completed with the defaults of the method.

    Raises
    ------
    KeyFault
        For an unknown method, or a key that it does not take.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("name", "lora"), str):
        return value  # the field validators report it
    return find_method(value.get("name", "lora")).resolve(value)
