"""The lens attack with a lens that has learnt, on the original and on kept facts, where each block keeps its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hooked import UnlearnData, VestigeError
from probes.tuned_lens import fit_tuned_lens
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.lens_candidates import attacked, candidates_of, checked


def tuned_lens_attack(
    target: Target,
    data: UnlearnData,
    *,
    order: Literal[0, 1, 2] = 0,
    budget: int = 4,
    layers: Sequence[int] | None = None,
    answer_ids: Sequence[int] | None = None,
    steps: int = 100,
    permutations: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Look for the answer's first token as `lens_attack` does, through a tuned lens of the original.

    The lens is fitted on what was noted of the original at the end of the retain prompts, the forget ones left out; the
    embedding, which order 1 and 2 subtract from block 0, goes through the logit lens. The control says what the lens
    learnt of answers rather than of coordinates.

    Args:
        target: The subject; its view is read.
        data: Its forget items are asked.
        order: As in `lens_attack`.
        budget: As in `lens_attack`.
        layers: Blocks that count; all when None.
        answer_ids: Tokens that can be an answer; all when None.
        steps: Updates of the lens.
        permutations: Of the floor, at least 20.
        batch_size: Rows per forward pass.
        seed: Of the fit and the permutations.

    Raises:
        VestigeError: There are fewer than 10 retain items, another depth than the original's, or as `lens_attack`.

    Source:
        Belrose et al. 2023, arXiv:2303.08112, on Patil, Hase and Bansal 2023, arXiv:2309.17410.
    """
    notes, model = target.notes, target.view
    if notes.retain is None:
        raise VestigeError("tuned_lens_attack fits its lens on retain prompts, and data.retain is empty; give some")
    depth = notes.retain.shape[1]
    if depth != model.n_layers:
        raise VestigeError(f"a tuned lens of {depth} blocks cannot read the subject's {model.n_layers}; compare alike")
    settings = checked(
        model, notes.decoder, order=order, budget=budget, layers=layers, adjacent=True, answer_ids=answer_ids
    )
    acts = torch.from_numpy(notes.retain).to(notes.decoder.W_U)
    lens = fit_tuned_lens(acts, notes.decoder, steps=steps, seed=seed)

    def read(block: int, acts: Tensor) -> Tensor:
        here = acts.to(notes.decoder.W_U)
        return notes.decoder.lens(here) if block < 0 else lens(block, here)

    found = candidates_of(model, data.forget, read, settings, batch_size=batch_size)
    return attacked(found, settings, permutations=permutations, seed=seed, what="tuned lens", steps=steps)
