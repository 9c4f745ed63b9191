"""Weight deltas as values, keyed by Hugging Face parameter names; `hooked.ledger` puts them in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked.errors import VestigeError

# Values that hold tensors are compared by identity, since tensors have no single truth value.


@dataclass(frozen=True, eq=False)
class RowDelta:
    """Adds `values[k]` to row `index[k]` of a matrix (or to entry `index[k]` of a vector)."""

    index: Int[Tensor, " rows"]
    values: Float[Tensor, "rows ..."]


@dataclass(frozen=True, eq=False)
class ColumnDelta:
    """Adds `values[k]` to column `index[k]` of a matrix."""

    index: Int[Tensor, " columns"]
    values: Float[Tensor, "columns height"]


@dataclass(frozen=True, eq=False)
class LowRankDelta:
    """Adds `left @ right` to a matrix."""

    left: Float[Tensor, "height rank"]
    right: Float[Tensor, "rank width"]


@dataclass(frozen=True, eq=False)
class DenseDelta:
    """Adds `values` to a whole parameter."""

    values: Float[Tensor, "*shape"]


Delta = RowDelta | ColumnDelta | LowRankDelta | DenseDelta


@dataclass(frozen=True, eq=False)
class WeightPatch:
    """A set of weight deltas that can be put in force and taken back bit-exactly.

    Args:
        deltas: Hugging Face parameter name to the delta of that parameter.
        tied: Accept that a named parameter is shared (tied embeddings), so that the delta acts on every place it is
            used. Without it, a patch that names a shared parameter is refused.
    """

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    tied: bool = False

    @staticmethod
    def between(before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, tied: bool = True) -> WeightPatch:
        """Return the dense patch that turns one set of weights into another; what is bit-equal is left out.

        The delta is taken and added in float32, so 16-bit weights come out bit-equal and float32 ones to the last
        place.

        Args:
            before: Name to parameter (or buffer) of the original.
            after: Name to parameter after a change; names missing here are taken as unchanged.
            tied: As in the constructor. True by default: two trained models that tie a parameter tie it in both.

        Raises:
            VestigeError: A name or a shape differs, or something other than floating point data changed.
        """
        deltas: dict[str, Delta] = {}
        for name, new in after.items():
            if name not in before:
                raise VestigeError(f"parameter '{name}' is not in the original, so it has no delta")
            old = before[name]
            if old.shape != new.shape:
                raise VestigeError(
                    f"parameter '{name}' has shape {tuple(new.shape)}, the original has {tuple(old.shape)}"
                )
            if torch.equal(old, new.to(old.device)):
                continue
            if not (old.is_floating_point() and new.is_floating_point()):
                raise VestigeError(f"'{name}' holds {old.dtype}; only floating point weights have a delta")
            deltas[hugging_face_name(name)] = DenseDelta((wide(new) - wide(old).to(new.device)).detach().cpu())
        return WeightPatch(deltas, tied=tied)

    def norms(self) -> dict[str, float]:
        """Return the Frobenius norm of each delta."""
        return {name: float(values_of(delta).norm()) for name, delta in self.deltas.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all delta tensors."""
        return sum(t.numel() * t.element_size() for d in self.deltas.values() for t in vars(d).values())


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter under its Hugging Face name, shared ones under each of their names.

    Wrappers that rename parameters (PEFT adapters, a TransformerBridge) are seen through, so a record made on the plain
    model fits.
    """
    named = model.named_parameters(remove_duplicate=False)
    modules = model.named_modules(remove_duplicate=False)
    wrappers = {name for name, module in modules if "_original_component" in module._modules}
    return {hugging_face_name(name): p for name, p in named if not _is_second_name(name, wrappers)}


def _is_second_name(name: str, wrappers: set[str]) -> bool:
    """Whether a name is of a TransformerBridge's own making: it does not go through what one of its wrappers wraps."""
    parts = name.split(".")
    ends = range(1, len(parts)) if wrappers else ()
    return any(".".join(parts[:i]) in wrappers and parts[i] != "_original_component" for i in ends)


def hugging_face_name(name: str) -> str:
    """Strip what wrappers add to a parameter name."""
    return name.replace("_original_component.", "").replace(".base_layer.", ".").removeprefix("base_model.model.")


def shared_names(model: nn.Module, name: str) -> tuple[str, ...]:
    """Return the other names under which a parameter is used (tied embeddings)."""
    parameters = parameters_of(model)
    return tuple(other for other, p in parameters.items() if other != name and p is parameters[name])


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in the precision in which deltas are added: float32, or wider if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def values_of(delta: Delta) -> Tensor:
    """Return what a delta adds, multiplied out."""
    return delta.left @ delta.right if isinstance(delta, LowRankDelta) else delta.values
