"""Does a set of neurons carry the knowledge? Zero their value vectors, and see which answers become less likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Item, Spec, VestigeError
from probes.concept_vectors import ConceptVector

Neuron = tuple[int, int]


@dataclass(frozen=True)
class CausalEffect:
    """Mean fall of the answer probability when neurons are ablated together, on items and against control neurons.

    Probabilities are length-normalised, `exp(mean log p)` over the answer's tokens, and drops are `before - after`: 0
    is no effect, a negative drop a rise.

    Args:
        target_before: Mean probability of the target answers in the untouched model.
        target_drop: Mean drop on the target items.
        unrelated_before: Mean probability of the unrelated answers.
        unrelated_drop: Mean drop on the unrelated items.
        control_target_drop: Mean drop on the target items over draws of as many random neurons from the same layers.
        control_unrelated_drop: The same on the unrelated items.
        control_target_drops: Every draw's mean drop on the target items; the spread of the control.
        target_drops: Drop of each target item.
        unrelated_drops: Drop of each unrelated item.
        n_vectors: Number of neurons ablated.
    """

    target_before: float
    target_drop: float
    unrelated_before: float
    unrelated_drop: float
    control_target_drop: float
    control_unrelated_drop: float
    control_target_drops: tuple[float, ...]
    target_drops: tuple[float, ...]
    unrelated_drops: tuple[float, ...]
    n_vectors: int


def causal_effect(
    model: HookedModel,
    vectors: Sequence[ConceptVector | Neuron],
    target: Sequence[Item],
    unrelated: Sequence[Item],
    *,
    control_draws: int = 5,
    seed: int = 0,
    batch_size: int = 64,
) -> CausalEffect:
    """Ablate neurons together (value vectors set to zero) and measure the fall of answer probabilities.

    The weights are restored bit by bit.

    Args:
        model: A model or a view.
        vectors: What `find_concept_vectors` returned, or `(layer, neuron)` pairs.
        target: Items that should suffer.
        unrelated: Items that should not.
        control_draws: Draws of random neurons, as many and from the same layers as `vectors`, none of which is in
            `vectors`.
        seed: Of the draws.
        batch_size: Items per forward pass.

    Raises:
        VestigeError: No vector or item, an item without an answer, or a layer with too few other neurons for a control.

    Source:
        Hong et al. 2024, arXiv:2406.11614, section 4: target falls, unrelated stays.
    """
    neurons = _neurons(model, vectors)
    if control_draws < 1:
        raise VestigeError(f"a control needs at least one draw of random neurons, got control_draws={control_draws}")
    items, n_target = [*target, *unrelated], len(target)
    if not 0 < n_target < len(items):
        raise VestigeError("causal_effect needs at least one target and one unrelated item")
    before = answer_probability(model, items, batch_size=batch_size)

    def drop(picked: Sequence[Neuron]) -> Float[Tensor, " n"]:
        return before - ablated_probability(model, picked, items, batch_size=batch_size)

    drops = drop(neurons)
    generator = torch.Generator().manual_seed(seed)
    control = torch.stack([drop(_matched(model, neurons, generator)) for _ in range(control_draws)])
    return CausalEffect(
        target_before=float(before[:n_target].mean()),
        target_drop=float(drops[:n_target].mean()),
        unrelated_before=float(before[n_target:].mean()),
        unrelated_drop=float(drops[n_target:].mean()),
        control_target_drop=float(control[:, :n_target].mean()),
        control_unrelated_drop=float(control[:, n_target:].mean()),
        control_target_drops=tuple(control[:, :n_target].mean(-1).tolist()),
        target_drops=tuple(drops[:n_target].tolist()),
        unrelated_drops=tuple(drops[n_target:].tolist()),
        n_vectors=len(neurons),
    )


def ablated_probability(
    model: HookedModel, vectors: Sequence[ConceptVector | Neuron], items: Sequence[Item], *, batch_size: int = 64
) -> Float[Tensor, " n"]:
    """Return `answer_probability` with the value vectors of some neurons set to zero; the weights are restored bit by
    bit."""
    zero = torch.zeros(model.d_model)
    patch = model.value_patch(dict.fromkeys(_neurons(model, vectors), zero))
    with Intervention(Spec("causal_effect", intent="removal"), weights=patch).applied(model) as view:
        return answer_probability(view, items, batch_size=batch_size)


@torch.no_grad()
def answer_probability(model: HookedModel, items: Sequence[Item], *, batch_size: int = 64) -> Float[Tensor, " n"]:
    """Return each answer's length-normalised probability after its prompt, `exp(mean log p)` over its tokens, in
    float64 on the CPU.

    A row's first token has nothing before it and is not predicted, so it is left out of the mean.

    Raises:
        VestigeError: No item, or an item without an answer token to predict.
    """
    if not items:
        raise VestigeError("answer_probability needs at least one item")
    bare = next((i for i, item in enumerate(items) if item.generation_only), None)
    if bare is not None:
        raise VestigeError(
            f"item {bare} ({items[bare].prompt[:40]!r}) has no answer whose probability could be measured"
        )
    found: list[Tensor] = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        batch = model.tokenize([item.prompt for item in part], answers=[item.answer for item in part])
        # A row's first real token follows nothing but padding.
        scored = batch.answer[:, 1:] & batch.mask[:, :-1]
        if not bool(scored.any(-1).all()):
            at = int((~scored.any(-1)).nonzero()[0])
            raise VestigeError(
                f"item {start + at} has a single token and nothing before it, so no answer token is predicted"
            )
        logits = model.logits(batch)[:, :-1]
        rows, places = scored.nonzero(as_tuple=True)
        chosen = logits[rows, places].double()
        log_p = chosen.gather(-1, batch.ids[:, 1:][rows, places, None].to(chosen.device))[:, 0] - chosen.logsumexp(-1)
        total = torch.zeros(len(part), dtype=torch.float64, device=log_p.device).index_add_(0, rows, log_p)
        found.append((total / scored.sum(-1)).exp().cpu())
    return torch.cat(found)


def _neurons(model: HookedModel, vectors: Sequence[ConceptVector | Neuron]) -> tuple[Neuron, ...]:
    pairs = [(v.layer, v.neuron) if isinstance(v, ConceptVector) else (int(v[0]), int(v[1])) for v in vectors]
    wrong = next((p for p in pairs if not (-model.n_layers <= p[0] < model.n_layers and 0 <= p[1] < model.d_mlp)), None)
    if wrong is not None or not pairs:
        what = "no neuron to ablate was given" if wrong is None else f"no neuron (layer, neuron) = {wrong}"
        raise VestigeError(f"{what}; layers are 0 to {model.n_layers - 1} and neurons 0 to {model.d_mlp - 1}")
    return tuple(dict.fromkeys((layer % model.n_layers, neuron) for layer, neuron in pairs))


def _matched(model: HookedModel, neurons: Sequence[Neuron], generator: torch.Generator) -> tuple[Neuron, ...]:
    """Draw as many neurons per layer as `neurons` has there, none of them in `neurons`."""
    drawn: list[Neuron] = []
    for layer in sorted({layer for layer, _ in neurons}):
        taken = {n for at, n in neurons if at == layer}
        others = [n for n in range(model.d_mlp) if n not in taken]
        if len(others) < len(taken):
            raise VestigeError(
                f"{len(taken)} of the {model.d_mlp} neurons of layer {layer} are ablated, "
                "which leaves too few for a control of the same size"
            )
        order = torch.randperm(len(others), generator=generator)[: len(taken)].tolist()
        drawn += [(layer, others[i]) for i in order]
    return tuple(drawn)
