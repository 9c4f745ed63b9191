"""Which weights moved, how far, and in how many directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention
from hooked.sites import layer_of
from hooked.weights import ColumnDelta, Delta, RowDelta, hugging_face_name, parameters_of, values_of, wide

# Power iteration stops where the norm grows by less than this part of itself.
_GROWTH, _STEPS = 1e-6, 300


@dataclass(frozen=True)
class Moved:
    """How far one parameter lies from the original's.

    Args:
        name: Its Hugging Face name.
        layer: Its block; None outside the blocks.
        delta: Frobenius norm of the difference, in the units of the weights.
        norm: Frobenius norm of the original's.
        stable_rank: |delta|_F^2 / |delta|_2^2 of a matrix, between 1 and its rank; None for vectors and where nothing
            moved.
        rows: Share of its rows that differ, in [0, 1].
        columns: Share of its columns that differ; None for vectors.
    """

    name: str
    layer: int | None
    delta: float
    norm: float
    stable_rank: float | None
    rows: float
    columns: float | None

    @property
    def relative(self) -> float | None:
        """`delta / norm`; None where the original's is zero."""
        return self.delta / self.norm if self.norm > 0 else None


def moved_by(intervention: Intervention, original: HookedModel) -> tuple[Moved, ...]:
    """Return how far an intervention moves every parameter of a model on which it is not in force.

    Args:
        intervention: Its weight deltas count, those of all parts added up; what it does through hooks does not.
        original: The model before it.
    """
    deltas: dict[str, list[Delta]] = {}
    for step in intervention.steps:
        for name, delta in ({} if step.weights is None else step.weights.deltas).items():
            deltas.setdefault(name, []).append(delta)
    layers = _layers(original)
    return tuple(
        _moved(name, layers.get(name), weight, _total(deltas[name], weight) if name in deltas else None)
        for name, weight in _own(original)
    )


def moved_between(original: HookedModel, other: HookedModel) -> tuple[Moved, ...] | str:
    """Return how far the parameters of another model lie from the original's, or why they cannot be compared."""
    theirs = parameters_of(other.model)
    mine = dict(_own(original))
    extra = sorted(set(theirs) - set(parameters_of(original.model)))
    if extra:
        return f"it has parameters that the original lacks, e.g. '{extra[0]}'; merge adapters into the weights first"
    for name, weight in mine.items():
        if name not in theirs or theirs[name].shape != weight.shape:
            return f"its '{name}' is missing or of another shape than the original's"
        if not theirs[name].is_floating_point() or theirs[name].is_meta:
            return f"its '{name}' holds no floating point weights in memory"
    layers = _layers(original)
    return tuple(
        _moved(name, layers.get(name), weight, wide(theirs[name].detach()).to(weight.device) - wide(weight))
        for name, weight in mine.items()
    )


def _own(model: HookedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield every floating point parameter once, however many names it has."""
    seen: set[int] = set()
    for name, parameter in parameters_of(model.model).items():
        if id(parameter) not in seen and parameter.is_floating_point() and not parameter.is_meta:
            seen.add(id(parameter))
            yield name, parameter.detach()


def _layers(model: HookedModel) -> dict[str, int]:
    """Return the block of every parameter that is in one."""
    paths: dict[int, list[list[str]]] = {}
    for part, path in model.site_map.weights.items():
        layer = layer_of(part)
        if layer is not None:
            paths.setdefault(layer, []).append(hugging_face_name(f"{path}.").split(".")[:-1])
    # What the parts of a block have in common is the path of the block.
    blocks = {layer: ".".join([*_common(found), ""]) for layer, found in paths.items()}
    names = parameters_of(model.model)
    return {name: layer for layer, block in blocks.items() for name in names if name.startswith(block)}


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _total(deltas: Sequence[Delta], weight: Tensor) -> Tensor:
    """Return the sum of some deltas of one parameter, written out."""
    total = torch.zeros_like(wide(weight))
    for delta in deltas:
        values = values_of(delta).to(total)
        if isinstance(delta, RowDelta):
            total[delta.index.to(total.device)] += values
        elif isinstance(delta, ColumnDelta):
            total[:, delta.index.to(total.device)] += values.T
        else:
            total += values
    return total


def _moved(name: str, layer: int | None, weight: Tensor, delta: Tensor | None) -> Moved:
    norm = float(wide(weight).norm())
    matrix = weight.ndim == 2
    if delta is None or not bool(delta.any()):
        return Moved(name, layer, 0.0, norm, None, 0.0, 0.0 if matrix else None)
    size = float(delta.norm())
    changed = delta != 0
    rows = float(changed.flatten(1).any(1).float().mean()) if delta.ndim > 1 else float(changed.float().mean())
    if not matrix:
        return Moved(name, layer, size, norm, None, rows, None)
    return Moved(name, layer, size, norm, stable_rank(delta), rows, float(changed.any(0).float().mean()))


def stable_rank(matrix: Float[Tensor, "height width"]) -> float:
    """Return |A|_F^2 / |A|_2^2: 1 for a matrix of rank 1, at most its rank; the spectral norm by power iteration.

    Power iteration never overshoots the spectral norm, so the result errs upwards, by little.

    Source:
        Rudelson, Vershynin 2007, arXiv:math/0503442.
    """
    # The longest row is in no way orthogonal to the first singular direction, except where others are as long.
    rows = matrix.float() if matrix.dtype != torch.float64 else matrix
    scale = rows.norm()
    rows = rows / scale
    vector = rows[rows.norm(dim=1).argmax()]
    found = 0.0
    for _ in range(_STEPS):
        vector = rows.T @ (rows @ (vector / vector.norm()))
        size = float(vector.norm())
        if size <= found * (1 + _GROWTH):
            break
        found = size
    return 1 / max(found, size)
