"""One combination of distributions over next tokens: a model's own, its early exits, and those of other models."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, LogitEdit, Request, VestigeError
from interventions.decoding.assistant import Companion
from interventions.decoding.beside import Beside
from interventions.decoding.divergence import Divergence, furthest
from interventions.decoding.early_exit import NoteStream
from interventions.decoding.plausible import Plausible, drop
from interventions.training.losses import at_least_float32

Read = Literal["logits", "log_probs", "excess"]


def finite(**numbers: float) -> None:
    """Refuse numbers with which nothing can be added up.

    Raises:
        VestigeError: One is NaN or infinite; the message names it.
    """
    for name, value in numbers.items():
        if not isfinite(value):
            raise VestigeError(f"{name} is a finite number, got {value}")


@dataclass(frozen=True)
class Term:
    """One summand of a combination.

    Args:
        weight: Its factor; with 0 it is left out.
        read: What is added: `logits`, `log_probs`, or the `excess` of its logits over the target's, `relu(z - target)`.
        model: 0 is the target, 1 the first of the others, and so on.
        layers: Empty for the model's output. One block: the early exit after it, `softmax(W_U norm_f(resid_post))`.
            Several: at each position the one whose distribution is furthest from the model's output.

    Raises:
        VestigeError: `weight` is not finite.
    """

    weight: float
    read: Read = "log_probs"
    model: int = 0
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        finite(weight=self.weight)


@dataclass(frozen=True)
class LogitCombiner:
    """Adds terms up to the scores that take the place of the logits.

    Early exits of the target need `edits=notes(layers)` in the intervention; they and the target's output show whatever
    else is in force. The other models see the same tokens and no edit. There is one distribution for decoding and for
    scoring: a dropped token keeps a finite score far below every kept one (`plausible.DROPPED`), and a text that holds
    one is scored accordingly.

    Models of one tokenizer may have embeddings padded to different sizes. Then the ids that all of them have are
    combined, and the padding ids that only the target has stay as likely as they are there.

    Args:
        terms: What is added; at least one.
        others: Models that run beside the target, on the same tokens and each with its own KV cache.
        plausible: Which tokens stay; None keeps all.
        divergence: How the furthest of several early exits is found.

    Raises:
        VestigeError: There is no term, or one names a model or the rule a term that does not exist.
    """

    terms: tuple[Term, ...]
    others: tuple[Companion, ...] = ()
    plausible: Plausible | None = None
    divergence: Divergence = "jensen_shannon"

    def __post_init__(self) -> None:
        if not self.terms:
            raise VestigeError("a combination needs at least one term")
        wrong = next((term.model for term in self.terms if not 0 <= term.model <= len(self.others)), None)
        if wrong is not None:
            raise VestigeError(f"a term reads model {wrong}, and there are 0 (the target) to {len(self.others)}")
        if self.plausible is not None and not 0 <= self.plausible.by < len(self.terms):
            raise VestigeError(f"tokens stay by term {self.plausible.by}, and there are 0 to {len(self.terms) - 1}")

    def bind(self, raw: HookedModel, /) -> LogitEdit:
        """Build the other models of the weights in force; they live as long as the edit that is returned."""
        beside = tuple(Beside(other, raw) for other in self.others)
        return Combination(self, raw, beside, min(one.d_vocab for one in (raw, *(other.model for other in beside))))


@dataclass(frozen=True, eq=False)
class Combination:
    """A combiner at work on one model.

    Args:
        combiner: What is added.
        target: The model.
        beside: The others.
        width: How many ids all models have.
    """

    combiner: LogitCombiner
    target: HookedModel
    beside: tuple[Beside, ...]
    width: int

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], request: Request, /) -> Tensor:
        terms = self.combiner.terms
        wide = at_least_float32(logits)
        exits = _Exits(self, wide[..., : self.width], request)
        scores: Tensor | None = None
        for term in terms:
            if term.weight != 0:
                value = term.weight * exits.read(term)
                scores = value if scores is None else scores + value
        scores = torch.zeros_like(exits.logits) if scores is None else scores
        rule = self.combiner.plausible
        if rule is not None:
            scores = drop(scores, rule.keep(exits.log_probs(terms[rule.by])))
        if wide.shape[-1] > self.width:
            raised = scores.logsumexp(-1, keepdim=True) - exits.logits.logsumexp(-1, keepdim=True)
            scores = torch.cat([scores, wide[..., self.width :] + raised], -1)
        return scores.to(logits.dtype)


class _Exits:
    """The distributions of one chunk, each computed once."""

    def __init__(self, combination: Combination, logits: Tensor, request: Request) -> None:
        self.combination, self.logits, self.request = combination, logits, request
        self.ran: dict[int, tuple[Tensor, Request]] = {}
        self.found: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def read(self, term: Term) -> Tensor:
        if term.read == "logits":
            return self._logits(term)
        if term.read == "excess":
            return torch.relu(self._logits(term) - self.logits)
        return self.log_probs(term)

    def log_probs(self, term: Term) -> Tensor:
        place = (term.model, term.layers)
        if place not in self.found:
            self.found[place] = self._furthest(term) if len(term.layers) > 1 else self._logits(term).log_softmax(-1)
        return self.found[place]

    def _furthest(self, term: Term) -> Tensor:
        final = self.log_probs(Term(1.0, model=term.model))
        early = (self._exit(term.model, layer).log_softmax(-1) for layer in term.layers)
        return furthest(final, early, divergence=self.combination.combiner.divergence)

    def _logits(self, term: Term) -> Tensor:
        if len(term.layers) > 1:
            # A distribution has no logits of its own; its log-probabilities are logits of it.
            return self.log_probs(term)
        return self._exit(term.model, term.layers[0]) if term.layers else self._output(term.model)[0]

    def _exit(self, model: int, layer: int) -> Tensor:
        request = self._output(model)[1]
        where = self.combination.target if model == 0 else self.combination.beside[model - 1].model
        note = NoteStream(layer)
        if note not in request.state:
            raise VestigeError(
                f"the stream after block {layer} was not noted; give the intervention edits=notes([{layer}])"
            )
        return self._shared(where.lens(request.state[note]))

    def _output(self, model: int) -> tuple[Tensor, Request]:
        if model == 0:
            return self.logits, self.request
        if model not in self.ran:
            read = (term for term in self.combination.combiner.terms if term.model == model)
            layers = tuple(dict.fromkeys(layer for term in read for layer in term.layers))
            logits, own = self.combination.beside[model - 1].run(self.request, layers)
            self.ran[model] = self._shared(logits), own
        return self.ran[model]

    def _shared(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits[..., : self.combination.width]).to(self.logits.device)
