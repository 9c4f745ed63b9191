"""New value vectors for single neurons, as a weight patch that hides how the layer is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hooked.errors import VestigeError
from hooked.weights import ColumnDelta, Delta, RowDelta, WeightPatch

if TYPE_CHECKING:
    from hooked.model import HookedModel


def value_patch(model: HookedModel, rows: Mapping[tuple[int, int], Float[Tensor, " d_model"]]) -> WeightPatch:
    """Return the patch that gives neurons new value vectors; `HookedModel.value_patch` documents it."""
    by_layer: dict[int, dict[int, Tensor]] = {}
    for (layer, neuron), vector in rows.items():
        model.block_part(layer, "mlp.out")
        by_layer.setdefault(layer % model.n_layers, {})[neuron] = vector
    return WeightPatch(dict(_delta(model, layer, vectors) for layer, vectors in sorted(by_layer.items())))


def _delta(model: HookedModel, layer: int, vectors: Mapping[int, Tensor]) -> tuple[str, Delta]:
    old, neurons = model.value_vectors(layer), sorted(vectors)
    if neurons[0] < 0 or neurons[-1] >= len(old):
        raise VestigeError(f"layer {layer} has neurons 0 to {len(old) - 1}, got {neurons[0]} to {neurons[-1]}")
    wrong = next((n for n in neurons if vectors[n].shape != old.shape[1:]), None)
    if wrong is not None:
        came, needed = tuple(vectors[wrong].shape), tuple(old.shape[1:])
        raise VestigeError(f"value vector ({layer}, {wrong}) has shape {came}, needed {needed}")
    index = torch.tensor(neurons)
    wide = torch.promote_types(old.dtype, torch.float32)
    new = torch.stack([vectors[n].detach().to(old.device, wide) for n in neurons])
    change = (new - old[index.to(old.device)].to(wide)).cpu()
    stored_as_rows = model._geometry.is_transposed(model.block_part(layer, "mlp.out"))
    return model.weight_name("mlp.out", layer), (RowDelta if stored_as_rows else ColumnDelta)(index, change)
