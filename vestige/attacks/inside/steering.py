"""Steering: move a block's output back by how far unlearning has moved it on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from hooked import UnlearnData, VestigeError
from interventions.blocks import blocks_of
from interventions.steer import Positions, steer
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.shift import residuals_beside
from vestige.attacks.most_leaking import most_leaking


def steering(
    target: Target,
    data: UnlearnData,
    *,
    alphas: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    layers: Sequence[int] | None = None,
    positions: Positions = "answer",
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Add `alpha (mean of the original - mean of the subject)` to one block's output, and ask.

    The means are those of the residual stream at the last prompt token of the forget items, whose answers are not used.
    Of all blocks and factors the most leaking pair counts, chosen on the forget items.

    Args:
        target: The subject; the notes of the original are read.
        data: Its forget items are asked.
        alphas: Factors that are tried; 1 moves the mean to where the original has it.
        layers: Blocks that are tried; all when not given, negative ones count from the end.
        positions: Where it is added: `answer` is from the last prompt token on, where the means were taken.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: There is no factor or block to try, one is not finite or does not exist, an item has no answer, or
            the notes are of other items or of a model of another depth.

    Source:
        Vestige's definition, after Turner et al. 2023, arXiv:2308.10248.
    """
    if not alphas or not all(isfinite(alpha) for alpha in alphas):
        raise VestigeError(f"alphas are finite numbers, at least one, got {tuple(alphas)}")
    blocks = blocks_of(target.view, range(target.view.n_layers) if layers is None else layers)
    mine, original = residuals_beside(target.view, target.notes, data, batch_size=batch_size)
    back = (original - mine).mean(0).float()

    def run(setting: tuple[int, float]) -> Attacked:
        layer, alpha = setting
        sites = [("resid_post", layer)]
        added = steer(back[layer], sites=sites, coefficient=alpha, positions=positions, intent="attack")
        with added.applied(target.view) as view:
            return asked(view, data.forget, batch_size=batch_size)

    tried = [(layer, alpha) for layer in blocks for alpha in alphas]
    (layer, alpha), found = most_leaking(tried, run)
    budget = {**found.budget, "settings": len(tried), "block": layer, "alpha": alpha}
    return replace(found, budget=budget, note=f"most leaking at block {layer} with factor {alpha:g}")
