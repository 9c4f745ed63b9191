"""How far a subject's residual stream on the forget prompts has moved away from the original's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, UnlearnData, VestigeError
from vestige.attacks.attacked import Notes
from vestige.reading import last_prompt_residuals


def residuals_beside(
    model: HookedModel, notes: Notes, data: UnlearnData, *, batch_size: int
) -> tuple[Float[Tensor, "n_forget n_layers d_model"], Float[Tensor, "n_forget n_layers d_model"]]:
    """Return the residual stream after each block at the last prompt token, the subject's and the original's, float64.

    Raises:
        VestigeError: The notes are of other items, or of a model of another depth.
    """
    prompts = [item.prompt for item in data.forget]
    mine = torch.from_numpy(last_prompt_residuals(model, prompts, batch_size=batch_size)).double()
    original = torch.tensor(notes.forget, dtype=torch.float64)
    if mine.shape != original.shape:
        raise VestigeError(
            f"the notes of the original have shape {tuple(original.shape)}, the subject's residuals "
            f"{tuple(mine.shape)}; blocks can be compared on the same items, in models of one depth"
        )
    return mine, original
