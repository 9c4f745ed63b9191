"""FLAT: make a refusal likely and the answer unlikely through a divergence between them, with forget data alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Literal, Unpack, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.training.descent import Minibatch
from interventions.training.losses import answer_token_nll
from interventions.training.refusals import REFUSALS, answered_and_refused
from interventions.training.train import Training, learned

Divergence = Literal[
    "kl",
    "total_variation",
    "jensen_shannon",
    "pearson",
    "jeffrey",
    "reverse_kl_corrected",
    "squared_hellinger_corrected",
    "neyman_corrected",
]

# -g*(x) + f*(g*(y)) of each divergence, x the refusal's mean token probability and y the answer's.
_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda x, y: -x + torch.exp(y - 1),
    "total_variation": lambda x, y: (torch.tanh(y) - torch.tanh(x)) / 2,
    "jensen_shannon": lambda x, y: torch.log1p(torch.exp(-x)) + y + torch.log1p(torch.exp(-y)) - 2 * log(2),
    "pearson": lambda x, y: -x + y**2 / 4 + y,
    "jeffrey": lambda x, y: -x + y + y**2 / 4 + y**3 / 16,
    "reverse_kl_corrected": lambda x, y: torch.exp(-x) - 1 + y,
    "squared_hellinger_corrected": lambda x, y: torch.exp(-x) + torch.exp(y) - 2,
    "neyman_corrected": lambda x, y: torch.exp(-x) + 1 - 2 * torch.exp(-y / 2),
}
# What the release computes for these falls where it should rise.
_WRONG: Mapping[str, str] = {
    "reverse_kl": "exp(x) - 1 - y makes the refusal less likely and the answer more likely",
    "squared_hellinger": "exp(x) + exp(-y) - 2 makes the refusal less likely and the answer more likely",
    "neyman": "exp(x) + 1 - 2 sqrt(1 - y) makes the refusal less likely",
}


def flat_loss(
    p_e: Float[Tensor, " batch"], p_f: Float[Tensor, " batch"], *, divergence: Divergence = "total_variation"
) -> Float[Tensor, ""]:
    """Return `mean_b -g*(p_e) + f*(g*(p_f))`: it falls in the refusal's probability and rises in the answer's.

    Args:
        p_e: Mean token probability of each refusal, in [0, 1]; see `mean_token_probability`.
        p_f: Mean token probability of each forget answer, in [0, 1].
        divergence: Which f. Five are as released. Three that the release gets the wrong way round are here with the
            standard increasing activation and named `..._corrected`: those are ours, not the paper's.

    Raises:
        VestigeError: There is no such divergence, it is one of the three as released, or the rows do not match.

    Source:
        Wang et al., *LLM Unlearning via Loss Adjustment with Only Forget Data*, arXiv:2410.11143. The release calls the
        cubic approximation of Jeffrey's divergence `Jeffrey`.
    """
    if divergence in _WRONG:
        raise VestigeError(
            f"divergence {divergence!r} as released has a wrong sign: with x the refusal's and y the answer's "
            f"probability, {_WRONG[divergence]}; take '{divergence}_corrected'"
        )
    if divergence not in _LOSSES:
        raise VestigeError(f"divergence is one of {', '.join(get_args(Divergence))}, got {divergence!r}")
    if p_e.shape != p_f.shape:
        raise VestigeError(f"each answer needs one refusal, got {len(p_e)} refusals for {len(p_f)} answers")
    return _LOSSES[divergence](p_e, p_f).mean()


def mean_token_probability(
    logits: Float[Tensor, "batch pos d_vocab"], ids: Int[Tensor, "batch pos"], answer: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Average the probabilities, not their logarithms, over the answer tokens of each row.

    Raises:
        VestigeError: As `answer_nll`.
    """
    probabilities = torch.exp(-answer_token_nll(logits, ids, answer))
    placed = probabilities.new_zeros(answer.shape)
    placed[answer] = probabilities
    return placed.sum(-1) / answer.sum(-1)


def flat(
    model: HookedModel,
    data: UnlearnData,
    *,
    refusals: Sequence[str] = REFUSALS,
    divergence: Divergence = "total_variation",
    **training: Unpack[Training],
) -> Intervention:
    """Descend `flat_loss(refusal, answer)` on the forget prompts, with neither retain data nor a reference.

    Each forget prompt gets one refusal, drawn by `seed` and kept through all epochs. Works on probabilities, so a
    refusal that the model finds impossible is learned slowly, and an answer at probability 0 is left alone. Bounded
    below, but nothing protects the rest of the model: training stops when the answers' mean probability is below
    `stop_fraction` (here 0.05) of what it was; None runs all steps.

    Args:
        model: Not changed.
        data: Needs `forget` items with a prompt and an answer. Retain items are only watched (`retain_bound`).
        refusals: What to say instead; at least one.
        divergence: As in `flat_loss`.
        training: Settings of `train`; here `stop_fraction` is 0.05. Published: lr 1e-5, 5 epochs, weight decay 0.01,
            for a model of a billion parameters.

    Raises:
        VestigeError: Nothing to refuse, no such divergence, or training diverged.

    Source:
        Wang, Wei, Liu, Pang, Liu, Shah, Bao, Liu, Wei 2024, arXiv:2410.11143, with 33 refusals. The release averages
        over padded positions too, so that a probability depends on the batch; here each row has its own mean.
    """
    nothing = torch.zeros(1)
    flat_loss(nothing, nothing, divergence=divergence)
    data, replies = answered_and_refused(data, refusals, seed=training.get("seed", 0), method="flat")

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        refusal = encode(current, [replies[row] for row in batch.rows.tolist()])
        p_e, p_f = (
            mean_token_probability(current.logits(tokens), tokens.ids, tokens.answer)
            for tokens in (refusal, batch.forget)
        )
        return flat_loss(p_e, p_f, divergence=divergence)

    settings = {"refusals": tuple(refusals), "divergence": divergence}
    spec = Spec("flat", "removal", ("forget",), "Wang et al. 2024, arXiv:2410.11143", settings)
    return learned(model, data, loss, spec, training, defaults={"stop_fraction": 0.05})
