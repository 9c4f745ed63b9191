"""Where a model's parts are and how their weights are laid out, for plain, adapter-wrapped and bridged models alike."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked.architecture import architecture_adapter, site_map
from hooked.decoder import Decoder
from hooked.effective import effective_weight, innermost, is_transposed
from hooked.errors import VestigeError
from hooked.sites import SiteMap


@dataclass(frozen=True)
class Geometry:
    """The fixed facts of one wrapped model.

    Args:
        model: What is called for a forward pass.
        root: What tap paths are relative to (the model itself, the base model of a PEFT wrapper, or a bridge).
        sites: All sites.
        modules: Hugging Face module path to the module that holds the weights.
        n_heads: Query heads per block.
        d_head: Width of one head.
        detached: Parameters that a bridge replaced by copies of its own, so that changing them changes nothing.
    """

    model: nn.Module
    root: nn.Module
    sites: SiteMap
    modules: dict[str, nn.Module]
    n_heads: int
    d_head: int
    detached: frozenset[str] = frozenset()

    @property
    def config(self) -> Any:
        """The Hugging Face config of the text model."""
        config: Any = self.model.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def takes_position_ids(self) -> bool:
        """Whether the native forward accepts `position_ids`."""
        native = self.root if self.root is not self.model and hasattr(self.model, "get_base_model") else self.model
        return "position_ids" in inspect.signature(native.forward).parameters

    @property
    def embedding(self) -> Tensor:
        """The embedding parameter itself, wherever it is."""
        weight: Tensor = innermost(self.modules[self.sites.weights["embed"]]).weight
        return weight

    @property
    def device(self) -> torch.device:
        """Where ids go: the device of the embedding, or the one it is brought to when it is offloaded."""
        offload = getattr(self.modules[self.sites.weights["embed"]], "_hf_hook", None)
        if self.embedding.is_meta and offload is not None:
            return torch.device(offload.execution_device)
        return self.embedding.device

    def weight(self, part: str) -> Tensor:
        """Return the weight of a part outside the blocks (`embed`, `unembed`), `[d_vocab, d_model]`."""
        path = self.sites.weights[part]
        return effective_weight(self.modules[path], path)

    def is_transposed(self, path: str) -> bool:
        """Whether a projection stores `[in, out]` (GPT-2's Conv1D) instead of `[out, in]`."""
        return is_transposed(self.modules[path])

    def matrix(self, path: str) -> Float[Tensor, "d_in d_out"]:
        """Return a projection as `[d_in, d_out]`: a view of its parameter, or a copy with adapters merged in."""
        weight = effective_weight(self.modules[path], path)
        return weight if self.is_transposed(path) else weight.T

    def projection(self, layer: int, role: str, kind: str) -> Float[Tensor, "d_in d_out"]:
        """Return the weight that computes a site of a block, also where several projections share one fused matrix.

        Args:
            layer: Block; negative layers count from the end.
            role: What the part is called, for errors.
            kind: Kind of site, e.g. `mlp.hook_pre`.
        """
        tap = self.sites.fused.get(f"blocks.{layer % self.sites.n_layers}.{kind}")
        if tap is None or not -self.sites.n_layers <= layer < self.sites.n_layers:
            path = self.sites.part(layer, role)
            raise VestigeError(f"'{path}' of {self.sites.family} does not compute '{kind}' for every token")
        matrix = self.matrix(tap.module)
        return matrix if tap.columns is None else matrix[:, tap.columns]

    @property
    def decoder(self) -> Decoder:
        """The final norm and the unembedding, with the logit scaling and capping of the config."""
        config, norm = self.config, self.sites.weights.get("ln_final")
        return Decoder(
            norm=self.modules[norm] if norm is not None else None,
            head=self.modules[self.sites.weights["unembed"]],
            scale=(getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0),
            cap=getattr(config, "final_logit_softcapping", None),
        )


def geometry_of(model: Any) -> Geometry:
    """Find the parts of a Hugging Face model, a PEFT-wrapped one, or a TransformerBridge.

    Raises:
        VestigeError: It is none of these, its modules were renamed by a bridge and the bridge itself was not given, or
            the architecture is unknown.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise VestigeError(
            f"HookedModel takes a loaded Hugging Face causal language model, got {type(model).__name__}; "
            "load one with HookedModel.from_pretrained(id_or_path), or use HookedModule for other modules"
        )
    if hasattr(model, "original_model") and hasattr(model, "hook_dict"):
        from hooked.bridged import geometry_of_bridge

        return geometry_of_bridge(model)
    if any("_original_component" in name for name, _ in model.named_modules()):
        raise VestigeError(
            "a TransformerBridge was booted around this model and renamed its modules; "
            "pass the bridge, or load the model again"
        )
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        raise VestigeError("hooks do not reach into a compiled model; pass the model as it was before torch.compile")
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise VestigeError("prompt-learning adapters add positions of their own; only weight adapters can be hooked")
    base: Any = getattr(model, "get_base_model", None)
    root: nn.Module = model if base is None else base()
    adapter = architecture_adapter(root)
    return Geometry(
        model=model,
        root=root,
        sites=site_map(root, adapter),
        modules=dict(root.named_modules()),
        n_heads=int(adapter.cfg.n_heads),
        d_head=int(adapter.cfg.d_head),
    )
