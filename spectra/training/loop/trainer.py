"""Build TRL's ``GRPOTrainer`` from a recipe, with every relevant default set explicitly."""

from collections.abc import Sequence
from typing import Any

from spectra.runs.layout import RunLayout
from spectra.training.compat.transformers import use_one_device
from spectra.training.compat.trl import SharedWork, set_beta
from spectra.training.data.dataset import training_dataset, training_problems
from spectra.training.distributed.processes import Batch, divide, on_cpu
from spectra.training.loop.callbacks import Callback
from spectra.training.loop.dynamic_sampling import DynamicSampling
from spectra.training.loop.report_to import report_last
from spectra.training.methods import Method, find_method
from spectra.training.policy.policy import Policy
from spectra.training.recipe.recipe import Recipe
from spectra.training.rewards.rewards import boxed_answer_reward, format_reward
from spectra.training.sampling.rollout import prepare_sampler, rollout_arguments


def build_trainer(
    recipe: Recipe, policy: Policy, layout: RunLayout, callbacks: Sequence[Callback], processes: int = 1
) -> Any:
    """Return the trainer of a run with ``processes`` processes; call its ``train``."""
    from transformers.trainer_callback import PrinterCallback

    method = find_method(recipe.method.name)
    prepare_sampler(recipe.rollout, policy.model, policy.tokenizer, policy.base)
    optimizer = None if method.optimizer is None else method.optimizer(policy.model, recipe.method, recipe.optimizer)
    trainer = _trainer_class(method, recipe)(
        model=policy.model,
        reward_funcs=_rewards(recipe),
        args=_arguments(recipe, layout, divide(recipe, processes)),
        train_dataset=training_dataset(recipe),
        processing_class=policy.tokenizer,
        callbacks=list(callbacks),
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    set_beta(trainer, recipe.algorithm.beta)
    report_last(trainer, recipe.report_to)
    for callback in callbacks:
        callback.trainer = trainer
    return trainer


def _trainer_class(method: Method, recipe: Recipe) -> type[Any]:
    """Return TRL's trainer, with dynamic sampling and the method's penalty in its loss if needed."""
    from trl import GRPOTrainer

    parent: type[Any] = type("SharedTrainer", (SharedWork, GRPOTrainer), {})
    rounds = recipe.algorithm.dynamic_rounds
    if rounds is not None:
        problems = [{"prompt": p.prompt, "answer": p.answer} for p in training_problems(recipe.task)]
        settings = {"rounds": rounds, "problems": problems, "sampling_seed": recipe.seed}
        settings["step_prompts"] = recipe.prompts_per_step
        parent = type("DynamicTrainer", (DynamicSampling, parent), settings)
    if method.penalty is None:
        return parent
    term = method.penalty

    class PenalizedTrainer(parent):  # type: ignore[misc]  # the base class is only known at run time
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            # Each forward pass of a step adds its share, as TRL's own terms do.
            return loss + term(model, recipe.method) / self.current_gradient_accumulation_steps

    return PenalizedTrainer


def _rewards(recipe: Recipe) -> list[Any]:
    """Return the reward functions: correctness first, then the format, then the overlong penalty."""
    from trl.rewards import get_soft_overlong_punishment

    algorithm, task = recipe.algorithm, recipe.task
    functions: list[Any] = [boxed_answer_reward]
    if task.format_weight:
        functions.append(format_reward(task.format_weight))
    if algorithm.overlong_buffer is not None:
        functions.append(get_soft_overlong_punishment(algorithm.max_completion_length, algorithm.overlong_buffer))
    return functions


def _arguments(recipe: Recipe, layout: RunLayout, batch: Batch) -> Any:
    from trl import GRPOConfig

    arguments = GRPOConfig(
        output_dir=str(layout.checkpoints),
        use_cpu=on_cpu(),
        bf16=recipe.model.dtype == "bfloat16",
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        dataloader_pin_memory=not on_cpu(),
        report_to=recipe.report_to or "none",
        run_name=recipe.name,
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,  # True would replace a NaN loss by the running average
        seed=recipe.seed,
        max_steps=recipe.steps,
        # Each row of the dataset is one prompt of one step, in training order: see `training_dataset`.
        shuffle_dataset=False,
        per_device_train_batch_size=batch.per_device,
        gradient_accumulation_steps=batch.accumulation,
        num_iterations=1,
        **_objective(recipe),
        **rollout_arguments(recipe.rollout),
        **_optimization(recipe),
        **_checkpoints(recipe),
    )
    use_one_device(arguments)
    return arguments


def _objective(recipe: Recipe) -> dict[str, Any]:
    algorithm = recipe.algorithm
    return {
        # GSPO is GRPO's loss with one ratio per sequence.
        "loss_type": "grpo" if algorithm.name == "gspo" else algorithm.name,
        "importance_sampling_level": "sequence" if algorithm.name in ("gspo", "luspo") else "token",
        "epsilon": algorithm.epsilon_low,
        "epsilon_high": algorithm.epsilon_high,
        # For an adapter it is set later, see `set_beta`.
        "beta": algorithm.beta if recipe.method.name == "full" else 0.0,
        "scale_rewards": algorithm.scale_rewards,
        "num_generations": algorithm.generations,
        "temperature": algorithm.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "max_completion_length": algorithm.max_completion_length,
        "mask_truncated_completions": algorithm.mask_truncated,
    }


def _optimization(recipe: Recipe) -> dict[str, Any]:
    optimizer = recipe.optimizer
    return {
        "optim": "adamw_torch",
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if optimizer.schedule == "constant" else optimizer.schedule,
        "warmup_steps": optimizer.warmup,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.epsilon,
        "max_grad_norm": optimizer.max_grad_norm,
    }


def _checkpoints(recipe: Recipe) -> dict[str, Any]:
    if recipe.checkpoints.every is None:
        return {"save_strategy": "no"}
    return {
        "save_strategy": "steps",
        "save_steps": recipe.checkpoints.every,
        "save_total_limit": recipe.checkpoints.keep,
    }
