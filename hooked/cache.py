"""Activations of one call, kept in memory and addressed by site."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hooked.errors import VestigeError
from hooked.sites import SiteLike, SiteMap


class ActivationCache(Mapping[str, Tensor]):
    """Site to activation. Keys are canonical, so two spellings of one site are one entry.

    Index it as TransformerLens' cache: `cache["blocks.2.hook_resid_post"]`, `cache["resid_post", 2]`,
    `cache["post", 1, "mlp"]`, `cache["resid_post", -1]`.
    Entries never alias the model's live tensors.
    """

    def __init__(
        self, entries: Mapping[str, Tensor], sites: SiteMap, *, checksums: Mapping[str, int] | None = None
    ) -> None:
        self._entries = dict(entries)
        self._sites = sites
        self._checksums = dict(checksums or {})

    def __getitem__(self, key: SiteLike | tuple[Any, ...]) -> Tensor:
        if isinstance(key, tuple) and len(key) == 3:
            key = (str(key[0]), int(key[1]))
        name = self._sites.resolve(key)
        if name not in self._entries:
            raise VestigeError(f"'{name}' was not recorded; recorded sites are {', '.join(self._entries) or 'none'}")
        if name in self._checksums and checksum(self._entries[name]) != self._checksums[name]:
            raise VestigeError(f"the recorded activation of '{name}' was changed in place after it was captured")
        return self._entries[name]

    def __contains__(self, key: object) -> bool:
        try:
            return self._sites.resolve(key) in self._entries  # type: ignore[arg-type]
        except VestigeError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} sites, {self.nbytes / 1e6:.1f} MB)"

    @property
    def nbytes(self) -> int:
        """Bytes of storage behind the entries, each storage counted once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._entries.values()}
        return sum(storages.values())

    def to(self, device: torch.device | str) -> ActivationCache:
        """Return a cache with every activation on another device; the model stays where it is."""
        return ActivationCache(
            {k: v.to(device) for k, v in self._entries.items()}, self._sites, checksums=self._checksums
        )

    def remove_batch_dim(self) -> ActivationCache:
        """Return a cache of a single prompt without its batch axis."""
        wrong = [k for k, v in self._entries.items() if v.shape[0] != 1]
        if wrong:
            rows = len(self._entries[wrong[0]])
            raise VestigeError(f"only a batch of one has a batch axis to remove; '{wrong[0]}' has {rows} rows")
        return ActivationCache({k: v[0] for k, v in self._entries.items()}, self._sites, checksums=self._checksums)

    def stack(self, kind: str) -> Tensor:
        """Stack one kind of site over layers, e.g. `cache.stack("resid_post")` is `[n_layers, batch, pos, d_model]`."""
        return torch.stack([self[kind, layer] for layer in range(self._sites.n_layers)])


def checksum(tensor: Tensor) -> int:
    """Checksum of a tensor's bytes."""
    return zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
