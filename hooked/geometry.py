"""Where a model's parts are and how their weights are laid out, for plain, adapter-wrapped and bridged models alike."""

from __future__ import annotations

import copy
import inspect
import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked.decoder import Decoder
from hooked.errors import VestigeError
from hooked.sites import SiteMap, Tap, architecture_adapter, site_map
from hooked.weights import hugging_face_name


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
        takes_position_ids: Whether the native forward accepts `position_ids`.
    """

    model: nn.Module
    root: nn.Module
    sites: SiteMap
    modules: dict[str, nn.Module]
    n_heads: int
    d_head: int
    takes_position_ids: bool

    def weight(self, part: str) -> Tensor:
        """Return the weight of a part outside the blocks (`embed`, `unembed`), `[d_vocab, d_model]`."""
        weight = self.modules[self.sites.weights[part]].weight
        assert_floating(weight, part)
        return weight

    def is_transposed(self, path: str) -> bool:
        """Whether a projection stores `[in, out]` (GPT-2's Conv1D) instead of `[out, in]`."""
        return type(_innermost(self.modules[path])).__name__ == "Conv1D"

    def matrix(self, path: str) -> Float[Tensor, "d_in d_out"]:
        """Return a projection as `[d_in, d_out]`: a view of its parameter, or a copy with adapters merged in."""
        module = self.modules[path]
        base = _innermost(module)
        weight: Tensor = base.weight.detach()
        assert_floating(weight, path)
        if hasattr(module, "get_delta_weight") and not getattr(module, "merged", False) and not module.disable_adapters:
            for adapter in module.active_adapters:
                if adapter in module.lora_A:
                    weight = weight + module.get_delta_weight(adapter).detach().to(weight.dtype)
        return weight if self.is_transposed(path) else weight.T

    def projection(self, layer: int, kind: str) -> Float[Tensor, "d_in d_out"]:
        """Return the weight that computes a site of a block, e.g. `mlp.hook_pre`, also where several share one fused matrix."""
        name = f"blocks.{layer}.{kind}"
        tap = self.sites.fused.get(name)
        if tap is None:
            raise VestigeError(f"no projection computes '{kind}' in layer {layer} of {self.sites.family} (layers are 0 to {self.sites.n_layers - 1})")
        matrix = self.matrix(tap.module)
        return matrix if tap.columns is None else matrix[:, tap.columns]

    @property
    def decoder(self) -> Decoder:
        """The final norm and the unembedding, with the logit scaling and capping of the config."""
        config = self.model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        norm = self.sites.weights.get("ln_final")
        return Decoder(
            norm=self.modules[norm] if norm is not None else None,
            head=self.modules[self.sites.weights["unembed"]],
            scale=(getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0),
            cap=getattr(config, "final_logit_softcapping", None),
        )

    def bridge(self, tokenizer: Any) -> Any:
        """Boot a TransformerBridge around a copy of the native model (booting renames modules in place)."""
        from transformer_lens.model_bridge import TransformerBridge

        if self.root is not self.model:
            raise VestigeError("bridge() needs a plain Hugging Face model; merge the adapter first (peft's merge_and_unload), or use your bridge itself")
        if tokenizer is None:
            raise VestigeError("bridge() needs a tokenizer, because booting one without goes to the network; pass tokenizer= to HookedModel")
        copied, tokenizer = copy.deepcopy(self.model), copy.deepcopy(tokenizer)
        copied.config.architectures = [type(copied).__name__]
        label = str(getattr(copied.config, "_name_or_path", "") or type(copied).__name__)
        # Booting reads both from a tokenizer that was built in memory, and fails or goes to the network without them.
        tokenizer.init_kwargs = {"name_or_path": label, "add_bos_token": tokenizer.bos_token is not None, **tokenizer.init_kwargs}
        tokenizer.name_or_path = tokenizer.name_or_path or label
        with _quiet():
            return TransformerBridge.boot_transformers(
                label, hf_model=copied, tokenizer=tokenizer, device=next(copied.parameters()).device, dtype=next(copied.parameters()).dtype
            )


def geometry_of(model: nn.Module) -> Geometry:
    """Find the parts of a Hugging Face model, a PEFT-wrapped one, or a TransformerBridge.

    Raises:
        VestigeError: The modules were renamed by a bridge and the bridge itself was not given, or the architecture is unknown.
    """
    if hasattr(model, "original_model") and hasattr(model, "hook_dict"):
        return _of_bridge(model)
    if any("_original_component" in name for name, _ in model.named_modules()):
        raise VestigeError("a TransformerBridge was booted around this model and renamed its modules; pass the bridge, or load the model again")
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise VestigeError(f"HookedModel takes a loaded Hugging Face causal language model, got {type(model).__name__}; use HookedModule for other modules")
    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapter = architecture_adapter(root)
    sites = site_map(root, adapter)
    return Geometry(
        model=model,
        root=root,
        sites=sites,
        modules=dict(root.named_modules()),
        n_heads=int(adapter.cfg.n_heads),
        d_head=int(adapter.cfg.d_head),
        takes_position_ids="position_ids" in inspect.signature(root.forward).parameters,
    )


def _of_bridge(bridge: Any) -> Geometry:
    if getattr(bridge, "compatibility_mode", False):
        raise VestigeError("this bridge has folded weights (enable_compatibility_mode), and Vestige reads raw ones; boot it again without that call")
    native = bridge.original_model
    modules: dict[str, nn.Module] = {}
    for name, module in native.named_modules():
        # The innermost module of a chain of wrappers comes last and holds the weights.
        modules[(name + ".").replace("_original_component.", "").rstrip(".")] = module
    inner = dict(bridge.named_modules(remove_duplicate=False))
    blocks = bridge.adapter.component_mapping["blocks"]
    for layer in range(len(bridge.blocks)):
        _add_renamed(modules, inner, f"blocks.{layer}", f"{blocks.name}.{layer}", blocks)
    plain = site_map(native, bridge.adapter, modules=modules)
    natives = {canonical: native_name for native_name, canonical in plain.aliases.items() if ".hook_" in native_name}
    taps = {}
    for name, tap in plain.taps.items():
        path = next((p for p in (natives.get(name), name) if p in inner), None)
        if path is not None:
            taps[name] = Tap(path, "output", d_head=tap.d_head)
    return Geometry(
        model=native,
        root=bridge,
        sites=replace(plain, taps=taps, read_only=frozenset()),
        modules=modules,
        n_heads=int(bridge.cfg.n_heads),
        d_head=int(bridge.cfg.d_head),
        takes_position_ids="position_ids" in inspect.signature(native.forward).parameters,
    )


def _add_renamed(modules: dict[str, nn.Module], inner: dict[str, nn.Module], native: str, path: str, component: Any) -> None:
    """Enter modules that booting moved to another name under the path they had."""
    for name, child in component.submodules.items():
        child_path = f"{path}.{child.name}" if child.name else path
        moved = getattr(inner.get(f"{native}.{name}"), "original_component", None)
        if child_path not in modules and isinstance(moved, nn.Module) and name not in ("q", "k", "v"):
            modules[child_path] = moved
        _add_renamed(modules, inner, f"{native}.{name}", child_path, child)


def assert_floating(weight: Tensor, what: str) -> None:
    """Refuse packed (quantised) or offloaded weights.

    Raises:
        VestigeError: The weight holds no floating point data in memory.
    """
    if not weight.is_floating_point() or weight.is_meta:
        state = "offloaded" if weight.is_meta else f"stored as {weight.dtype}"
        raise VestigeError(f"the weight of '{what}' is {state}; reading weights needs floating point parameters in memory, so load the model unquantised")


def _innermost(module: nn.Module) -> Any:
    return module.base_layer if hasattr(module, "base_layer") else module


class _quiet:
    """Keeps TransformerLens' boot messages out of notebooks."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)


__all__ = ["Geometry", "geometry_of", "hugging_face_name"]
