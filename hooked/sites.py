"""Sites: named points of a model, found on the untouched Hugging Face modules through TransformerLens' architecture adapters.

TransformerLens maps more than a hundred architectures to components, and each component says under which legacy name its input and output
are known. This file follows those aliases to the Hugging Face module that computes the tensor, so that no second table of names exists.
A site is stored and printed in the legacy spelling (`blocks.5.hook_resid_post`); where legacy has no name it is the bridge-native one
(`ln_final.hook_out`, `blocks.5.mlp.hook_out`).
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hooked.errors import VestigeError

SiteLike = str | tuple[str, int]

_READ_ONLY = "attn.hook_pattern"
_SHORT = {
    "embed": "hook_embed",
    "final": "ln_final.hook_out",
    "logits": "unembed.hook_out",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "mlp_raw": "blocks.{}.mlp.hook_out",
    "attn_raw": "blocks.{}.attn.hook_out",
    "mlp_pre": "blocks.{}.mlp.hook_pre",
    "mlp_pre_linear": "blocks.{}.mlp.hook_pre_linear",
    "mlp_post": "blocks.{}.mlp.hook_post",
    "pre": "blocks.{}.mlp.hook_pre",
    "post": "blocks.{}.mlp.hook_post",
    "q": "blocks.{}.attn.hook_q",
    "k": "blocks.{}.attn.hook_k",
    "v": "blocks.{}.attn.hook_v",
    "z": "blocks.{}.attn.hook_z",
    "pattern": "blocks.{}.attn.hook_pattern",
}


@dataclass(frozen=True)
class Tap:
    """Where a site lives: the input or output of one module, or some columns of it.

    Args:
        module: Path of the module inside the hooked model.
        side: `input` or `output`.
        columns: Columns of a fused projection that belong to the site; a slice where they are adjacent, else an index.
        d_head: The last axis is split into `[heads, d_head]` when set.
        element: Which element of a tuple output is meant.
    """

    module: str
    side: Literal["input", "output"]
    columns: slice | Int[Tensor, " width"] | None = None
    d_head: int | None = None
    element: int = 0


@dataclass(frozen=True)
class SiteMap:
    """All sites of one model.

    Args:
        taps: Canonical name to where the site lives.
        aliases: Other spellings to the canonical one.
        read_only: Sites that can be recorded but not edited.
        absent: Kind of site to the reason why this architecture has none.
        weights: Component (`blocks.3.mlp.out`, `unembed`) to the path of its Hugging Face module.
        fused: Canonical name of a projection's output to the module and columns that compute it.
        n_layers: Number of blocks.
        family: Class name of the model.
    """

    taps: Mapping[str, Tap]
    aliases: Mapping[str, str]
    read_only: frozenset[str]
    absent: Mapping[str, str]
    weights: Mapping[str, str]
    fused: Mapping[str, Tap]
    n_layers: int
    family: str

    def resolve(self, site: SiteLike) -> str:
        """Return the canonical spelling of a site.

        Accepts the legacy and bridge-native TransformerLens spellings, `"resid_post.5"`, `("resid_post", 5)`, and a Hugging Face module path
        followed by `.input` or `.output`. Negative layers count from the end.

        Raises:
            VestigeError: The model has no such site; the message lists near matches.
        """
        name = self._expand(site)
        name = self.aliases.get(name, name)
        if name in self.taps or name in self.read_only:
            return name
        kind = re.sub(r"blocks\.\d+\.", "", name)
        where = f"a {self.n_layers}-layer {self.family}"
        layer = layer_of(name)
        if kind in self.absent and (layer is None or layer < self.n_layers):
            raise VestigeError(f"no site '{name}' in {where}: {self.absent[kind]}")
        near = difflib.get_close_matches(name, [*self.taps, *self.aliases], n=1, cutoff=0.5)
        hint = f"; did you mean '{self.aliases.get(near[0], near[0])}'?" if near else ";"
        raise VestigeError(f"no site '{name}' in {where}{hint} (layers are 0 to {self.n_layers - 1})")

    def tap(self, name: str) -> Tap:
        """Return where a canonical site lives."""
        if name in self.taps:
            return self.taps[name]
        layer = layer_of(name)
        return Tap(self.weights[f"blocks.{layer}.attn"], "output", element=1)

    def _expand(self, site: SiteLike) -> str:
        if isinstance(site, str):
            short = re.fullmatch(r"([a-z_]+)(?:\.(-?\d+))?", site)
            if not short or short[1] not in _SHORT:
                return site
            kind, layer = short[1], short[2]
        elif isinstance(site, tuple) and len(site) == 2 and isinstance(site[0], str) and isinstance(site[1], int):
            kind, layer = site[0], str(site[1])
            if kind not in _SHORT:
                raise VestigeError(f"no site kind {kind!r}; kinds are {', '.join(_SHORT)}")
        else:
            raise VestigeError(f"a site is a string or a pair such as ('resid_post', 5), got {site!r}")
        pattern = _SHORT[kind]
        if "{}" not in pattern:
            return pattern
        if layer is None:
            raise VestigeError(f"site kind {kind!r} needs a layer, e.g. '{kind}.0' (layers are 0 to {self.n_layers - 1})")
        number = int(layer)
        return pattern.format(number + self.n_layers if number < 0 else number)


def layer_of(site: str) -> int | None:
    """Return the block index in a canonical site name, or None for sites outside the blocks."""
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match[1]) if match else None


def architecture_adapter(model: nn.Module) -> Any:
    """Build TransformerLens' adapter from a Hugging Face model's config alone; no bridge is booted and no module is touched.

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
        raise VestigeError(f"TransformerLens has no adapter for {family}; the nearest it knows are {', '.join(near) or 'none'}; use HookedModule to hook it by module path")
    mapped = map_default_transformer_lens_config(model.config)
    config = TransformerBridgeConfig.from_dict(dict(mapped.__dict__))
    config.architecture = family
    for name in ("use_parallel_residual", "parallel_attn", "new_decoder_architecture", "multi_query", "num_kv_heads"):
        if getattr(model.config, name, None) is not None:
            setattr(config, name, getattr(model.config, name))
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    adapter.prepare_model(model) if type(adapter).__name__ == "NeoxArchitectureAdapter" else None
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
        self.splits: dict[str, slice | Tensor] = {}

    def add_outer(self, name: str, component: Any) -> None:
        if component.name not in self.modules:
            return
        self.weights[name] = component.name
        if name in ("embed", "embed_ln"):
            # BLOOM normalises its embedding, and TransformerLens calls the normalised one hook_embed.
            last = "embed_ln" if "embed_ln" in self.adapter.component_mapping else "embed"
            self._add("hook_embed" if name == last else f"{name}.hook_out", f"{name}.hook_out", Tap(component.name, "output"))
        elif name in ("ln_final", "unembed"):
            self._add(f"{name}.hook_out", f"{name}.hook_out", Tap(component.name, "output"))

    def add_block(self, layer: int, block: Any) -> None:
        path, prefix = f"{block.name}.{layer}", f"blocks.{layer}"
        self._add_component(prefix, path, block, legacy_prefix=prefix)
        for name, child in block.submodules.items():
            self._walk(f"{prefix}.{name}", self._join(path, child.name), child)
        if block.hook_aliases.get("hook_resid_mid") is None:
            self.absent["hook_resid_mid"] = "its blocks run attention and MLP in parallel, so there is no residual between them"
        for kind, alias in block.hook_aliases.items():
            if f"{prefix}.{kind}" not in self.taps and kind not in self.absent:
                self.absent[kind] = f"TransformerLens places it at {alias}, which no module of the native model computes; model.bridge() has it"
        for kind in ("hook_attn_out", "hook_mlp_out"):
            if kind not in block.hook_aliases:
                self.absent.setdefault(kind, "no module's output equals what is added to the residual stream (it is rescaled in the block)")
        for kind in ("attn.hook_attn_scores", "ln1.hook_normalized", "ln2.hook_normalized"):
            self.absent.setdefault(kind, "the native forward never materialises it; model.bridge() has it")
        self.absent.setdefault("hook_pos_embed", "positions have no batch axis in the native forward; subtract hook_embed from resid_pre.0")
        self.absent.setdefault("mlp.hook_pre_linear", "its MLP is not gated, so there is one up projection (mlp.hook_pre)")

    def build(self, n_layers: int) -> SiteMap:
        read_only = frozenset(f"blocks.{i}.{_READ_ONLY}" for i in range(n_layers) if f"blocks.{i}.attn" in self.weights)
        hf = {f"{tap.module}.{tap.side}": name for name, tap in self.taps.items() if tap.columns is None}
        return SiteMap(
            taps=self.taps,
            aliases={**hf, **self.aliases},
            read_only=read_only,
            absent=self.absent,
            weights=self.weights,
            fused={name: tap for name, tap in self.taps.items() if tap.side == "output" and name.endswith(("_q", "_k", "_v", "_pre", "_linear"))},
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
        if side not in ("hook_in", "hook_out"):
            return None
        parent, parent_path, where, at = component, path, path, native
        for name in names:
            if name not in parent.submodules:
                return None
            child = parent.submodules[name]
            owner, parent_path = parent, where if where is not None else self._block_path(at)
            where, parent, at = self._join(parent_path or "", child.name), child, f"{at}.{name}"
            if where not in self.modules:
                return self._fused(owner, parent_path or "", name, side)
        if where is None or where not in self.modules:
            return None
        heads = names and names[-1] in ("q", "k", "v", "o") and (side == "hook_in") == (names[-1] == "o")
        return Tap(where, "input" if side == "hook_in" else "output", d_head=self._d_head() if heads else None)

    def _block_path(self, native: str) -> str:
        layer = native.split(".")[1]
        return f"{self.adapter.component_mapping['blocks'].name}.{layer}"

    def _d_head(self) -> int:
        return int(self.adapter.cfg.d_head)

    def _fused(self, owner: Any, owner_path: str, name: str, side: str) -> Tap | None:
        """A projection without a module of its own is some output columns of a fused one."""
        if side != "hook_out" or owner_path not in self.modules:
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
        return Tap(f"{owner_path}.{fused}", "output", columns=self.splits[kind], d_head=self._d_head() if name in "qkv" else None)

    def _add(self, legacy: str, native: str, tap: Tap) -> None:
        known = next((name for name, other in self.taps.items() if _same(tap, other)), None)
        if known is None:
            self.taps[legacy] = tap
        elif legacy != known:
            self.aliases[legacy] = known
        if native != legacy:
            self.aliases[native] = known or legacy


def _same(one: Tap, other: Tap) -> bool:
    # Only whole outputs are compared: two sites never share a column set, and tensors have no truth value.
    return one.columns is None and other.columns is None and (one.module, one.side, one.d_head) == (other.module, other.side, other.d_head)


def _columns_of(owner: nn.Module, fused: str, split: Any, part: int) -> slice | Tensor:
    """Find which output columns of a fused projection form one part, by splitting a stand-in whose rows carry their own number."""
    projection = owner.get_submodule(fused)
    weight = projection.weight
    transposed = not isinstance(projection, nn.Linear)
    width = weight.shape[1] if transposed else weight.shape[0]
    numbers = torch.arange(width, dtype=torch.float32)
    stand_in = copy.copy(projection)
    rows = numbers[None, :].expand(weight.shape) if transposed else numbers[:, None].expand(weight.shape)
    stand_in._parameters = {"weight": nn.Parameter(rows.clone(), requires_grad=False)}
    stand_in._parameters["bias"] = nn.Parameter(numbers.clone(), requires_grad=False) if projection.bias is not None else None
    copied = copy.copy(owner)
    copied._modules = {**owner._modules, fused: stand_in}
    piece = split(copied)[part].weight.detach()
    line = piece[:, 0] if piece.shape[0] == 1 or not bool((piece[:, 0] == piece[0, 0]).all()) else piece[0]
    index = line.round().long()
    first, last = int(index[0]), int(index[-1])
    if torch.equal(index, torch.arange(first, last + 1)):
        return slice(first, last + 1)
    return index
