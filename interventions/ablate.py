"""Vector ablation: overwrite single value vectors by noise, zero, a mean, or a version without some tokens."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, Intervention, Spec, VestigeError
from hooked.sites import SiteLike

Mode = Literal["gauss", "zero", "mean", "project_out"]
Form = Literal["weights", "hooks"]
Neuron = tuple[int, int]

_SOURCE = "Hong et al. 2024, arXiv:2406.11614"


@runtime_checkable
class NeuronLike(Protocol):
    """Anything that names a neuron, such as a concept vector."""

    @property
    def layer(self) -> int: ...

    @property
    def neuron(self) -> int: ...


VectorLike = tuple[int, int] | NeuronLike


@dataclass(frozen=True)
class ReadNeurons:
    """Edit of `mlp.hook_post` that changes nothing: hands some neurons to `AddToValues` of the same name."""

    neurons: Int[Tensor, " neurons"]
    name: str

    def __call__(self, activation: Float[Tensor, "batch pos d_mlp"], /, hook: HookContext) -> Tensor:
        _state(hook)[self.name] = activation[..., self.neurons.to(activation.device)]
        return activation


@dataclass(frozen=True)
class AddToValues:
    """Edit of an MLP's output: adds `sum_j m_j change_j`, as if the value vectors were changed.

    Args:
        change: New minus old value vector per neuron.
        name: As in `ReadNeurons`, which runs first.
    """

    change: Float[Tensor, "neurons d_model"]
    name: str

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> Tensor:
        neurons: Tensor = _state(hook)[self.name]
        dtype = torch.promote_types(activation.dtype, torch.float32)
        added = neurons.to(activation.device, dtype) @ self.change.to(activation.device, dtype)
        return (activation.to(dtype) + added).to(activation.dtype)


def _state(hook: HookContext) -> dict[Any, Any]:
    if hook.request is None:
        raise VestigeError(
            "vector ablation by hooks carries activations from site to site; run it through Intervention.applied"
        )
    return hook.request.state


def ablate_vectors(
    model: HookedModel,
    vectors: Sequence[VectorLike],
    *,
    mode: Mode = "gauss",
    scale: float = 3.0,
    tokens: Sequence[int | str] = (),
    form: Form = "weights",
    seed: int = 0,
) -> Intervention:
    """Overwrite value vectors `v`, the rows of `W_out` that single neurons add to the residual stream.

    `gauss`: `v + n`, `n ~ N(0, sigma^2 I)`, `sigma = scale |v| / sqrt(d_model)`, so that `E |n|^2 = scale^2 |v|^2` and
    the cosine with `v` is about `1 / sqrt(1 + scale^2)`. `zero`: 0. `mean`: the mean value vector of the block.
    `project_out`: `v - Q Q^T v`, `Q` an orthonormal basis of the unembedding columns of `tokens`, so that the new
    vector promotes none of them.

    Args:
        model: Any model with dense MLPs; not changed.
        vectors: `(layer, neuron)` pairs or objects with `.layer` and `.neuron`; negative layers count from the end.
        mode: What takes the place of each vector.
        scale: Size of the noise relative to the vector; only for `gauss`.
        tokens: Token ids, or texts whose tokens are meant; only for `project_out`.
        form: `weights` edits the matrix; `hooks` adds `m_j (v' - v)` to the MLP's own output, before any norm that
            follows it, and gives the same logits with the weights untouched.
        seed: Of the noise.

    Raises:
        VestigeError: No vector, a neuron that does not exist, an unknown mode, or `project_out` without tokens.

    Source:
        Hong et al. 2024, arXiv:2406.11614. Published: `sigma` 0.1 at d_model 4096, which means something else for
        vectors of another norm.
    """
    neurons = neurons_of(model, vectors)
    if form not in get_args(Form):
        raise VestigeError(f"form is 'weights' or 'hooks', got {form!r}")
    new = _replacements(model, neurons, mode=mode, scale=scale, tokens=tokens, seed=seed)
    settings: dict[str, Any] = {"vectors": tuple(neurons), "mode": mode, "form": form}
    if mode == "gauss":
        settings |= {"scale": scale, "seed": seed}
    if mode == "project_out":
        settings |= {"tokens": tuple(tokens)}
    if form == "weights":
        return Intervention(
            Spec("ablate_vectors", "removal", ("vectors",), _SOURCE, settings), weights=model.value_patch(new)
        )
    changes = {n: wide(vector) - wide(model.value_vectors(n[0])[n[1]]) for n, vector in new.items()}
    edits = value_edits(model, neurons, stacked(changes))
    return Intervention(Spec("ablate_vectors", "suppression", ("vectors",), _SOURCE, settings), edits=edits)


def neurons_of(model: HookedModel, vectors: Iterable[VectorLike]) -> list[Neuron]:
    """Return checked `(layer, neuron)` pairs, each once, in the order given.

    Raises:
        VestigeError: There is none, or one does not exist.
    """
    pairs: dict[Neuron, None] = {}
    for vector in vectors:
        layer, neuron = vector if isinstance(vector, tuple) else (vector.layer, vector.neuron)
        if not -model.n_layers <= layer < model.n_layers:
            raise VestigeError(
                f"no layer {layer} in a {model.n_layers}-layer model (layers are 0 to {model.n_layers - 1})"
            )
        width = len(model.value_vectors(layer))
        if not 0 <= neuron < width:
            raise VestigeError(f"layer {layer} has neurons 0 to {width - 1}, got {neuron}")
        pairs[int(layer) % model.n_layers, int(neuron)] = None
    if not pairs:
        raise VestigeError(
            "no vector was given; find some with probes.find_concept_vectors, or pass (layer, neuron) pairs"
        )
    return list(pairs)


def stacked(vectors: Mapping[Neuron, Float[Tensor, " d_model"]]) -> dict[int, Float[Tensor, "neurons d_model"]]:
    """Stack vectors per block, in their order."""
    layers = sorted({layer for layer, _ in vectors})
    return {layer: torch.stack([v for (at, _), v in vectors.items() if at == layer]) for layer in layers}


def value_edits(
    model: HookedModel, neurons: Sequence[Neuron], changes: Mapping[int, Float[Tensor, "neurons d_model"]]
) -> dict[SiteLike, Edit]:
    """Return the edits that act as if value vectors were changed; gradients reach the changes.

    Args:
        model: Gives the sites.
        neurons: Which ones.
        changes: New minus old value vectors per block, in the order of `neurons`.
    """
    edits: dict[SiteLike, Edit] = {}
    for layer, change in changes.items():
        here = [neuron for at, neuron in neurons if at == layer]
        name = f"neurons {here} of block {layer}"
        edits[model.site_map.resolve(("mlp_post", layer))] = ReadNeurons(torch.tensor(here), name)
        edits[_mlp_output(model, layer)] = AddToValues(change, name)
    return edits


def _mlp_output(model: HookedModel, layer: int) -> str:
    """Return the site of what the MLP itself computes; `hook_mlp_out` may lie behind a norm or a factor."""
    try:
        return model.site_map.resolve(("mlp_raw", layer))
    except VestigeError:
        # OPT's MLP is not a module of its own; there the output of its last projection is the site.
        return model.site_map.resolve(("mlp_out", layer))


def _replacements(
    model: HookedModel, neurons: Sequence[Neuron], *, mode: Mode, scale: float, tokens: Sequence[int | str], seed: int
) -> dict[Neuron, Tensor]:
    old = {(layer, neuron): wide(model.value_vectors(layer)[neuron]) for layer, neuron in neurons}
    if mode == "zero":
        return {n: torch.zeros_like(v) for n, v in old.items()}
    if mode == "mean":
        return {n: wide(model.value_vectors(n[0])).mean(0) for n in old}
    if mode == "gauss":
        return {
            n: v + noise
            for (n, v), noise in zip(old.items(), gaussians(old.values(), scale=scale, seed=seed), strict=True)
        }
    if mode == "project_out":
        basis = _token_basis(model, tokens)
        return {n: (v.double() - basis @ (basis.T @ v.double())).to(v.dtype) for n, v in old.items()}
    raise VestigeError(f"mode is one of {', '.join(get_args(Mode))}, got {mode!r}")


def gaussians(
    vectors: Iterable[Float[Tensor, " d_model"]], *, scale: float, seed: int
) -> list[Float[Tensor, " d_model"]]:
    """Draw noise of `scale` times each vector's own norm (in the root mean square), independent between vectors.

    Raises:
        VestigeError: `scale` is negative or not finite.
    """
    if not 0 <= scale < float("inf"):
        raise VestigeError(f"scale is a finite number of at least 0, got {scale}")
    generator = torch.Generator().manual_seed(seed)
    noise = []
    for vector in vectors:
        draw = torch.randn(vector.shape, generator=generator, dtype=torch.float64).to(vector)
        noise.append(draw * (scale * vector.norm() / len(vector) ** 0.5))
    return noise


def _token_basis(model: HookedModel, tokens: Sequence[int | str]) -> Float[Tensor, "d_model rank"]:
    """Return an orthonormal basis of what the unembedding reads for some tokens."""
    ids: list[int] = []
    for token in tokens:
        found = [token] if isinstance(token, int) else _ids(model, token)
        wrong = [i for i in found if not 0 <= i < model.d_vocab]
        if wrong or not found:
            raise VestigeError(
                f"tokens has {token!r}, and token ids are 0 to {model.d_vocab - 1}"
                if wrong
                else f"{token!r} gives no token"
            )
        ids += found
    if not ids:
        raise VestigeError("mode 'project_out' needs tokens=, the concept's token ids or words")
    columns = model.W_U[:, sorted(set(ids))].double()
    left, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Tensor = left[:, singular > singular[0] * max(columns.shape) * torch.finfo(torch.float64).eps]
    if basis.shape[1] >= model.d_model:
        warnings.warn(
            f"{basis.shape[1]} independent tokens span all of d_model = {model.d_model}, so project_out leaves nothing "
            "of any vector; use fewer tokens, or mode='zero' if that is meant",
            UserWarning,
            stacklevel=4,
        )
    return basis


def _ids(model: HookedModel, text: str) -> list[int]:
    if model.tokenizer is None:
        raise VestigeError(f"tokens has the text {text!r}, and the model has no tokenizer; give token ids")
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def wide(vector: Tensor) -> Tensor:
    """Return a vector in float32 or wider."""
    return vector.to(torch.promote_types(vector.dtype, torch.float32))
