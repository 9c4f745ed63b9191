"""The logit-lens twin of the depth score: the same states, decoded on the spot instead of patched.

It needs no pass beyond the one that read the states. At the last block the two agree: there, patching is decoding.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import Decoder
from vestige.intrinsic.spans import Spans
from vestige.intrinsic.states import States

_AT_ONCE = 256


@torch.no_grad()
def lens_log_probs(decoder: Decoder, spans: Spans, states: States) -> Float[np.ndarray, "n_layers n_items"]:
    """Return the mean log-probability of the asked tokens in the logit lens of every block, nats; NaN where no place.

    Args:
        decoder: Final norm and unembedding; the original's, so that an edited head is not mistaken for erasure.
        spans: Where the states were read.
        states: What `read_states` returned.
    """
    targets = torch.empty(spans.n_places, dtype=torch.long)
    for rows in spans.batches(len(spans)):
        targets[rows.at] = rows.target
    return np.stack([item_means(spans, target_log_probs(decoder, layer, targets)) for layer in states])


def target_log_probs(decoder: Decoder, resid: Float[Tensor, "n d_model"], targets: Tensor) -> Float[Tensor, " n"]:
    """Return the log-probability of one token per residual, nats, in float64 on the CPU."""
    weight, parts = decoder.W_U, []
    # A vocabulary of 200,000 at 256 places takes 200 MB.
    for some, target in zip(resid.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True):
        logits = decoder.lens(some.to(weight.device, weight.dtype))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = logits.gather(-1, target.to(logits.device)[:, None])[:, 0]
        parts.append((chosen - logits.logsumexp(-1)).double().cpu())
    return torch.cat(parts)


def item_means(spans: Spans, values: Float[Tensor, " n_places"]) -> Float[np.ndarray, " n_items"]:
    """Return the mean over every item's places; NaN for items that have none."""
    owner, n = spans.owner, len(spans)
    total = torch.zeros(n, dtype=torch.float64).index_add_(0, owner, values)
    means: Float[np.ndarray, " n_items"] = (total / torch.bincount(owner, minlength=n)).numpy()
    return means
