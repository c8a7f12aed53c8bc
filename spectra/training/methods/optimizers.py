"""Method-specific optimizers."""

from typing import Any

from spectra.training.methods.recipe_section import MethodRecipe


def lora_plus(model: Any, recipe: MethodRecipe, optimizer: Any) -> Any:
    """Return AdamW with a learning rate for B that is ``ratio`` times that of A (LoRA+).

    Parameters
    ----------
    model
        A LoRA model.
    recipe
        The method's section.
    optimizer
        The recipe's optimizer section.
    """
    from peft.optimizers import create_loraplus_optimizer
    from torch.optim import AdamW

    return create_loraplus_optimizer(
        model,
        AdamW,
        lr=optimizer.learning_rate,
        loraplus_lr_ratio=recipe.options["ratio"],
        loraplus_weight_decay=optimizer.weight_decay,
        betas=tuple(optimizer.betas),
        eps=optimizer.epsilon,
    )


def lora_fa(model: Any, recipe: MethodRecipe, optimizer: Any) -> Any:
    """Return Adam on B's gradient times (A·Aᵀ)⁻¹/s², the step of B that best approximates a step of B·A (LoRA-FA).

    Parameters are those of :func:`lora_plus`.
    """
    from peft.optimizers import create_lorafa_optimizer

    made = create_lorafa_optimizer(
        model, recipe.r, recipe.alpha, lr=optimizer.learning_rate, weight_decay=optimizer.weight_decay
    )
    for group in made.param_groups:
        group.update(betas=tuple(optimizer.betas), eps=optimizer.epsilon)
    return made
