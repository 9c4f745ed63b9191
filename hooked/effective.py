"""Weights as the forward pass uses them: through adapter wrappers, and only where they can be read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hooked.errors import VestigeError


def innermost(module: nn.Module) -> Any:
    """Return the layer inside adapter wrappers, which holds the weight."""
    base = getattr(module, "base_layer", None)
    return innermost(base) if isinstance(base, nn.Module) else module


def is_transposed(module: nn.Module) -> bool:
    """Whether a projection stores `[in, out]` (GPT-2's Conv1D) instead of `[out, in]`."""
    return type(innermost(module)).__name__ == "Conv1D"


def effective_weight(module: nn.Module, what: str) -> Tensor:
    """Return a module's weight with its active adapters merged in: the parameter itself where there are none.

    Args:
        module: A linear layer or embedding, plain or wrapped by PEFT.
        what: Its name, for errors.

    Raises:
        VestigeError: The weight is packed, offloaded, or changed by an adapter that adds no plain delta.
    """
    weight: Tensor = innermost(module).weight.detach()
    assert_floating(weight, what)
    for adapter in _unmerged(module):
        # DoRA, a variant of LoRA, rescales the sum of weight and delta, and IA3 rescales activations.
        if not hasattr(module, "get_delta_weight") or adapter in getattr(module, "lora_variant", {}):
            raise VestigeError(
                f"the adapter '{adapter}' ({type(module).__name__}) on '{what}' is not a plain weight delta; "
                "merge it first (peft's merge_and_unload)"
            )
        delta: Tensor = module.get_delta_weight(adapter).detach()  # type: ignore[operator]
        weight = weight + delta.to(weight.dtype)
    return weight


def _unmerged(module: Any) -> list[str]:
    """Name the adapters that act on a wrapped layer's output in addition to its weight."""
    if innermost(module) is module or not hasattr(module, "active_adapters"):
        return []
    if module.disable_adapters or module.merged:
        return []
    return [a for a in module.active_adapters if any(a in getattr(module, n) for n in module.adapter_layer_names)]


def assert_floating(weight: Tensor, what: str) -> None:
    """Refuse packed (quantised) or offloaded weights.

    Raises:
        VestigeError: The weight holds no floating point data in memory.
    """
    if not weight.is_floating_point() or weight.is_meta:
        state = "offloaded" if weight.is_meta else f"stored as {weight.dtype}"
        raise VestigeError(
            f"the weight of '{what}' is {state}; "
            "reading weights needs floating point parameters in memory, so load the model unquantised"
        )
