"""Reversed DoLa: say what earlier blocks make likely and the last ones hold back."""

from __future__ import annotations

from statistics import fmean

from hooked import HookedModel, UnlearnData
from interventions.decoding.dola import dola
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target


def reversed_dola(
    target: Target, data: UnlearnData, *, cutoff: float | None = 0.1, batch_size: int = 32, seed: int = 0
) -> Attacked:
    """Score the answers under the decoding `log p_l - log p_N`, normalised over the tokens that the exit allows.

    At each position the exit l is the block whose distribution is furthest from the last block's. `per_layer` has the
    means with the exit fixed after each block; the last has no contrast and is the plain question. A model that hides
    nothing scores low: what it says at the end is subtracted.

    Args:
        target: The subject; its own decoder reads the exits.
        data: Its forget items are asked.
        cutoff: Tokens below this fraction of the exit's likeliest one are never said; None keeps all.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: The model has one block, `cutoff` is out of range, or an item has no answer.

    Source:
        Chuang et al. 2023, DoLa, arXiv:2309.03883, turned round.
    """

    def under(layers: tuple[int, ...], view: HookedModel) -> tuple[float, ...]:
        with dola(view, layers=layers, cutoff=cutoff, reverse=True).applied(view) as contrasted:
            return asked(contrasted, data.forget, batch_size=batch_size).scores

    exits = tuple(range(target.view.n_layers - 1))
    scores = under(exits, target.view)
    each = [under((layer,), target.view) for layer in exits]
    each.append(asked(target.view, data.forget, batch_size=batch_size).scores)
    queries = len(data.forget) * (1 + len(each))
    return Attacked(scores, per_layer=tuple(map(fmean, each)), budget={"queries": queries, "layers": len(exits)})
