"""Quantisation: weights rounded to few bits, in which small edits of unlearning may be rounded away.

A change `d` of a weight that lies anywhere in its step of width `s` survives rounding with probability `min(1, |d| /
s)`; `steps_moved` says how large the changes of a method are in steps. Small ones do not have to vanish together: what
survives is a whole step, so that rounding keeps the sum of many small changes of one direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import DenseDelta, HookedModel, Intervention, Spec, UnlearnData, VestigeError, WeightPatch
from hooked.ledger import patched
from hooked.weights import wide
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.weights.matrices import matrices_of

Kind = Literal["int8", "int4", "nf4"]

_BITS = {"int8": 8, "int4": 4}
_BLOCK = 64
# Quantiles of a normal distribution: 7 below and 8 above zero, out to the one at .9677083, scaled to [-1, 1].
NF4_LEVELS = (
    -1.0,
    -0.6961929,
    -0.5250730,
    -0.3949175,
    -0.2844414,
    -0.1847734,
    -0.0910500,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.3379152,
    0.4407098,
    0.5626170,
    0.7229567,
    1.0,
)


def quantisation(
    target: Target,
    data: UnlearnData,
    *,
    kind: Kind = "int4",
    embeddings: bool = False,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Round the weights in force to few bits, and ask.

    Edits, combiners and gates of the deployed system stay. The original loses accuracy by the same rounding, so that
    its own score under attack is the matched ceiling.

    Args:
        target: The subject.
        data: Its forget items are asked.
        kind: As in `quantised`.
        embeddings: As in `quantised`.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: An item has no answer, `kind` is unknown, or the weights are quantised already.

    Source:
        Zhang et al. 2024, arXiv:2410.16454; the 4 bits there are bitsandbytes' default, FP4.
    """
    rounding = quantised(target.view, kind, embeddings=embeddings)
    with rounding.applied(target.view) as view:
        found = asked(view, data.forget, batch_size=batch_size, note=f"{kind}, rounded to nearest")
    return Attacked(found.scores, budget={**found.budget, **rounding.spec.settings}, note=found.note)


def quantised(model: HookedModel, kind: Kind = "int4", *, embeddings: bool = False) -> Intervention:
    """Return the weights of a model rounded to what few bits hold, as a change of its weights.

    What computes with them still does so in the model's own precision.

    Args:
        model: A model or a view, whose weights in force are rounded together; not changed.
        kind: `int8` and `int4` round to nearest with one step per output (`round_to_nearest`); `nf4` to 16 quantiles of
            a normal distribution in blocks of 64 (`round_to_nf4`).
        embeddings: Also round embeddings and unembedding. Norms, biases and adapters are always left as they are; the
            settings of the result list everything that was left out.

    Raises:
        VestigeError: `kind` is unknown, or the weights hold no floating point data.

    Source:
        Zhang et al. 2024, arXiv:2410.16454 (rounding to nearest); Dettmers et al. 2023, arXiv:2305.14314 (NF4), here
        without quantising the scales.
    """
    _check(kind)
    found = matrices_of(model, embeddings=embeddings)
    deltas = {}
    for name, weight in found.weights.items():
        if not weight.is_floating_point() or weight.is_meta:
            state = "offloaded" if weight.is_meta else f"stored as {weight.dtype}"
            raise VestigeError(f"'{name}' is {state}; rounding needs floating point weights in memory")
        before = wide(found.rows(name))
        change = found.rows(name, rounded(before, kind) - before)
        deltas[name] = DenseDelta(change.cpu().contiguous())
    settings = {"kind": kind, "matrices": len(deltas), "left_out": found.left_out}
    spec = Spec("quantised", "attack", source="Zhang et al. 2024, arXiv:2410.16454", settings=settings)
    return Intervention(spec, weights=WeightPatch(deltas, tied=embeddings))


def rounded(rows: Float[Tensor, "out in"], kind: Kind) -> Float[Tensor, "out in"]:
    """Round a matrix, a row of which computes one output.

    Raises:
        VestigeError: `kind` is unknown.
    """
    _check(kind)
    return round_to_nf4(rows) if kind == "nf4" else round_to_nearest(rows, bits=_BITS[kind])


def round_to_nearest(rows: Float[Tensor, "out in"], *, bits: int) -> Float[Tensor, "out in"]:
    """Round each row to whole multiples of `s = max|w| / (2^(bits - 1) - 1)`.

    No weight moves by more than `s / 2`, and doing it twice changes nothing more than the last place, since the largest
    weight of a row stays.

    Raises:
        VestigeError: `bits` is below 2.
    """
    step = _step(rows, bits)
    largest = 2 ** (bits - 1) - 1
    # A row of zeros has no step and needs none.
    counts = (rows.double() / torch.where(step > 0, step, 1.0)).round().clamp(-largest, largest)
    return (counts * step).to(rows.dtype)


def round_to_nf4(rows: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Round each block of 64 neighbours to the nearest of 16 levels times the largest absolute value in the block.

    Blocks run along the rows from one to the next; the last may be shorter.
    """
    blocks, scale = _blocks(rows)
    levels = _levels(rows)
    nearest = torch.bucketize(blocks, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).flatten()[: rows.numel()].reshape(rows.shape).to(rows.dtype)


def steps_moved(original: HookedModel, patch: WeightPatch, *, kind: Kind = "int4") -> Mapping[str, float]:
    """Return, per matrix, the median of `|change| / step` over its weights.

    Without ratios far below 1 nothing can be recovered; with them it may be. Matrices in which most weights did not
    change have a ratio of 0, so that an edit of few rows shows as 0 whatever its size.

    Args:
        original: The model before the change.
        patch: The change, e.g. `intervention.weights`, or `WeightPatch.between(original.state(), other.state())`.
        kind: As in `quantised`. A step of `nf4` is the width of the interval around a level that is rounded to it.

    Raises:
        VestigeError: The patch does not fit, or `kind` is unknown.

    Source:
        Vestige's definition.
    """
    _check(kind)
    found = matrices_of(original, embeddings=True)
    before = {name: wide(found.rows(name)).clone() for name in found.weights if name in patch.deltas}
    moved = {}
    with patched(original.model, patch):
        for name, rows in before.items():
            steps = _widths(rows) if kind == "nf4" else _step(rows, _BITS[kind]).expand_as(rows)
            change = (wide(found.rows(name)) - rows).abs().double()
            moved[name] = float(torch.where(change > 0, change / steps, 0.0).median())
    return moved


def _check(kind: str) -> None:
    if kind not in get_args(Kind):
        raise VestigeError(f"kind is one of {', '.join(get_args(Kind))}, got {kind!r}")


def _step(rows: Tensor, bits: int) -> Float[Tensor, "out 1"]:
    """Return the step of each row, float64: that of a row of denormal numbers would vanish in float32."""
    if bits < 2:
        raise VestigeError(f"rounding keeps at least 2 bits, got {bits}")
    counts: int = 2 ** (bits - 1) - 1
    return rows.double().abs().amax(-1, keepdim=True) / counts


def _levels(rows: Tensor) -> Float[Tensor, " 16"]:
    return torch.tensor(NF4_LEVELS, dtype=torch.float64, device=rows.device)


def _blocks(rows: Tensor) -> tuple[Float[Tensor, "blocks 64"], Float[Tensor, "blocks 1"]]:
    """Return the blocks, each divided by its largest absolute value, and those values."""
    flat = rows.double().flatten()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % _BLOCK)).reshape(-1, _BLOCK)
    scale = padded.abs().amax(-1, keepdim=True)
    return padded / torch.where(scale > 0, scale, 1.0), scale


def _widths(rows: Tensor) -> Float[Tensor, "out in"]:
    """Return the width of the interval that each weight is rounded from."""
    blocks, scale = _blocks(rows)
    levels = _levels(rows)
    edges = (levels[1:] + levels[:-1]) / 2
    widths = torch.diff(edges, prepend=levels[:1], append=levels[-1:])
    found: Tensor = widths[torch.bucketize(blocks, edges)] * scale
    return found.flatten()[: rows.numel()].reshape(rows.shape)
