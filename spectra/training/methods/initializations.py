"""Initializations of LoRA factors that peft leaves to its users, or does not have.

With s the scaling, W = U·diag(σ)·Vᵀ the base weight, σ in decreasing order, and C = XᵀX, scaled to a mean diagonal of
1, of the layer's inputs X on the task's prompts:

- MiLoRA: B₀ = U_r·√(σ_r/s), A₀ = √(σ_r/s)·V_rᵀ from the r smallest singular triplets; the base becomes W − s·B₀A₀.
- MiLoRA+: A₀ = V_rᵀ of the r smallest, B₀ = 0; the base is unchanged.
- EVA: A₀ = the r leading right singular vectors of X, B₀ = 0; the base is unchanged.
- CorDA: B₀ = U_r·√(σ_r/s), A₀ = √(σ_r/s)·V_rᵀ·C⁻¹ from the r leading triplets of W·C; the base becomes W − s·B₀A₀.
"""

from typing import Any

from spectra.training.methods.method import InitializationContext

ADAPTER = "default"
DAMPING = 0.01  # added to the diagonal of C, whose mean is 1; C of a few prompts is singular


def smallest_triplets(policy: Any, context: InitializationContext) -> None:
    """Set each layer's factors to the r smallest singular triplets of its base weight (MiLoRA)."""
    for layer in _lora_layers(policy):
        left, sigma, right = _decomposed(_base_weight(layer))
        r = layer.r[ADAPTER]
        _set_factors(layer, left[:, -r:], sigma[-r:], right[-r:])


def smallest_right_vectors(policy: Any, context: InitializationContext) -> None:
    """Set each layer's A to the r smallest right singular vectors of its base weight; B stays 0 (MiLoRA+)."""
    for layer in _lora_layers(policy):
        _set(layer.lora_A, _decomposed(_base_weight(layer))[2][-layer.r[ADAPTER] :])


def freeze_a(policy: Any, context: InitializationContext) -> None:
    """Freeze A at its random initialization; only B trains (LoRA-FA)."""
    for layer in _lora_layers(policy):
        layer.lora_A[ADAPTER].weight.requires_grad_(False)


def leading_inputs(policy: Any, context: InitializationContext) -> None:
    """Set each layer's A to the leading right singular vectors of its inputs on the task's prompts (EVA)."""
    import torch

    for layer, gram in _input_grams(policy, context):
        vectors = torch.linalg.eigh(gram).eigenvectors  # in increasing order of eigenvalues
        _set(layer.lora_A, vectors.flip(1)[:, : layer.r[ADAPTER]].T)


def covariance_triplets(policy: Any, context: InitializationContext) -> None:
    """Set each layer's factors to the leading triplets of its base weight, weighted by its inputs (CorDA)."""
    import torch

    for layer, gram in _input_grams(policy, context):
        r, weight = layer.r[ADAPTER], _base_weight(layer)
        gram = gram / gram.diagonal().mean()  # so that neither factor is much larger than the other
        damped = gram + DAMPING * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        left, sigma, right = _decomposed(weight @ damped)
        _set_factors(layer, left[:, :r], sigma[:r], torch.linalg.solve(damped, right[:r].T).T)


def _lora_layers(policy: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in policy.modules() if isinstance(module, LoraLayer)]


def _base_weight(layer: Any) -> Any:
    return layer.get_base_layer().weight.detach().double()


def _decomposed(matrix: Any) -> tuple[Any, Any, Any]:
    import torch

    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, sigma, right


def _set_factors(layer: Any, left: Any, sigma: Any, right: Any) -> None:
    root = (sigma / layer.scaling[ADAPTER]).sqrt()
    _set(layer.lora_A, root[:, None] * right)
    _set(layer.lora_B, left * root)


def _set(factors: Any, value: Any) -> None:
    import torch

    with torch.no_grad():
        factors[ADAPTER].weight.copy_(value)


def _input_grams(policy: Any, context: InitializationContext) -> list[tuple[Any, Any]]:
    """Return each layer with C of its inputs in float64."""
    import torch

    grams: dict[Any, Any] = {}

    def watch(layer: Any, inputs: Any) -> None:
        rows = inputs[0].detach().double().flatten(end_dim=-2)
        grams[layer] = grams.get(layer, 0) + rows.T @ rows

    handles = [layer.register_forward_pre_hook(watch) for layer in _lora_layers(policy)]
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            for batch in context.prompts(context.recipe.options["prompts"]):
                policy(**batch)
    finally:
        policy.train(training)
        for handle in handles:
            handle.remove()
    return list(grams.items())
