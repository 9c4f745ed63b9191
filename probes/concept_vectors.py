"""Find the value vectors of MLP neurons that write one concept, from the weights alone.

A neuron adds its value vector (a row of `W_out`) to the residual stream whenever it fires. Where the tokens that this
vector promotes all belong to one concept, it is called a concept vector (Hong et al. 2024, *ConceptVectors*,
arXiv:2406.11614).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, VestigeError
from probes.lexicon import lexicon_weights, seed_text_weights
from probes.scores import CoherenceScore, LexiconScore, Score, adjusted, distinct_tokens, null_scores, p_values
from probes.vocabulary import project_to_vocabulary

Ends = Literal["top", "bottom", "both"]
Adjust = Literal["bh", "bonferroni", "none"]


_DRAWS = 10_000


@dataclass(frozen=True)
class ConceptVector:
    """A neuron whose value vector scored high.

    Args:
        layer: Block index.
        neuron: Neuron index within the block.
        score: Norm-free score of the vector (nats for a lexicon or a seed text, where chance is 1; a mean cosine
            without either).
        p_value: Share of random directions that score at least as high, `(1 + hits) / (1 + draws)`.
        p_adjusted: The p-value corrected for the number of vectors that were examined.
        top_tokens: Tokens the vector promotes, strongest first (those it suppresses, if `sign` is -1).
        top_ids: Their ids.
        sign: 1 if the vector's largest logits were scored, -1 if its smallest.
        p_least: The smallest corrected p-value that a lone vector could have had, by the number of random directions.
    """

    layer: int
    neuron: int
    score: float
    p_value: float
    p_adjusted: float
    top_tokens: tuple[str, ...]
    top_ids: tuple[int, ...]
    sign: Literal[1, -1] = 1
    p_least: float | None = None


def find_concept_vectors(
    model: HookedModel,
    *,
    lexicon: Sequence[str] | None = None,
    seed_text: str | Sequence[str] | None = None,
    background: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    top: int = 10,
    ends: Ends = "top",
    adjust: Adjust = "bh",
    alpha: float | None = None,
    k: int | None = None,
    null_draws: int | None = None,
    seed: int = 0,
) -> tuple[ConceptVector, ...]:
    """Rank all neurons by how much their value vectors are about a concept.

    With a lexicon the score is `LexiconScore`; with a seed text the same score over the tokens that the text over-uses;
    with neither, it is `CoherenceScore` over the `distinct_tokens`, which finds vectors about any one thing. A zero
    vector has no tokens and is never returned.

    Args:
        model: Only its weights are read, raw.
        lexicon: Words of the concept; how they become tokens says `lexicon_weights`.
        seed_text: One text or several about the concept.
        background: Text without the concept, for `seed_text`.
        layers: Blocks to search; all when None.
        top: Most vectors that are returned.
        ends: Score the largest logits of a vector (published), its smallest (gated MLPs also fire negatively), or both
            ends separately.
        adjust: Correction of the p-values over all vectors and ends examined.
        alpha: Return only vectors with `p_adjusted` at most this; None returns the best `top` whatever their p-value.
        k: Length of `top_tokens`, and how many of them coherence compares; `min(200, ceil(0.02 d_vocab))` when None.
        null_draws: Random directions behind the p-values, which stay above `1 / (null_draws + 1)`. When None they
            are 10,000, or with `alpha` as many more as a single hit needs to get below it.
        seed: Of the random directions.

    Returns:
        Best first; equal scores in order of layer and neuron.

    Raises:
        VestigeError: Both a lexicon and a seed text were given, a setting is out of range, the model has no layer of
            that index, or its weights are not finite.

    Source:
        Hong et al. 2024, arXiv:2406.11614, section 3. There the vectors are ranked by mean top-k logit and a language
        model judges the top tokens; here a lexicon, a text or the embeddings are the judge, and random directions say
        what chance would give.
    """
    score = _score(model, lexicon, seed_text, background, k=k)
    picked = _layers(model, layers)
    _check(top=top, ends=ends, adjust=adjust, alpha=alpha, null_draws=null_draws)
    places: list[Tensor] = []
    scores: list[Tensor] = []
    for layer in picked:
        vectors = model.value_vectors(layer).detach()
        if not bool(torch.isfinite(vectors).all()):
            # NaN compares false with everything and would rank first.
            raise VestigeError(f"the value vectors of layer {layer} hold NaN or infinity; did the model diverge?")
        alive = (vectors != 0).any(-1).nonzero().flatten().cpu()
        for sign in {"top": (1,), "bottom": (-1,), "both": (1, -1)}[ends]:
            scores.append(_stream(score, vectors, sign)[alive])
            places.append(torch.stack([torch.full_like(alive, layer), alive, torch.full_like(alive, sign)], -1))
    found, place = torch.cat(scores), torch.cat(places)
    if null_draws is None:
        tests = 1 if adjust == "none" else len(found)
        null_draws = _DRAWS if alpha is None else max(_DRAWS, math.ceil(tests / alpha))
    p = p_values(found, null_scores(score, model.d_model, draws=null_draws, seed=seed))
    corrected = adjusted(p, method=adjust)
    lone = torch.ones_like(p)
    lone[:1] = 1 / (null_draws + 1)
    least = float(adjusted(lone, method=adjust).min()) if len(p) else 1.0
    best = found.argsort(descending=True, stable=True)
    if alpha is not None:
        best = best[corrected[best] <= alpha]
    best = best[:top]
    numbers = ((i, float(found[i]), float(p[i]), float(corrected[i])) for i in best.tolist())
    return tuple(
        _described(model, *place[i].tolist(), score=high, p=raw, p_adjusted=mended, p_least=least, k=k)
        for i, high, raw, mended in numbers
    )


def _score(
    model: HookedModel,
    lexicon: Sequence[str] | None,
    seed_text: str | Sequence[str] | None,
    background: str | Sequence[str] | None,
    *,
    k: int | None,
) -> Score:
    if lexicon is not None and seed_text is not None:
        raise VestigeError("give a lexicon or a seed text, not both")
    if background is not None and seed_text is None:
        raise VestigeError("a background is only compared with a seed text; give seed_text too")
    if lexicon is not None:
        return LexiconScore(model.W_U, lexicon_weights(model, lexicon))
    if seed_text is not None:
        return LexiconScore(model.W_U, seed_text_weights(model, seed_text, background=background))
    kept = distinct_tokens(model.W_E)
    if len(kept) < max(2, k or 0):
        raise VestigeError(
            f"{model.d_vocab - len(kept)} of {model.d_vocab} token embeddings coincide, "
            "which leaves too few to compare; give a lexicon or a smaller k"
        )
    if len(kept) == model.d_vocab:
        return CoherenceScore(model.W_U, model.W_E, k)
    return CoherenceScore(model.W_U[:, kept.to(model.W_U.device)], model.W_E[kept], k)


def _layers(model: HookedModel, layers: Sequence[int] | None) -> list[int]:
    wanted = range(model.n_layers) if layers is None else layers
    wrong = [i for i in wanted if not -model.n_layers <= i < model.n_layers]
    if wrong or not len(wanted):
        raise VestigeError(
            f"layers of a {model.n_layers}-layer model are 0 to {model.n_layers - 1}, "
            f"got {wrong[0] if wrong else 'an empty list'}"
        )
    return sorted({i % model.n_layers for i in wanted})


def _check(*, top: int, ends: str, adjust: str, alpha: float | None, null_draws: int | None) -> None:
    if top < 1 or (null_draws is not None and null_draws < 1):
        raise VestigeError(f"top and null_draws are at least 1, got {top} and {null_draws}")
    if ends not in ("top", "bottom", "both"):
        raise VestigeError(f"ends is 'top', 'bottom' or 'both', got {ends!r}")
    if adjust not in ("bh", "bonferroni", "none"):
        raise VestigeError(f"adjust is 'bh', 'bonferroni' or 'none', got {adjust!r}")
    if alpha is not None and not 0 < alpha <= 1:
        raise VestigeError(f"alpha lies in (0, 1], got {alpha}")


def _stream(score: Score, vectors: Float[Tensor, "d_mlp d_model"], sign: int) -> Float[Tensor, " d_mlp"]:
    # Negating chunk by chunk: a negated copy of a whole W_out may not fit beside the model.
    size = 4096
    return torch.cat([score(sign * vectors[i : i + size]).double() for i in range(0, len(vectors), size)])


def _described(
    model: HookedModel,
    layer: int,
    neuron: int,
    sign: Literal[1, -1],
    *,
    score: float,
    p: float,
    p_adjusted: float,
    p_least: float,
    k: int | None,
) -> ConceptVector:
    tokens = project_to_vocabulary(sign * model.value_vectors(layer)[neuron][None], model, k=k)
    return ConceptVector(
        layer=layer,
        neuron=neuron,
        score=score,
        p_value=p,
        p_adjusted=p_adjusted,
        top_tokens=tokens.tokens[0] if tokens.tokens is not None else (),
        top_ids=tuple(tokens.ids[0].tolist()),
        sign=sign,
        p_least=p_least,
    )
