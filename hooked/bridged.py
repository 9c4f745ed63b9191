"""TransformerLens bridges: booting one around a copy of a model, and reading a user's own through our sites."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from hooked.architecture import site_map
from hooked.errors import VestigeError
from hooked.geometry import Geometry
from hooked.sites import SiteMap, Tap


def boot(geometry: Geometry, tokenizer: Any) -> Any:
    """Boot a TransformerBridge around a copy of the native model, because booting renames modules in place.

    Raises:
        VestigeError: The model is wrapped already, or there is no tokenizer.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if geometry.root is not geometry.model:
        raise VestigeError(
            "bridge() needs a plain Hugging Face model; "
            "merge the adapter first (peft's merge_and_unload), or use your bridge itself"
        )
    if tokenizer is None:
        raise VestigeError(
            "bridge() needs a tokenizer, because booting one without goes to the network; "
            "pass tokenizer= to HookedModel"
        )
    native, tokenizer = copy.deepcopy(geometry.model), copy.deepcopy(tokenizer)
    native.config.architectures = [type(native).__name__]  # type: ignore[union-attr]
    label = str(getattr(native.config, "_name_or_path", "") or type(native).__name__)
    # Booting reads both from a tokenizer that was built in memory, and fails or goes to the network without them.
    known = {"name_or_path": label, "add_bos_token": tokenizer.bos_token is not None}
    tokenizer.init_kwargs = {**known, **tokenizer.init_kwargs}
    tokenizer.name_or_path = tokenizer.name_or_path or label
    first = next(native.parameters())
    with _quiet():
        return TransformerBridge.boot_transformers(
            label, hf_model=native, tokenizer=tokenizer, device=first.device, dtype=first.dtype
        )


def geometry_of_bridge(bridge: Any) -> Geometry:
    """Find the parts of a bridge under the names they had before it was booted.

    Raises:
        VestigeError: The bridge holds folded weights.
    """
    if getattr(bridge, "compatibility_mode", False):
        raise VestigeError(
            "this bridge has folded weights (enable_compatibility_mode), and Vestige reads raw ones; "
            "boot it again without that call"
        )
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
    return Geometry(
        model=native,
        root=bridge,
        sites=replace(plain, taps=_bridge_taps(plain, inner), read_only=frozenset()),
        modules=modules,
        n_heads=int(bridge.cfg.n_heads),
        d_head=int(bridge.cfg.d_head),
        detached=_detached(blocks, len(bridge.blocks), inner),
    )


def _bridge_taps(plain: SiteMap, inner: Mapping[str, nn.Module]) -> dict[str, Tap]:
    """Put every site on the bridge's own hook point; patterns are materialised there."""
    natives: dict[str, str] = {}
    for native, canonical in plain.aliases.items():
        if ".hook_" in native:
            natives.setdefault(canonical, native)
    taps = {}
    for name, tap in plain.taps.items():
        path = next((p for p in (natives.get(name), name) if p in inner), None)
        if path is not None:
            # The hook point at the end of the block, whose input the native block computed.
            carry = f"{name.rsplit('.', 1)[0]}.hook_out" if tap.carry is not None else None
            taps[name] = Tap(path, "output", d_head=tap.d_head, carry=carry)
    return taps | {name: Tap(name, "output") for name in sorted(plain.read_only) if name in inner}


def _detached(blocks: Any, n_layers: int, inner: Mapping[str, nn.Module]) -> frozenset[str]:
    """Name the fused parameters that the bridge split by copying, so that its passes no longer read them."""
    found = set()
    for layer in range(n_layers):
        for name, child in blocks.submodules.items():
            at = f"blocks.{layer}.{name}"
            fused, part = (getattr(inner.get(f"{at}.{role}"), "original_component", None) for role in ("qkv", "q"))
            if not (isinstance(fused, nn.Module) and isinstance(part, nn.Module)):
                continue
            own = {kind: p.untyped_storage().data_ptr() for kind, p in part.named_parameters()}
            path = f"{blocks.name}.{layer}.{child.name}.{child.submodules['qkv'].name}"
            for kind, parameter in fused.named_parameters():
                if own.get(kind) != parameter.untyped_storage().data_ptr():
                    found.add(f"{path}.{kind}")
    return frozenset(found)


def _add_renamed(
    modules: dict[str, nn.Module], inner: Mapping[str, nn.Module], native: str, path: str, component: Any
) -> None:
    """Enter modules that booting moved to another name under the path they had."""
    for name, child in component.submodules.items():
        child_path = f"{path}.{child.name}" if child.name else path
        moved = getattr(inner.get(f"{native}.{name}"), "original_component", None)
        if child_path not in modules and isinstance(moved, nn.Module) and name not in ("q", "k", "v"):
            modules[child_path] = moved
        _add_renamed(modules, inner, f"{native}.{name}", child_path, child)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TransformerLens' boot messages out of notebooks."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
