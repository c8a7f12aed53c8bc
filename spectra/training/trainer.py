"""The recipe in TRL's words: a ``GRPOTrainer`` with every default that matters overridden."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from spectra.runs.layout import RunLayout
from spectra.training.callbacks import Callback
from spectra.training.data import training_dataset
from spectra.training.model import Policy
from spectra.training.recipe import Recipe
from spectra.training.rewards import boxed_answer_reward

REFERENCE = "ref"  # the adapter that TRL adds for the KL divergence


def build_trainer(recipe: Recipe, policy: Policy, layout: RunLayout, callbacks: Sequence[Callback]) -> Any:
    """Return the trainer of a run; ``train`` on it does the work."""
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOTrainer

    trainer = GRPOTrainer(
        model=policy.model,
        reward_funcs=[boxed_answer_reward],
        args=_arguments(recipe, layout),
        train_dataset=training_dataset(recipe),
        processing_class=policy.tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    if REFERENCE in getattr(policy.model, "peft_config", {}):
        # Without it TRL takes the base, adapter off, as reference: the same model, as every adapter that may have
        # beta > 0 starts at ΔW = 0. With it a resumed Trainer loads the reference's weights and not the policy's.
        policy.model.delete_adapter(REFERENCE)
    return trainer


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries' own bars and notes while a run trains; errors stay."""
    import datasets
    import transformers

    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    data_bars = datasets.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()


def _arguments(recipe: Recipe, layout: RunLayout) -> Any:
    import torch
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(layout.checkpoints),
        use_cpu=not torch.cuda.is_available(),
        bf16=recipe.model.dtype == "bfloat16",
        gradient_checkpointing=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a NaN loss by the average so far
        seed=recipe.seed,
        max_steps=recipe.steps,
        # Each row of the dataset is one prompt of one step, in the order to train on: see `training_dataset`.
        shuffle_dataset=False,
        per_device_train_batch_size=recipe.completions_per_step // recipe.accumulation,
        gradient_accumulation_steps=recipe.accumulation,
        num_iterations=1,
        **_objective(recipe),
        **_optimization(recipe),
        **_checkpoints(recipe),
    )


def _objective(recipe: Recipe) -> dict[str, Any]:
    algorithm = recipe.algorithm
    return {
        "loss_type": algorithm.name,
        "epsilon": algorithm.epsilon_low,
        "epsilon_high": algorithm.epsilon_high,
        "beta": algorithm.beta,
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
