"""The way out of the residual stream: final norm and unembedding."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked.effective import effective_weight


@dataclass(frozen=True)
class Decoder:
    """Turns residuals into logits as the model's own last step does.

    Modules are called without anybody's hooks. `frozen()` gives a copy that later weight edits do not reach, which is
    what makes a lens of an unlearned model comparable with the original's.

    Args:
        norm: The final norm; None where the architecture has none.
        head: The unembedding, with its bias if it has one.
        scale: Factor on the logits.
        cap: Soft cap `cap * tanh(logits / cap)` on the scaled logits; None without one.
    """

    norm: nn.Module | None
    head: nn.Module
    scale: float = 1.0
    cap: float | None = None

    def final_norm(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Apply the final norm; apply it to any block's output exactly once, the last included."""
        if self.norm is None:
            return resid
        normed: Tensor = self.norm.forward(resid)
        return normed

    def unembed(self, normed: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Map normalised residuals to logits, scaling and soft-capping included."""
        logits: Tensor = self.head.forward(normed)
        logits = logits * self.scale if self.scale != 1.0 else logits
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def lens(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logit lens of residuals: final norm, then unembedding."""
        return self.unembed(self.final_norm(resid))

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding matrix, without final norm or bias."""
        return effective_weight(self.head, "unembed").T

    def frozen(self) -> Decoder:
        """Return a decoder with its own copy of the weights."""
        return Decoder(copy.deepcopy(self.norm), copy.deepcopy(self.head), self.scale, self.cap)
