"""DoLa: say what the last block makes more likely than an earlier one; reversed, what it makes less likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.decoding.combiner import LogitCombiner, Term
from interventions.decoding.divergence import Divergence
from interventions.decoding.early_exit import early_layers, notes
from interventions.decoding.plausible import Plausible


def dola(
    model: HookedModel,
    data: UnlearnData | None = None,
    *,
    layers: Sequence[int] | None = None,
    cutoff: float | None = 0.1,
    divergence: Divergence = "jensen_shannon",
    reverse: bool = False,
) -> Intervention:
    """Score tokens by `log p_last - log p_early`, at each position with the early exit furthest from the last.

    A decoding for truthfulness rather than for forgetting: nothing is fitted and no weight changes. Reversed, it is an
    attack: `log p_early - log p_last` raises a token that earlier blocks know and the last ones hold back.

    Args:
        model: Read for its number of blocks alone.
        data: Not used.
        layers: Blocks to exit after, before the last; negative ones count from the end. When not given, every second
            block of the upper half. One fixes the early exit.
        cutoff: Tokens are dropped whose probability is below this fraction of the likeliest one, under the last block
            or, reversed, under the early exit; None keeps all.
        divergence: `jensen_shannon`, per position and row. `released` swaps the arguments of its two terms as the
            authors' code does, which picks another block in about one of five cases; there batches are averaged too.
        reverse: Contrast the other way round; the intent is then `attack`.

    Raises:
        VestigeError: No block is left to exit after, one does not exist or is the last, or `cutoff` is out of range.

    Source:
        Chuang et al. 2023, arXiv:2309.03883. The paper's candidates include the embedding; these are blocks.
    """
    if divergence not in get_args(Divergence):
        raise VestigeError(f"divergence is one of {', '.join(get_args(Divergence))}, got {divergence!r}")
    exits = early_layers(model, layers, method="dola")
    sign = -1.0 if reverse else 1.0
    terms = (Term(sign), Term(-sign, layers=exits))
    rule = None if cutoff is None else Plausible(cutoff, by=int(reverse))
    settings = {"layers": exits, "cutoff": cutoff, "divergence": divergence, "reverse": reverse}
    spec = Spec("dola", "attack" if reverse else "suppression", (), "Chuang et al. 2023, arXiv:2309.03883", settings)
    combiner = LogitCombiner(terms, plausible=rule, divergence=divergence)
    return Intervention(spec, edits=notes(exits), logits=combiner)
