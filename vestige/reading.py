"""One pass over a subject: everything the checks need, as plain numbers. Checks are pure functions of readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import Decoder, HookedModel, Item, UnlearnData, VestigeError
from hooked.text import encode
from hooked.tokens import pad_rows
from probes import lens_floor, logit_lens
from vestige.member_reading import MemberReading, read_members
from vestige.subjects import Subject


@dataclass(frozen=True)
class Score:
    """How a model scored one given answer.

    Args:
        log_probs: Log-probability of each answer token, nats.
        predictions: Most likely token at each answer position.
        labels: The answer's tokens.
    """

    log_probs: tuple[float, ...]
    predictions: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def nll(self) -> float:
        """Mean negative log-probability per answer token, nats."""
        return -float(np.mean(self.log_probs))


@dataclass(frozen=True)
class SplitReading:
    """What a subject said and scored on one split; one entry per item.

    Args:
        answers: Scores of the right answer.
        bases: Scores of its paraphrase, or of the answer where there is none (the truth ratio's base).
        wrong: Scores of each wrong answer.
        texts: Greedy continuations of the prompt.
        token_ids: The ids of those continuations.
        hidden: Residual stream after each block at the last prompt token.
    """

    answers: tuple[Score, ...]
    bases: tuple[Score, ...]
    wrong: tuple[tuple[Score, ...], ...]
    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    hidden: Float[np.ndarray, "n_items n_layers d_model"]

    @property
    def first_token(self) -> tuple[int, ...]:
        """First token of each right answer."""
        return tuple(score.labels[0] for score in self.answers)


@dataclass(frozen=True)
class Reading:
    """Everything read from one subject.

    Args:
        forget: The forget split through the deployed system.
        retain: The retain split.
        control: The control split; None without one.
        lens_rank: Tokens that the lens of each block puts before the answer's first token, at the last prompt token of
            the forget items, read with the original's decoder.
        lens_floor_rank: The same with the answers exchanged between items; no permutation where there is one item.
        raw_forget: Scores of the forget answers on the bare weights.
        reworded: Scores of the forget answers to the prompt in other words, for the items that have one.
        members: Scores of the forget and holdout answers for membership inference; None without holdout items.
        value_rows: Followed value vectors of the bare weights, by (layer, neuron).
    """

    forget: SplitReading
    retain: SplitReading | None
    control: SplitReading | None
    lens_rank: Float[Tensor, "n_layers n_items"]
    lens_floor_rank: Float[Tensor, "n_layers permutations n_items"]
    raw_forget: tuple[Score, ...]
    reworded: tuple[Score, ...] = ()
    members: MemberReading | None = None
    value_rows: Mapping[tuple[int, int], Float[np.ndarray, " d_model"]] = field(default_factory=dict)


def read(
    subject: Subject,
    data: UnlearnData,
    *,
    decoder: Decoder,
    vectors: Sequence[tuple[int, int]],
    batch_size: int,
    max_new_tokens: int,
    seed: int,
) -> Reading:
    """Read one subject.

    Args:
        subject: An open subject.
        data: Prepared by `audit_items`.
        decoder: The original's, frozen.
        vectors: Value vectors to follow, as (layer, neuron).
        batch_size: Rows per forward pass.
        max_new_tokens: Length of the greedy continuations.
        seed: Of the lens permutations.
    """

    def split(items: tuple[Item, ...]) -> SplitReading:
        return read_split(subject.model, items, batch_size=batch_size, max_new_tokens=max_new_tokens)

    forget = split(data.forget)
    lens = logit_lens(subject.model, data.forget, decoder=decoder, batch_size=batch_size).rank
    exchanged = lens[:, None][:, :0]
    if len(data.forget) > 1:
        exchanged = lens_floor(subject.model, data.forget, decoder=decoder, batch_size=batch_size, seed=seed).rank
    raw = forget.answers
    if subject.raw is not subject.model:
        # Scored in the same batches, so that equal weights give equal numbers.
        raw = tuple(right for right, *_ in _scored(subject.raw, data.forget, batch_size=batch_size))
    reworded = [(i.paraphrased_prompt, i.answer) for i in data.forget if i.paraphrased_prompt]
    return Reading(
        forget=forget,
        retain=split(data.retain) if data.retain else None,
        control=split(data.control) if data.control else None,
        lens_rank=lens,
        lens_floor_rank=exchanged,
        raw_forget=raw,
        reworded=score(subject.model, reworded, batch_size=batch_size),
        members=read_members(subject.model, data, batch_size=batch_size),
        value_rows=_value_rows(subject.raw, vectors),
    )


def _value_rows(
    model: HookedModel, vectors: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Float[np.ndarray, " d_model"]]:
    """Copy value vectors; those that a model of another shape does not have are left out."""
    rows = {}
    for layer, neuron in vectors:
        if layer < model.n_layers and neuron < len(model.value_vectors(layer)):
            rows[layer, neuron] = model.value_vectors(layer)[neuron].detach().float().cpu().numpy().copy()
    return rows


@torch.no_grad()
def read_split(model: HookedModel, items: Sequence[Item], *, batch_size: int, max_new_tokens: int) -> SplitReading:
    """Score, continue and look inside, for every item of one split."""
    scores = _scored(model, items, batch_size=batch_size)
    prompts = [i.prompt for i in items]
    tokenizer: Any = model.tokenizer
    ids = model.generate_tokens(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return SplitReading(
        answers=tuple(right for right, *_ in scores),
        bases=tuple(base for _, base, *_ in scores),
        wrong=tuple(tuple(wrong) for _, _, *wrong in scores),
        texts=tuple(tokenizer.decode(row, skip_special_tokens=True) for row in ids),
        token_ids=tuple(tuple(row) for row in ids),
        hidden=last_prompt_residuals(model, prompts, batch_size=batch_size),
    )


def _scored(model: HookedModel, items: Sequence[Item], *, batch_size: int) -> list[tuple[Score, ...]]:
    """Score each item's answer, the answer in other words (itself without one) and the wrong ones."""
    groups = [(i.answer, i.paraphrased_answer or i.answer, *i.perturbed_answers) for i in items]
    # All at once: the answers to one prompt share its pass.
    pairs = [(i.prompt, answer) for i, group in zip(items, groups, strict=True) for answer in group]
    found = iter(score(model, pairs, batch_size=batch_size))
    return [tuple(next(found) for _ in group) for group in groups]


@torch.no_grad()
def score(model: HookedModel, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> tuple[Score, ...]:
    """Score answers after their prompts (teacher forcing), in batches of similar length.

    Raises:
        VestigeError: An answer has no token with another before it.
    """
    asked: list[_Asked] = []
    rows = encode(model.tokenizer, *zip(*pairs, strict=True), prepend_bos=model.default_prepend_bos) if pairs else []
    for (prompt, answer), (ids, flags) in zip(pairs, rows, strict=True):
        n_prompt = flags.index(True)
        # Nothing predicts a row's first token.
        labels = ids[max(1, n_prompt) :]
        if not labels:
            raise VestigeError(
                f"no token of the answer {answer!r} follows one of its prompt {prompt!r}; "
                "without a BOS token, an answer needs a prompt of its own tokens"
            )
        asked.append(_Asked(n_prompt, tuple(ids[:-1]), tuple(labels)))
    served = _shared(asked)
    order = sorted(served, key=lambda n: len(asked[n].ids))
    scores: dict[int, Score] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        answers = [[at >= asked[n].n_prompt for at in range(len(asked[n].ids))] for n in chosen]
        batch = pad_rows([asked[n].ids for n in chosen], answers, pad=0, padding_side="right")
        logits = model.logits(batch)
        for row, host in enumerate(chosen):
            first = max(1, asked[host].n_prompt) - 1
            log_probs = logits[row, first : len(asked[host].ids)].float().log_softmax(-1)
            likeliest = log_probs.argmax(-1).tolist()
            for n in served[host]:
                mine = asked[n].labels
                picked = log_probs[range(len(mine)), list(mine)]
                scores[n] = Score(tuple(picked.tolist()), tuple(likeliest[: len(mine)]), mine)
    return tuple(scores[n] for n in range(len(pairs)))


class _Asked(NamedTuple):
    """An answer to score: the row that a model reads for it, without the last token, and the tokens it should say."""

    n_prompt: int
    ids: tuple[int, ...]
    labels: tuple[int, ...]


def _shared(asked: Sequence[_Asked]) -> dict[int, list[int]]:
    """Return the rows to run, and which answers each serves.

    The wrong answers to a question share its prompt and often their first words, and a row serves every answer whose
    row begins it: what comes later changes nothing before it.
    """
    served: dict[int, list[int]] = {}
    host = -1
    # Sorted downwards, a row stands right behind those that it begins.
    for n in sorted(range(len(asked)), key=lambda n: asked[n], reverse=True):
        ids = asked[n].ids
        if host < 0 or asked[host].n_prompt != asked[n].n_prompt or asked[host].ids[: len(ids)] != ids:
            host = n
        served.setdefault(host, []).append(n)
    return served


@torch.no_grad()
def last_prompt_residuals(
    model: HookedModel, prompts: Sequence[str], *, batch_size: int
) -> Float[np.ndarray, "n_items n_layers d_model"]:
    """Return the residual stream after each block at the last prompt token."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    parts: list[Tensor] = []
    for start in range(0, len(prompts), batch_size):
        batch = model.tokenize(prompts[start : start + batch_size], padding_side="left")
        _, cache = model.run_with_cache(
            batch, names_filter=names, pos_slice=[-1], return_type=None, dtype=torch.float32, device="cpu"
        )
        parts.append(torch.stack([cache[name][:, 0] for name in names], 1))
    residuals: Float[np.ndarray, "n_items n_layers d_model"] = torch.cat(parts).numpy()
    return residuals
