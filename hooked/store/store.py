"""An activation store as its readers see it; neither the model nor the corpus is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from hooked.errors import VestigeError
from hooked.progress import bar
from hooked.sites import SiteLike, near_site, spelled_out
from hooked.store.layout import FORMAT, StoredSpec
from hooked.store.manifest import MANIFEST, ORDERS, SHARDS, VERSION, StoreSpec, read_manifest, read_spec, write_json
from hooked.store.order import Order
from hooked.store.rows import Provenance, Reader
from hooked.store.shard import Shard, SiteTotals, open_shard, shard_name
from hooked.store.site import StoredSite

# What a manifest has to say beside its list of shards.
_FIELDS = {
    "rows": int,
    "documents": int,
    "exhausted": bool,
    "address": str,
    "tokens": str,
    "digest": str,
    "about": dict,
}


class ActivationStore:
    """Activations on disk: one row per token, for one or several sites of a model.

    Headers of all shards are checked when the store is opened. Slices and batches compare a shard with its checksums
    the first time; rows picked by number do not, because that would read a whole shard for each: `verify()` checks
    everything.

    Args:
        path: The folder.

    Raises:
        VestigeError: It is no store, an unfinished one, or a damaged one; the message names the file.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self.spec: StoreSpec = read_spec(self.path)
        manifest = read_manifest(self.path)
        if manifest is None:
            done = len(list((self.path / SHARDS).glob(shard_name(0).replace("000000", "*"))))
            raise VestigeError(
                f"the store in '{self.path}' is not finished ({done} shards so far); "
                "call harvest again with the same arguments, and it goes on from there"
            )
        self._manifest = manifest
        if manifest["spec"] != self.spec.digest:
            raise VestigeError(f"'{self.path / MANIFEST}' belongs to another store")
        self.stored: dict[str, StoredSpec] = self.spec.sites
        self._totals: dict[str, SiteTotals] = {}
        try:
            self._reader = Reader(self._open_shards())
            for name, kind in _FIELDS.items():
                if not isinstance(manifest[name], kind):
                    raise TypeError(f"{name} is a {type(manifest[name]).__name__}")
            if self._reader.rows != manifest["rows"]:
                raise ValueError(f"it lists {manifest['rows']} rows, its shards have {self._reader.rows}")
        except (KeyError, TypeError, ValueError) as error:
            raise VestigeError(f"'{self.path / MANIFEST}' is damaged: {error}") from error

    def _open_shards(self) -> tuple[Shard, ...]:
        shards: list[Shard] = []
        first = 0
        listed = self._manifest["shards"]
        for index, said in enumerate(listed):
            path = self.path / SHARDS / shard_name(index)
            shard = open_shard(path, index=index, first_row=first, sites=self.stored, spec=self.spec.digest)
            if shard.digest != said["digest"]:
                raise VestigeError(f"'{path.name}' is not the shard that the manifest lists")
            shards.append(shard)
            first += shard.rows
        extra = sorted(p.name for p in (self.path / SHARDS).iterdir() if p.name not in {s.path.name for s in shards})
        if extra:
            raise VestigeError(f"'{extra[0]}' in '{self.path / SHARDS}' is not listed in the manifest")
        return tuple(shards)

    # What it is.

    def __len__(self) -> int:
        """Return the number of rows: tokens whose activations are stored."""
        return int(self._manifest["rows"])

    def __repr__(self) -> str:
        formats = sorted({spec.format.dtype for spec in self.stored.values()})
        return f"ActivationStore('{self.path}', {len(self):,} rows, {len(self.sites)} sites, {'/'.join(formats)})"

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that can be read, in the order of the forward pass; the stored ones and their aliases."""
        return tuple(dict.fromkeys([*self.stored, *self.spec.aliases]))

    @property
    def n_layers(self) -> int:
        """Number of blocks of the model."""
        return int(self.spec.content["model"]["n_layers"])

    @property
    def address(self) -> str:
        """SHA-256 of what the activations are: specification (weights, tokenizer, sites, dtype, code) and tokens."""
        return str(self._manifest["address"])

    @property
    def digest(self) -> str:
        """SHA-256 of all that is stored, checksums of every shard included."""
        return str(self._manifest["digest"])

    @property
    def documents(self) -> int:
        """Documents up to the last one that has a row; empty ones at the end of the corpus are not counted."""
        return int(self._manifest["documents"])

    @property
    def exhausted(self) -> bool:
        """Whether the corpus ended before the tokens asked for were stored."""
        return bool(self._manifest["exhausted"])

    @property
    def about(self) -> dict[str, Any]:
        """What the writer noted: the model's name, and so on."""
        return dict(self._manifest["about"])

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.layout.nbytes for shard in self._reader.shards)

    # Reading.

    def site(self, name: SiteLike) -> StoredSite:
        """Return one site's rows.

        Args:
            name: Any spelling that the canonical one can be told from without the model: `blocks.5.hook_resid_post`,
                `resid_post.5`, `("resid_post", 5)`.

        Raises:
            VestigeError: The site is not stored; the message lists near matches.
        """
        canonical = spelled_out(name, n_layers=self.n_layers)
        stored = self.spec.aliases.get(canonical, canonical)
        if stored not in self.stored:
            raise VestigeError(
                f"site '{canonical}' is not in this store{near_site(canonical, self.sites)} "
                f"it holds {len(self.sites)} sites, e.g. '{self.sites[0]}'"
            )
        return StoredSite(self, canonical, stored, self.stored[stored], self._reader)

    def provenance(self, index: Int[Tensor, " n"] | Sequence[int] | slice | int) -> Provenance:
        """Return where rows come from: token ids, documents and positions."""
        return self._reader.provenance(self._reader.find(self._reader.index(index)))

    def totals(self, stored: str) -> SiteTotals:
        """Return the statistics of a stored site over all shards."""
        if stored not in self._totals:
            total = SiteTotals.empty(self.stored[stored].d)
            for shard in self._reader.shards:
                total = total.merge(shard.totals(stored))
            self._totals[stored] = total
        return self._totals[stored]

    def order(self, seed: int, *, epoch: int = 0) -> Order:
        """Return the shuffled order of a seed, and note in the store that it was used."""
        order = Order(len(self), seed, epoch)
        note = self.path / ORDERS / f"seed-{seed}.json"
        if not note.exists():
            try:
                note.parent.mkdir(exist_ok=True)
                write_json(note, {"kind": "feistel-splitmix64", "rounds": 6, "rows": len(self), "seed": seed})
            except OSError:
                # A store on a read-only disk is shuffled all the same: the seed decides.
                pass
        return order

    def verify(self, *, progress: bool = True) -> None:
        """Compare every byte with its checksum.

        Raises:
            VestigeError: Something was damaged; every damaged file is named.
        """
        damaged = []
        shards = self._reader.shards
        with bar(len(shards), what="verify", unit=" shards", show=progress) as shown:
            for shard in shards:
                try:
                    shard.check()
                except VestigeError as error:
                    damaged.append(str(error))
                shown.update(1)
        if damaged:
            raise VestigeError("\n".join(damaged))


def manifest_of(
    spec: StoreSpec, shards: Sequence[Shard], *, documents: int, exhausted: bool, about: Any
) -> dict[str, Any]:
    """Return the content of a complete store's manifest."""
    tokens = hashlib.sha256("".join(shard.provenance_digest() for shard in shards).encode()).hexdigest()
    return {
        "format": FORMAT,
        "version": VERSION,
        "spec": spec.digest,
        "rows": sum(shard.rows for shard in shards),
        "documents": documents,
        "exhausted": exhausted,
        "tokens": tokens,
        "address": hashlib.sha256(f"{spec.digest}{tokens}".encode()).hexdigest(),
        "shards": [{"file": shard.path.name, "rows": shard.rows, "digest": shard.digest} for shard in shards],
        "about": about,
    }
