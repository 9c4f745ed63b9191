"""The weight matrices inside a model, each turned so that a row computes one output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from hooked import HookedModel
from hooked.effective import is_transposed
from hooked.weights import parameters_of


@dataclass(frozen=True, eq=False)
class Matrices:
    """The matrices of all projections of a model, and what it has beside them.

    Args:
        weights: Hugging Face name to the parameter as it is stored; a tied one is here under one name.
        transposed: Names of those stored as `[in, out]` (GPT-2's Conv1D).
        left_out: Names of all other parameters.
    """

    weights: Mapping[str, nn.Parameter]
    transposed: frozenset[str]
    left_out: tuple[str, ...]

    def rows(self, name: str, values: Tensor | None = None) -> Float[Tensor, "out in"]:
        """Turn a matrix, or something of its shape, so that a row computes one output; twice gives back the first."""
        stored = self.weights[name].detach() if values is None else values
        return stored.T if name in self.transposed else stored


def matrices_of(model: HookedModel, *, embeddings: bool = False) -> Matrices:
    """Collect the matrices of a model: those of attention and MLPs.

    Biases, norms, adapters, and weights of experts that are stored as one block are always left out.

    Args:
        model: A model or a view; the parameters are those in force, not copies.
        embeddings: Also take embeddings of tokens and positions, and the unembedding.
    """
    modules = [(path, m) for path, m in model.model.named_modules() if _has_matrix(m)]
    outside = {
        id(m.weight)
        for path, m in modules
        if isinstance(m, nn.Embedding) or path == model.site_map.weights.get("unembed")
    }
    turned = {id(m.weight): is_transposed(m) for _, m in modules if embeddings or id(m.weight) not in outside}
    chosen: dict[str, nn.Parameter] = {}
    left: list[str] = []
    taken: set[int] = set()
    for name, parameter in parameters_of(model.model).items():
        if id(parameter) not in turned or ".lora_" in name:
            left.append(name)
        elif id(parameter) not in taken:
            taken.add(id(parameter))
            chosen[name] = parameter
    return Matrices(chosen, frozenset(name for name, p in chosen.items() if turned[id(p)]), tuple(left))


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim == 2
