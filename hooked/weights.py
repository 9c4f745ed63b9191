"""Reversible weight deltas, keyed by Hugging Face parameter names.

While patches are in force the ledger of a model keeps the untouched values of every region they cover. A region is always
`base + sum of the active deltas`, added in float32 (or wider) and rounded once, so patches may be left in any order and the last one out restores
the base values bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked.errors import VestigeError


@dataclass(frozen=True)
class RowDelta:
    """Adds `values[k]` to row `index[k]` of a matrix (or to entry `index[k]` of a vector)."""

    index: Int[Tensor, " rows"]
    values: Float[Tensor, "rows *width"]


@dataclass(frozen=True)
class ColumnDelta:
    """Adds `values[k]` to column `index[k]` of a matrix."""

    index: Int[Tensor, " columns"]
    values: Float[Tensor, "columns height"]


@dataclass(frozen=True)
class LowRankDelta:
    """Adds `left @ right` to a matrix."""

    left: Float[Tensor, "height rank"]
    right: Float[Tensor, "rank width"]


@dataclass(frozen=True)
class DenseDelta:
    """Adds `values` to a whole parameter."""

    values: Float[Tensor, "..."]


Delta = RowDelta | ColumnDelta | LowRankDelta | DenseDelta


@dataclass(frozen=True)
class WeightPatch:
    """A set of weight deltas that can be put in force and taken back bit-exactly.

    Args:
        deltas: Hugging Face parameter name to the delta of that parameter.
        tied: Accept that a named parameter is shared (tied embeddings), so that the delta acts on every place it is used. Without it,
            a patch that names a shared parameter is refused.
    """

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    tied: bool = False

    @staticmethod
    def between(before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, tied: bool = True) -> WeightPatch:
        """Return the dense patch that turns one set of parameters into another; parameters that are bit-equal are left out.

        Args:
            before: Name to parameter of the original.
            after: Name to parameter after a change; names missing here are taken as unchanged.
            tied: As in the constructor. True by default: two trained models that tie a parameter tie it in both.
        """
        deltas: dict[str, Delta] = {}
        for name, new in after.items():
            old = before[name]
            if old.shape != new.shape:
                raise VestigeError(f"parameter '{name}' has shape {tuple(new.shape)}, the original has {tuple(old.shape)}")
            if not torch.equal(old, new):
                deltas[name] = DenseDelta((_wide(new) - _wide(old)).detach().cpu())
        return WeightPatch(deltas, tied=tied)

    def norms(self) -> dict[str, float]:
        """Return the Frobenius norm of each delta."""
        return {name: float(dense.norm()) for name, dense in ((n, _values(d)) for n, d in self.deltas.items())}

    @property
    def nbytes(self) -> int:
        """Bytes of all delta tensors."""
        return sum(t.numel() * t.element_size() for d in self.deltas.values() for t in vars(d).values())


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter under its Hugging Face name, shared ones under each of their names.

    Wrappers that rename parameters (PEFT adapters, a TransformerBridge) are seen through, so a record made on the plain model fits.
    """
    return {hugging_face_name(name): p for name, p in model.named_parameters(remove_duplicate=False)}


def hugging_face_name(name: str) -> str:
    """Strip what wrappers add to a parameter name."""
    return name.replace("_original_component.", "").replace(".base_layer.", ".").removeprefix("base_model.model.")


def shared_names(model: nn.Module, name: str) -> tuple[str, ...]:
    """Return the other names under which a parameter is used (tied embeddings)."""
    parameters = parameters_of(model)
    return tuple(other for other, p in parameters.items() if other != name and p is parameters[name])


@contextmanager
def patched(model: nn.Module, patch: WeightPatch) -> Iterator[None]:
    """Put a patch in force and restore the weights bit by bit, whatever happens in between and whichever patch is left first.

    Raises:
        VestigeError: A parameter does not exist, is shared and `patch.tied` is off, has another shape, or holds no floating point data.
    """
    ledger = _LEDGERS.setdefault(model, _Ledger())
    parameters = _checked(model, patch)
    ledger.enter(patch, parameters)
    try:
        yield
    finally:
        ledger.leave(patch, parameters)


def _checked(model: nn.Module, patch: WeightPatch) -> dict[str, nn.Parameter]:
    parameters = parameters_of(model)
    for name, delta in patch.deltas.items():
        if name not in parameters:
            raise VestigeError(f"the model has no parameter '{name}'")
        parameter, shared = parameters[name], shared_names(model, name)
        if shared and not patch.tied:
            raise VestigeError(
                f"'{name}' is tied to '{shared[0]}', so patching it changes both; pass tied=True to the WeightPatch if that is meant, "
                "or untie the embeddings first"
            )
        if any(other in patch.deltas for other in shared):
            raise VestigeError(f"'{name}' and '{shared[0]}' are one tied parameter; give its delta once")
        if not parameter.is_floating_point() or parameter.is_meta:
            raise VestigeError(f"'{name}' is {'offloaded' if parameter.is_meta else parameter.dtype}; weight patches need floating point weights in memory")
        _check_shape(name, delta, parameter)
    return {name: parameters[name] for name in patch.deltas}


def _check_shape(name: str, delta: Delta, parameter: Tensor) -> None:
    shape = tuple(parameter.shape)
    if isinstance(delta, RowDelta):
        fits = delta.values.shape[1:] == parameter.shape[1:] and len(delta.index) == len(delta.values) and _inside(delta.index, shape[0])
    elif isinstance(delta, ColumnDelta):
        fits = len(shape) == 2 and delta.values.shape[1] == shape[0] and len(delta.index) == len(delta.values) and _inside(delta.index, shape[1])
    elif isinstance(delta, LowRankDelta):
        fits = (delta.left.shape[0], delta.right.shape[1]) == shape and delta.left.shape[1] == delta.right.shape[0]
    else:
        fits = tuple(delta.values.shape) == shape
    if not fits:
        raise VestigeError(f"the {type(delta).__name__} of '{name}' does not fit a parameter of shape {shape}")


def _inside(index: Tensor, size: int) -> bool:
    return index.numel() == 0 or (int(index.min()) >= 0 and int(index.max()) < size and len(index.unique()) == len(index))


class _Ledger:
    """The patches in force on one module and the values beneath them."""

    def __init__(self) -> None:
        self.active: list[tuple[WeightPatch, dict[int, Delta]]] = []
        self.whole: dict[int, Tensor] = {}
        self.lines: dict[int, dict[tuple[int, int], Tensor]] = {}

    def enter(self, patch: WeightPatch, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, delta in patch.deltas.items():
            self._keep(parameters[name], delta)
        # Keyed by identity: two patches may reach one tied parameter under different names.
        self.active.append((patch, {id(parameters[name]): delta for name, delta in patch.deltas.items()}))
        self._rebuild(parameters)

    def leave(self, patch: WeightPatch, parameters: Mapping[str, nn.Parameter]) -> None:
        index = next(i for i, (other, _) in enumerate(self.active) if other is patch)
        del self.active[index]
        self._rebuild(parameters)
        if not self.active:
            self.whole.clear()
            self.lines.clear()

    @torch.no_grad()
    def _keep(self, parameter: nn.Parameter, delta: Delta) -> None:
        key = id(parameter)
        if key in self.whole:
            return
        if isinstance(delta, RowDelta | ColumnDelta):
            axis = 0 if isinstance(delta, RowDelta) else 1
            kept = self.lines.setdefault(key, {})
            for line in delta.index.tolist():
                # A crossing of a kept row and a kept column would be saved after one of them was edited.
                if any(other_axis != axis for other_axis, _ in kept):
                    break
                kept.setdefault((axis, line), parameter.data.select(axis, line).clone())
            else:
                return
        base = parameter.data.clone()
        for (axis, line), values in self.lines.pop(key, {}).items():
            base.select(axis, line).copy_(values)
        self.whole[key] = base

    @torch.no_grad()
    def _rebuild(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for parameter in parameters.values():
            key = id(parameter)
            deltas = [by_parameter[key] for _, by_parameter in self.active if key in by_parameter]
            if key in self.whole:
                parameter.data.copy_(_sum(self.whole[key], deltas))
                continue
            for (axis, line), base in self.lines.get(key, {}).items():
                parameter.data.select(axis, line).copy_(_sum_line(base, deltas, line))


_LEDGERS: WeakKeyDictionary[nn.Module, _Ledger] = WeakKeyDictionary()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _values(delta: Delta) -> Tensor:
    return delta.left @ delta.right if isinstance(delta, LowRankDelta) else delta.values


def _sum(base: Tensor, deltas: list[Delta]) -> Tensor:
    if not deltas:
        return base
    total = _wide(base).clone()
    for delta in deltas:
        values = _values(delta).to(total)
        if isinstance(delta, RowDelta):
            total[delta.index.to(total.device)] += values
        elif isinstance(delta, ColumnDelta):
            total[:, delta.index.to(total.device)] += values.T
        else:
            total += values
    return total.to(base.dtype)


def _sum_line(base: Tensor, deltas: list[Delta], line: int) -> Tensor:
    if not deltas:
        return base
    total = _wide(base).clone()
    for delta in deltas:
        if isinstance(delta, RowDelta | ColumnDelta):
            for k in (delta.index == line).nonzero().flatten().tolist():
                total += delta.values[k].to(total)
    return total.to(base.dtype)
