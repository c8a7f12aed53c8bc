"""AdaLoRA: SVD-like factors whose ranks are pruned during training.

peft leaves three things to its users that a Trainer does not do: the call that prunes after each optimizer step, saving
the scores in checkpoints, and the orthogonality term, which peft adds to a loss that reinforcement learning does not
use.
"""

from typing import Any

from pydantic import Field

from spectra.config import KeyFault, Section
from spectra.training.compat.peft import prune_ranks
from spectra.training.methods.families.lora import LORA_DEFAULTS
from spectra.training.methods.initializations import ADAPTER
from spectra.training.methods.method import Method, RunContext
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import AtMost, each, rank
from spectra.weights.facts import FACTS

_STATE = "adalora"


class AdaloraOptions(Section):
    """Options of AdaLoRA, named as in peft.

    Attributes
    ----------
    init_r
        Initial rank of every module; null takes 1.5 r.
    tinit
        Steps before pruning begins; null takes a tenth of the steps.
    tfinal
        Steps after pruning ends; null takes a third of the steps.
    deltaT
        Steps between prunings.
    beta1, beta2
        Smoothing of importance and of its uncertainty.
    orth_reg_weight
        Weight of the mean ‖P·Pᵀ − I‖_F over the factors, added to the loss; 0 disables it.
    """

    init_r: int | None = Field(default=None, ge=2)
    tinit: int | None = Field(default=None, ge=0)
    tfinal: int | None = Field(default=None, ge=0)
    deltaT: int = Field(default=1, ge=1)
    beta1: float = Field(default=0.85, gt=0, lt=1)
    beta2: float = Field(default=0.85, gt=0, lt=1)
    orth_reg_weight: float = Field(default=0.5, ge=0)


def initial_rank(recipe: MethodRecipe) -> int:
    """Return the rank of every module before pruning."""
    given = recipe.options["init_r"]
    return int(given) if given is not None else rank(recipe) + (rank(recipe) + 1) // 2


def schedule(recipe: MethodRecipe, steps: int) -> tuple[int, int]:
    """Return the last step before pruning begins, and the number of steps after it ends."""
    first, last = recipe.options["tinit"], recipe.options["tfinal"]
    return (steps // 10 if first is None else int(first)), (steps // 3 if last is None else int(last))


def check_schedule(recipe: MethodRecipe, steps: int) -> None:
    """Raise :class:`KeyFault` if nothing can be pruned, or no step is left for pruning."""
    first, last = schedule(recipe, steps)
    if initial_rank(recipe) <= rank(recipe):
        raise KeyFault(
            "method.options.init_r", f"must be more than the target rank r = {rank(recipe)}, got {initial_rank(recipe)}"
        )
    if steps - last < 2:
        fault = f"of {steps} steps, {last} after pruning leave fewer than two for pruning; train longer or lower tfinal"
        raise KeyFault("method.options.tfinal", fault)
    if first >= steps - last:
        fault = f"pruning would start after step {first} and end at step {steps - last}; lower tinit or tfinal"
        raise KeyFault("method.options.tinit", fault)


def adalora_config(recipe: MethodRecipe, context: RunContext) -> Any:
    """Return peft's configuration, with a pruning schedule for the steps of the run."""
    from peft import AdaLoraConfig

    first, last = schedule(recipe, context.steps)
    options = {**recipe.options, "init_r": initial_rank(recipe), "tinit": first, "tfinal": last}
    return AdaLoraConfig(
        target_r=recipe.r,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=recipe.target_modules,
        total_step=context.steps,
        task_type="CAUSAL_LM",
        **options,
    )


def allocate(model: Any, optimizer: Any, step: int) -> None:
    """Update importance scores and prune to the step's budget, before gradients are cleared.

    Scores and masks are kept in the optimizer's state, so that its checkpoints include them.
    """
    prune_ranks(model.base_model, ADAPTER, step, optimizer.state[_STATE])


def orthogonality(model: Any, recipe: MethodRecipe) -> Any:
    """Return ``orth_reg_weight`` times the mean of ‖A·Aᵀ − I‖_F and ‖Bᵀ·B − I‖_F over the modules."""
    import torch

    gaps = []
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            rows = parameter if ".lora_A." in name else parameter.T
            gaps.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device)))
    return recipe.options["orth_reg_weight"] * torch.stack(gaps).mean()


ADALORA = Method(
    FACTS["adalora"],
    trains="A (k, in), a diagonal E (k,) and B (out, k) of each target module; k falls from init_r to r on average",
    defaults=LORA_DEFAULTS,
    options=AdaloraOptions,
    config=adalora_config,
    rules=(AtMost("r"),),
    size=each(lambda recipe, out, inner: initial_rank(recipe) * (out + inner + 1)),
    learning_rate=3e-2,
    after_step=allocate,
    penalty=orthogonality,
    check_steps=check_schedule,
    notes=(
        "a snapshot has all init_r directions, the pruned ones with E = 0",
        "E starts at 0 and s is divided by init_r: it needs a larger learning rate than LoRA",
    ),
)

METHODS = (ADALORA,)
