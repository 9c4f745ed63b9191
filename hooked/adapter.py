"""Low-rank adapters on a copy of a model, and the weight deltas that they come to."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hooked.errors import VestigeError
from hooked.intervention import View
from hooked.model import HookedModel
from hooked.seeded import seeded
from hooked.weights import Delta, LowRankDelta, WeightPatch, hugging_face_name


def adapted(
    model: HookedModel,
    *,
    layers: Sequence[int],
    rank: int,
    scale: float,
    seed: int,
    chooser: Callable[[str], bool] | None = None,
) -> tuple[HookedModel, list[nn.Parameter]]:
    """Return a copy of a model with an adapter on every projection of some blocks, and the adapters' parameters.

    The copy runs in eval mode and, if the model is narrower, in float32. At first it computes what the model does.

    Args:
        model: Not changed. A view stays one: what else it does to the model, it does to the copy.
        layers: Blocks, from 0.
        rank: Of each adapter.
        scale: Factor on what an adapter adds.
        seed: Of its initial weights.
        chooser: Which projections get one, by the Hugging Face name of their weight; all when not given.

    Raises:
        VestigeError: A layer does not exist, `chooser` picks no projection there, or the weights are quantised or
            offloaded.
    """
    from peft import LoraConfig, get_peft_model

    if hasattr(model.model, "get_base_model"):
        raise VestigeError("this model carries an adapter already; merge it first (peft's merge_and_unload)")
    if rank < 1:
        raise VestigeError(f"rank is at least 1, got {rank}")
    # A copy made in inference mode could not be trained.
    with torch.inference_mode(False):
        plain = copy.deepcopy(model.model)
    if any(p.is_meta or not p.is_floating_point() for p in plain.parameters()):
        raise VestigeError("training needs floating point weights in memory; load the model unquantised")
    if any(p.dtype in (torch.bfloat16, torch.float16) for p in plain.parameters()):
        plain.float()
    offered = _projections(model, layers)
    paths = [path for path in offered if chooser is None or chooser(f"{path}.weight")]
    if not paths:
        raise VestigeError(
            f"no projection of blocks {list(layers)} gets an adapter; choose some of {', '.join(offered)} (.weight)"
        )
    transposed = any(type(plain.get_submodule(path)).__name__ == "Conv1D" for path in paths)
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # type: ignore[arg-type]
        target_modules=paths,
        lora_dropout=0.0,
        fan_in_fan_out=transposed,
    )
    # Peft draws on the CPU.
    with seeded(seed), warnings.catch_warnings():
        # Peft asks for a property that transformers renamed.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(plain, config)
    wrapped.eval()
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    student = HookedModel(wrapped, model.tokenizer, default_prepend_bos=model.default_prepend_bos)
    return model.over(student) if isinstance(model, View) else student, trained


def _projections(model: HookedModel, layers: Sequence[int]) -> list[str]:
    found: list[str] = []
    for layer in layers:
        model.block_part(layer, "mlp.out")
        for role, path in model.site_map.weights.items():
            if not role.startswith(f"blocks.{layer}."):
                continue
            weight = getattr(model.model.get_submodule(path), "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == 2 and path not in found:
                found.append(path)
    if not found:
        raise VestigeError("adapters need at least one block; pass layers=[...]")
    return found


def adapter_patch(student: HookedModel) -> WeightPatch:
    """Return what the adapters of a copy add to the weights of the original."""
    deltas: dict[str, Delta] = {}
    for name, module in student.model.named_modules():
        parts: Any = module
        if not (hasattr(module, "lora_A") and "default" in parts.lora_A):
            continue
        right = parts.lora_A["default"].weight.detach().cpu()
        left = parts.scaling["default"] * parts.lora_B["default"].weight.detach().cpu()
        # GPT-2 stores its projections as [in, out].
        delta = LowRankDelta(right.T, left.T) if parts.fan_in_fan_out else LowRankDelta(left, right)
        deltas[hugging_face_name(f"{name}.weight")] = LowRankDelta(delta.left.contiguous(), delta.right.contiguous())
    return WeightPatch(deltas)
