"""Sites: named points of a model.

A site is stored and printed in TransformerLens' legacy spelling (`blocks.5.hook_resid_post`); where legacy has no name
it is the bridge-native one (`ln_final.hook_out`, `blocks.5.mlp.hook_out`). `hooked.architecture` finds where they live.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from jaxtyping import Int
from torch import Tensor

from hooked.errors import VestigeError

SiteLike = str | tuple[str, int]
T = TypeVar("T")

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
        carry: Module whose output has to change along with an edit here: the middle of the residual stream is found
            where the MLP reads it, while the stream itself goes past.
    """

    module: str
    side: Literal["input", "output"]
    columns: slice | Int[Tensor, " width"] | None = None
    d_head: int | None = None
    element: int = 0
    carry: str | None = None


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

        Accepts the legacy and bridge-native TransformerLens spellings, `"resid_post.5"`, `("resid_post", 5)`, and the
        path of a Hugging Face module followed by `.input` or `.output`. Negative layers count from the end.

        Raises:
            VestigeError: The model has no such site; the message lists near matches.
        """
        name = spelled_out(site, n_layers=self.n_layers)
        name = self.aliases.get(name, name)
        if name in self.taps or name in self.read_only:
            return name
        kind = re.sub(r"blocks\.\d+\.", "", name)
        where = f"a {self.n_layers}-layer {self.family}"
        layer = layer_of(name)
        if kind in self.absent and (layer is None or layer < self.n_layers):
            raise VestigeError(f"no site '{name}' in {where}: {self.absent[kind]}")
        near = difflib.get_close_matches(name, [*self.taps, *self.aliases], n=1, cutoff=0.5)
        hint = (
            f"; did you mean '{self.aliases.get(near[0], near[0])}'?"
            if near
            else "; sites are named like 'resid_post.0'"
        )
        raise VestigeError(f"no site '{name}' in {where}{hint}{self._layers()}")

    def editable(self, site: SiteLike) -> str:
        """Return the canonical spelling of a site that can be edited.

        Raises:
            VestigeError: The model has no such site, or it can only be read.
        """
        name = self.resolve(site)
        if name in self.read_only:
            raise VestigeError(f"'{name}' can be read but not edited: its consumers have already run")
        return name

    def tap(self, name: str) -> Tap:
        """Return where a canonical site lives."""
        if name in self.taps:
            return self.taps[name]
        layer = layer_of(name)
        return Tap(self.weights[f"blocks.{layer}.attn"], "output", element=1)

    def part(self, layer: int, role: str) -> str:
        """Return the module path of a part of a block, e.g. `mlp.out` or `attn.o`.

        Raises:
            VestigeError: The layer or the part does not exist.
        """
        if not -self.n_layers <= layer < self.n_layers:
            raise VestigeError(f"no layer {layer} in a {self.n_layers}-layer {self.family}{self._layers()}")
        key = f"blocks.{layer % self.n_layers}.{role}"
        if key not in self.weights:
            roles = sorted({k.split(".", 2)[2] for k in self.weights if k.startswith("blocks.0.")})
            raise VestigeError(f"blocks of {self.family} have no part '{role}'; parts are {', '.join(roles)}")
        return self.weights[key]

    def _layers(self) -> str:
        return f" (layers are 0 to {self.n_layers - 1})"


def spelled_out(site: SiteLike, *, n_layers: int) -> str:
    """Return the long spelling of `"resid_post.5"` or `("resid_post", 5)`; other strings come back as they are.

    Raises:
        VestigeError: It is neither a string nor such a pair, or the kind needs a layer.
    """
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
        raise VestigeError(f"site kind {kind!r} needs a layer, e.g. '{kind}.0' (layers are 0 to {n_layers - 1})")
    number = int(layer)
    return pattern.format(number + n_layers if number < 0 else number)


def near_site(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean '...'?`, or `;` when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ";"


class BySite(dict[str, T]):
    """Canonical site to value; `found["resid_post.2"]` and `found["resid_post", -1]` find it too."""

    def __init__(self, values: Mapping[str, T], *, n_layers: int) -> None:
        super().__init__(values)
        self._n_layers = n_layers

    def __missing__(self, key: SiteLike) -> T:
        name = spelled_out(key, n_layers=self._n_layers)
        if name not in self:
            raise VestigeError(f"'{name}' is not here{near_site(name, self)} there are {', '.join(self) or 'none'}")
        return self[name]


def layer_of(site: str) -> int | None:
    """Return the block index in a canonical site name, or None for sites outside the blocks."""
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match[1]) if match else None
