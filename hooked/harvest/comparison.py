"""`compare`: how far the activations of two models lie apart, row by row and as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hooked.errors import VestigeError
from hooked.harvest.cka import LinearCKA
from hooked.progress import bar
from hooked.sites import BySite, SiteLike
from hooked.store.layout import PROVENANCE
from hooked.store.manifest import read_manifest
from hooked.store.store import ActivationStore

# Rows whose tokens are compared at a time.
_STEP = 1 << 16


@dataclass(frozen=True)
class SiteComparison:
    """How far the rows b of one store lie from the rows a of another, at one site; heads are flattened.

    Args:
        site: Canonical name.
        rows: Rows compared.
        left_out: Rows of which one side is not finite, or is zero in every column.
        cosine: Mean over rows of a.b / (|a| |b|), in [-1, 1].
        drift: Mean over rows of |a - b| / |a|, in Euclidean norms; 0 for equal rows.
        rms_drift: Square root of the mean over rows of (|a - b| / |a|)^2, which a few far rows move more.
        cka: Debiased linear CKA over all rows, at most 1 and near 0 for unrelated activations; None unless asked for.
        cka_biased: The biased form, as most papers report it; inflated when rows are few for the dimensions.
    """

    site: str
    rows: int
    left_out: int
    cosine: float
    drift: float
    rms_drift: float
    cka: float | None = None
    cka_biased: float | None = None


def compare(
    store_a: ActivationStore,
    store_b: ActivationStore,
    sites: SiteLike | Sequence[SiteLike] | None = None,
    *,
    cka: bool = True,
    batch: int = 4096,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> BySite[SiteComparison]:
    """Compare the activations of two models on the same tokens, in one read of both stores.

    For rows a and b of the same token, in float64:

    * cosine: mean of a.b / (|a| |b|);
    * drift: mean of |a - b| / |a|, and its root mean square;
    * linear CKA over all rows, debiased and biased; `hooked.harvest.cka.LinearCKA` has the definitions.

    Rows with a value that is not finite, and rows of norm zero, on either side, are left out of everything and counted.
    Where no row is left, numbers are NaN. Memory is about 6 x 8 d^2 bytes with CKA.

    Args:
        store_a: The store that drift is measured from, e.g. the original model's.
        store_b: The other store.
        sites: Which; those that both stores hold when None.
        cka: Whether CKA is computed, which takes 6 d^2 operations per row.
        batch: Rows read at a time.
        device: Where to compute; the CPU when None.
        progress: Show a bar on a terminal.

    Returns:
        Canonical names to numbers.

    Raises:
        VestigeError: The stores do not hold the same tokens of the same documents, no site is common, or a shard was
            damaged.
    """
    check_tokens(store_a, store_b)
    found = {}
    names = _sites(store_a, store_b, sites)
    with bar(len(names) * len(store_a), what="compare", unit=" rows", show=progress) as shown:
        for name in names:
            pairs = _pairs(store_a, store_b, name, batch, device)
            found[name] = _compared(name, _counted(pairs, shown), LinearCKA() if cka else None)
    return BySite(found, n_layers=store_a.n_layers)


def check_tokens(store_a: ActivationStore, store_b: ActivationStore) -> None:
    """Refuse stores whose rows do not belong together.

    Raises:
        VestigeError: Token ids, documents or positions differ somewhere; the message says where first.
    """
    manifests = [read_manifest(store.path) or {} for store in (store_a, store_b)]
    # Digests are taken per shard, so that they also differ where only the size of shards does.
    if len(store_a) == len(store_b) and manifests[0].get("tokens") == manifests[1].get("tokens"):
        return
    hint = "harvest both with the same corpus, packing, context_size and batch_tokens"
    where = f"'{store_a.path}' and '{store_b.path}' hold different tokens"
    if len(store_a) != len(store_b):
        raise VestigeError(f"{where}: {len(store_a):,} and {len(store_b):,} rows; {hint}")
    for start in range(0, len(store_a), _STEP):
        a, b = (store.provenance(slice(start, start + _STEP)) for store in (store_a, store_b))
        differs = torch.stack([getattr(a, name) != getattr(b, name) for name in PROVENANCE]).any(0)
        if bool(differs.any()):
            row = int(differs.nonzero()[0])
            said = [
                f"token {int(of.tokens[row])} of document {int(of.documents[row])} at position {int(of.positions[row])}"
                for of in (a, b)
            ]
            raise VestigeError(f"{where}: row {start + row} is {said[0]} and {said[1]}; {hint}")


def _sites(
    store_a: ActivationStore, store_b: ActivationStore, wanted: SiteLike | Sequence[SiteLike] | None
) -> tuple[str, ...]:
    if wanted is None:
        names: Sequence[SiteLike] = [name for name in store_a.sites if name in store_b.sites]
        if not names:
            raise VestigeError(f"no site is in both stores: {', '.join(store_a.sites)}; {', '.join(store_b.sites)}")
    elif isinstance(wanted, str) or (isinstance(wanted, tuple) and len(wanted) == 2 and isinstance(wanted[1], int)):
        names = [wanted]
    else:
        names = wanted
    pairs = {store_a.site(name).name: (store_a.site(name), store_b.site(name)) for name in names}
    for name, (a, b) in pairs.items():
        if a.shape != b.shape:
            raise VestigeError(f"'{name}' has shape {list(a.shape)} in one store and {list(b.shape)} in the other")
    return tuple(pairs)


def _pairs(
    store_a: ActivationStore, store_b: ActivationStore, site: str, size: int, device: torch.device | str | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    streams = (store.site(site).batches(size, device=device) for store in (store_a, store_b))
    for a, b in zip(*streams, strict=True):
        yield a.acts.flatten(1).double(), b.acts.flatten(1).double()


def _counted(
    pairs: Iterator[tuple[torch.Tensor, torch.Tensor]], shown: Any
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for a, b in pairs:
        yield a, b
        shown.update(len(a))


def _compared(site: str, pairs: Iterator[tuple[torch.Tensor, torch.Tensor]], cka: LinearCKA | None) -> SiteComparison:
    rows, left_out = 0, 0
    cosines, drifts, squares = 0.0, 0.0, 0.0
    for pair in pairs:
        norms = torch.stack([side.norm(dim=-1) for side in pair])
        usable = (norms.isfinite() & (norms > 0)).all(0)
        left_out += int((~usable).sum())
        a, b = pair if bool(usable.all()) else (side[usable] for side in pair)
        length_a, length_b = norms[:, usable]
        drift = (a - b).norm(dim=-1) / length_a
        rows += len(a)
        cosines += float(((a * b).sum(-1) / length_a / length_b).sum())
        drifts += float(drift.sum())
        squares += float(drift.square().sum())
        if cka is not None:
            cka.add(a, b)
    n = rows if rows else math.nan
    return SiteComparison(
        site,
        rows,
        left_out,
        cosines / n,
        drifts / n,
        math.sqrt(squares / n),
        None if cka is None else cka.debiased,
        None if cka is None else cka.biased,
    )
