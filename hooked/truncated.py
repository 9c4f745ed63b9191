"""A second model made of the first one: its first blocks, sharing every weight that is not changed."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from hooked.errors import VestigeError
from hooked.ledger import patched
from hooked.model import HookedModel
from hooked.weights import WeightPatch, hugging_face_name, parameters_of

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def truncated(model: HookedModel, n_layers: int | None = None, *, patch: WeightPatch | None = None) -> HookedModel:
    """Return a model of the first blocks of another, with its embeddings, final norm and unembedding.

    It shares the other's parameters and buffers, so it takes no memory for them and later changes of those reach both.
    Parameters that `patch` names are its own: what the other holds now, plus the delta. Nobody's hooks are taken over.

    Args:
        model: Not changed; of a view only the weights in force now count.
        n_layers: How many blocks are kept; all when not given.
        patch: Deltas of parameters of the kept part.

    Raises:
        VestigeError: There are not so many blocks, the patch does not fit, or the model is a TransformerLens bridge.
    """
    total = model.n_layers
    kept = total if n_layers is None else n_layers
    if not 1 <= kept <= total:
        raise VestigeError(f"n_layers is 1 to {total} for a model of {total} blocks, got {kept}")
    if any("_original_component" in name for name, _ in model.model.named_modules()):
        raise VestigeError(
            "the blocks of a TransformerBridge cannot be cut off; pass the Hugging Face model it was booted from"
        )
    copied = _sharing_copy(model.model, patch)
    if kept < total:
        _cut(copied, model.site_map.tap("blocks.0.hook_resid_post").module.removesuffix(".0"), kept, total)
    if patch is not None:
        _change(copied, patch)
    return HookedModel(copied, model.tokenizer, default_prepend_bos=model.default_prepend_bos)


def _sharing_copy(model: nn.Module, patch: WeightPatch | None) -> nn.Module:
    """Copy the modules alone; a tensor that the patch names is copied once, however many names it has."""
    own = {id(tensor) for tensor in _named(model, patch).values()}
    tensors = (*model.parameters(), *model.buffers())
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})
    for module in copied.modules():
        for hooks in _HOOKS:
            vars(module)[hooks] = type(vars(module)[hooks])()
        # Transformers notes here that it put hooks of its own in place, which it now has to do again.
        vars(module).pop("_output_capturing_hooks_installed", None)
    return copied


def _named(model: nn.Module, patch: WeightPatch | None) -> dict[str, Tensor]:
    """Return the tensors that a patch names; names that do not exist are left to the ledger, which refuses them."""
    names = {} if patch is None else patch.deltas
    everything: dict[str, Tensor] = {hugging_face_name(name): buffer for name, buffer in model.named_buffers()}
    everything.update(parameters_of(model))
    return {name: everything[name] for name in names if name in everything}


def _change(model: nn.Module, patch: WeightPatch) -> None:
    """Add deltas for good, with the rounding of a patch in force."""
    tensors = _named(model, patch)
    with patched(model, patch):
        values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        tensor.data.copy_(values[name])


def _cut(model: Any, path: str, kept: int, total: int) -> None:
    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    del root.get_submodule(path)[kept:]
    config = root.config.get_text_config() if hasattr(root.config, "get_text_config") else root.config
    # Lists with one entry per block decide, among others, how many layers a KV cache has.
    lists = {name: value for name, value in vars(config).items() if isinstance(value, list | tuple)}
    for name, value in lists.items():
        if len(value) == total and ("layer" in name or "block" in name):
            setattr(config, name, value[:kept])
    config.num_hidden_layers = kept
