"""Finding the sites of a model on its untouched Hugging Face modules.

TransformerLens maps more than a hundred architectures to components, and each component says under which legacy name
its input and output are known. This file follows those aliases to the Hugging Face module that computes the tensor, so
that no second table of names exists.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hooked.effective import innermost, is_transposed
from hooked.errors import VestigeError
from hooked.sites import SiteMap, Tap

_PATTERN = "attn.hook_pattern"
_PARALLEL = "its blocks run attention and MLP in parallel, so there is no residual between them"
_RESCALED = "no module's output equals what is added to the residual stream (it is rescaled in the block)"
# Kinds that no native forward has, and why.
_NOWHERE = {
    "attn.hook_attn_scores": "the native forward never materialises it; model.bridge() has it",
    "ln1.hook_normalized": "the native forward never materialises it; model.bridge() has it",
    "ln2.hook_normalized": "the native forward never materialises it; model.bridge() has it",
    "hook_pos_embed": "positions have no batch axis in the native forward; subtract hook_embed from resid_pre.0",
    "mlp.hook_pre_linear": "its MLP is not gated, so there is one up projection (mlp.hook_pre)",
}


def architecture_adapter(model: nn.Module) -> Any:
    """Build TransformerLens' adapter from a Hugging Face model's config alone; no bridge is booted, no module touched.

    Raises:
        VestigeError: TransformerLens knows no adapter for the model's class.
    """
    # TransformerLens takes seconds to import, so only loading a model pays for it.
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )
    from transformer_lens.model_bridge.sources.transformers import map_default_transformer_lens_config

    family = type(model).__name__
    if family not in SUPPORTED_ARCHITECTURES:
        near = difflib.get_close_matches(family, SUPPORTED_ARCHITECTURES, n=3)
        raise VestigeError(
            f"TransformerLens has no adapter for {family}; the nearest it knows are {', '.join(near) or 'none'}; "
            "use HookedModule to hook it by module path"
        )
    mapped = map_default_transformer_lens_config(model.config)
    described = TransformerBridgeConfig.from_dict(dict(mapped.__dict__))
    described.architecture = family
    for name in ("use_parallel_residual", "parallel_attn", "new_decoder_architecture", "multi_query", "num_kv_heads"):
        if getattr(model.config, name, None) is not None:
            setattr(described, name, getattr(model.config, name))
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(described)
    if type(adapter).__name__ == "NeoxArchitectureAdapter":
        # Only looks up whether the head is called embed_out or lm_head; other adapters' preparation changes the model.
        adapter.prepare_model(model)
    parts = adapter.component_mapping or {}
    missing = [part for part in ("embed", "blocks", "unembed") if part not in parts]
    if missing:
        raise VestigeError(
            f"{family} has no '{missing[0]}', so it is not a decoder-only language model; "
            "use HookedModule to hook it by module path"
        )
    # What is added is then not what the next block reads, and TransformerLens' names would point at other tensors.
    config = model.config
    if getattr(config, "do_layer_norm_before", True) is False or getattr(
        config, "apply_residual_connection_post_layernorm", False
    ):
        raise VestigeError(
            f"this {family} normalises its residual stream inside the blocks, which the sites do not describe; "
            "use HookedModule to hook it by module path"
        )
    return adapter


def site_map(model: nn.Module, adapter: Any, *, modules: Mapping[str, nn.Module] | None = None) -> SiteMap:
    """Resolve every site of a Hugging Face causal language model.

    Args:
        model: The untouched model.
        adapter: What `architecture_adapter` returned for it.
        modules: Path to module, where wrappers have renamed the model's own.
    """
    builder = _Builder(model, adapter, dict(model.named_modules()) if modules is None else modules)
    for name, component in adapter.component_mapping.items():
        if name != "blocks":
            builder.add_outer(name, component)
    blocks = adapter.component_mapping["blocks"]
    n_layers = len(builder.modules[blocks.name])  # type: ignore[arg-type]
    for layer in range(n_layers):
        builder.add_block(layer, blocks)
    return builder.build(n_layers)


class _Builder:
    """Collects taps while walking an adapter's component tree."""

    def __init__(self, model: nn.Module, adapter: Any, modules: Mapping[str, nn.Module]) -> None:
        self.model = model
        self.adapter = adapter
        self.modules = modules
        self.taps: dict[str, Tap] = {}
        self.aliases: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self.weights: dict[str, str] = {}
        self.splits: dict[str, slice | Tensor | None] = {}
        # Whole taps that have a name; two sites never share a column set.
        self.known: dict[tuple[str, str, int | None], str] = {}

    def add_outer(self, name: str, component: Any) -> None:
        if component.name not in self.modules:
            return
        self.weights[name] = component.name
        if name in ("embed", "embed_ln"):
            # BLOOM normalises its embedding, and TransformerLens calls the normalised one hook_embed.
            last = "embed_ln" if "embed_ln" in self.adapter.component_mapping else "embed"
            legacy = "hook_embed" if name == last else f"{name}.hook_out"
            self._add(legacy, f"{name}.hook_out", Tap(component.name, "output"))
        elif name in ("ln_final", "unembed"):
            self._add(f"{name}.hook_out", f"{name}.hook_out", Tap(component.name, "output"))

    def add_block(self, layer: int, block: Any) -> None:
        path, prefix = f"{block.name}.{layer}", f"blocks.{layer}"
        self._add_component(prefix, path, block, legacy_prefix=prefix)
        for name, child in block.submodules.items():
            self._walk(f"{prefix}.{name}", self._join(path, child.name), child)
        if block.hook_aliases.get("hook_resid_mid") is None:
            self.absent["hook_resid_mid"] = _PARALLEL
        elif f"{prefix}.hook_resid_mid" in self.taps:
            self.taps[f"{prefix}.hook_resid_mid"] = replace(self.taps[f"{prefix}.hook_resid_mid"], carry=path)
        for raw, added in (("attn.hook_out", "hook_attn_out"), ("mlp.hook_out", "hook_mlp_out")):
            if f"{prefix}.{raw}" not in self.taps and f"{prefix}.{added}" in self.taps:
                self.aliases.setdefault(f"{prefix}.{raw}", f"{prefix}.{added}")
        for kind, alias in block.hook_aliases.items():
            if f"{prefix}.{kind}" not in self.taps and kind not in self.absent:
                self.absent[kind] = (
                    f"TransformerLens places it at {alias}, which no module of the native model computes; "
                    "model.bridge() has it"
                )
        for kind in ("hook_attn_out", "hook_mlp_out"):
            if kind not in block.hook_aliases:
                self.absent.setdefault(kind, _RESCALED)
        for kind, reason in _NOWHERE.items():
            self.absent.setdefault(kind, reason)

    def build(self, n_layers: int) -> SiteMap:
        read_only = frozenset(f"blocks.{i}.{_PATTERN}" for i in range(n_layers) if f"blocks.{i}.attn" in self.weights)
        hf = {f"{tap.module}.{tap.side}": name for name, tap in self.taps.items() if tap.columns is None}
        return SiteMap(
            taps=self.taps,
            aliases={**hf, **self.aliases},
            read_only=read_only,
            absent=self.absent,
            weights=self.weights,
            fused={
                name: tap
                for name, tap in self.taps.items()
                if tap.side == "output" and name.endswith(("_q", "_k", "_v", "_pre", "_linear"))
            },
            n_layers=n_layers,
            family=type(self.model).__name__,
        )

    @staticmethod
    def _join(path: str, name: str | None) -> str:
        return f"{path}.{name}" if name else path

    def _walk(self, native: str, path: str, component: Any) -> None:
        self._add_component(native, path if component.name else None, component, legacy_prefix=native)
        for name, child in component.submodules.items():
            self._walk(f"{native}.{name}", self._join(path, child.name), child)

    def _add_component(self, native: str, path: str | None, component: Any, *, legacy_prefix: str) -> None:
        for kind, alias in component.hook_aliases.items():
            tap = self._follow(path, native, component, alias)
            if tap is not None:
                self._add(f"{legacy_prefix}.{kind}", f"{native}.{alias}", tap)
        if path in self.modules and path is not None:
            self.weights[native] = path
            # Where a legacy name sits on the same tap, the native spelling is only another name of it.
            name = native.removeprefix("blocks.").split(".")
            if len(name) == 1 or component.submodules or name[-1].startswith(("attn", "mlp")):
                self._add(f"{native}.hook_out", f"{native}.hook_out", Tap(path, "output"))

    def _follow(self, path: str | None, native: str, component: Any, alias: str | list[str]) -> Tap | None:
        *names, side = (alias if isinstance(alias, str) else alias[0]).split(".")
        parent, parent_path, where, at = component, path, path, native
        for name in names:
            if name not in parent.submodules:
                return None
            child = parent.submodules[name]
            owner, parent_path = parent, where if where is not None else self._block_path(at)
            where, parent, at = self._join(parent_path or "", child.name), child, f"{at}.{name}"
            if where not in self.modules:
                return self._fused(owner, parent_path or "", name) if side == "hook_out" else None
        if where is None or where not in self.modules or side not in ("hook_in", "hook_out"):
            return None
        heads = names and names[-1] in ("q", "k", "v", "o") and (side == "hook_in") == (names[-1] == "o")
        return Tap(where, "input" if side == "hook_in" else "output", d_head=self._d_head() if heads else None)

    def _block_path(self, native: str) -> str:
        layer = native.split(".")[1]
        return f"{self.adapter.component_mapping['blocks'].name}.{layer}"

    def _d_head(self) -> int:
        return int(self.adapter.cfg.d_head)

    def _fused(self, owner: Any, owner_path: str, name: str) -> Tap | None:
        """A projection without a module of its own is some output columns of a fused one."""
        if owner_path not in self.modules:
            return None
        if name in ("q", "k", "v") and hasattr(owner, "split_qkv_matrix") and "qkv" in owner.submodules:
            fused, split, part = owner.submodules["qkv"].name, owner.split_qkv_matrix, "qkv".index(name)
        elif name in ("gate", "in") and hasattr(owner, "split_gate_up_matrix"):
            fused, split, part = owner.fused_attr, owner.split_gate_up_matrix, ("gate", "in").index(name)
        else:
            return None
        kind = f"{type(owner).__name__}.{name}"
        if kind not in self.splits:
            self.splits[kind] = _columns_of(self.modules[owner_path], fused, split, part)
        columns, heads = self.splits[kind], self._d_head() if name in "qkv" else None
        if columns is None:
            site = f"attn.hook_{name}" if heads else {"gate": "mlp.hook_pre", "in": "mlp.hook_pre_linear"}[name]
            self.absent[site] = f"TransformerLens cannot tell which columns of '{fused}' belong to it"
            return None
        return Tap(f"{owner_path}.{fused}", "output", columns=columns, d_head=heads)

    def _add(self, legacy: str, native: str, tap: Tap) -> None:
        place = (tap.module, tap.side, tap.d_head)
        known = self.known.get(place) if tap.columns is None else None
        if known is None:
            self.taps[legacy] = tap
            if tap.columns is None:
                self.known[place] = legacy
        elif legacy != known:
            self.aliases[legacy] = known
        if native != legacy:
            self.aliases[native] = known or legacy


def _columns_of(owner: nn.Module, fused: str, split: Any, part: int) -> slice | Tensor | None:
    """Find which columns of a fused projection form one part, by splitting a stand-in that holds their numbers."""
    projection = innermost(owner.get_submodule(fused))
    weight: Tensor = projection.weight
    transposed = is_transposed(projection)
    width = weight.shape[1] if transposed else weight.shape[0]
    numbers = torch.arange(width, dtype=torch.float32)
    stand_in = copy.copy(projection)
    rows = numbers[None, :].expand(weight.shape) if transposed else numbers[:, None].expand(weight.shape)
    stand_in._parameters = {"weight": nn.Parameter(rows.clone(), requires_grad=False)}
    stand_in._parameters["bias"] = (
        nn.Parameter(numbers.clone(), requires_grad=False) if projection.bias is not None else None
    )
    copied = copy.copy(owner)
    copied._modules = {**owner._modules, fused: stand_in}
    try:
        piece = split(copied)[part].weight.detach()
    except RuntimeError:
        # A variant whose layout the adapter does not know.
        return None
    line = piece[:, 0] if piece.shape[0] == 1 or not bool((piece[:, 0] == piece[0, 0]).all()) else piece[0]
    index = line.round().long()
    first, last = int(index[0]), int(index[-1])
    adjacent = torch.equal(index, torch.arange(first, last + 1))
    return slice(first, last + 1) if adjacent else index
