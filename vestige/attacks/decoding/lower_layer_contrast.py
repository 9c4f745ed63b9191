"""Lower-layer contrast: decode what one block adds to the block before it, and ignore everything above."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions.decoding.combiner import LogitCombiner, Term
from interventions.decoding.early_exit import notes
from interventions.decoding.plausible import Plausible
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.development import development_items


def lower_layer_contrast(
    target: Target,
    data: UnlearnData,
    *,
    cutoff: float = 0.1,
    trials: int = 32,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Score the answers under the decoding `log p_l - log p_(l-1)`, normalised over the tokens that block l allows.

    The block is the one that says kept facts best so. `per_layer` has the means for all blocks; the first has nothing
    before it and stands as `p_0` alone. What blocks above l write does not count, and neither do combiners.

    Args:
        target: The subject; its own decoder reads the exits.
        data: Its forget items are asked, its retain items choose the block.
        cutoff: Tokens below this fraction of block l's likeliest one are never said; above 0, at most 1.
        trials: On how many retain items the blocks are compared.
        batch_size: Rows per forward pass.
        seed: Of the draw of those.

    Raises:
        VestigeError: There is no retain item with an answer, `cutoff` is out of range, or a forget item has no answer.

    Source:
        After Chen et al. 2024, LOL, arXiv:2408.08769, and DoLa, arXiv:2309.03883; neighbouring blocks as in the
        probability delta of Patil et al. 2023, arXiv:2309.17410. The choice of the block is ours.
    """
    if trials < 1:
        raise VestigeError(f"blocks are compared on at least one retain item, got trials={trials}")
    known = development_items(data, most=trials, seed=seed, attack="lower_layer_contrast")
    blocks = range(target.view.n_layers)
    told = [fmean(_asked(target.view, known, layer, cutoff, batch_size)) for layer in blocks]
    each = [_asked(target.view, data.forget, layer, cutoff, batch_size) for layer in blocks]
    best = told.index(max(told))
    return Attacked(
        each[best],
        per_layer=tuple(map(fmean, each)),
        budget={"queries": len(blocks) * (len(known) + len(data.forget)), "seed": seed},
        note=f"block {best}, which scored {told[best]:.2g} on {len(known)} retain items",
    )


def _asked(model: HookedModel, items: Sequence[Item], layer: int, cutoff: float, batch_size: int) -> tuple[float, ...]:
    below = () if layer == 0 else (layer - 1,)
    terms = (Term(1.0, layers=(layer,)), *(Term(-1.0, layers=(one,)) for one in below))
    combiner = LogitCombiner(terms, plausible=Plausible(cutoff))
    spec = Spec("lower_layer_contrast", "attack", settings={"layer": layer, "cutoff": cutoff})
    with Intervention(spec, edits=notes((*below, layer)), logits=combiner).applied(model) as contrasted:
        return asked(contrasted, items, batch_size=batch_size).scores
