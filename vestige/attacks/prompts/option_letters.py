"""Format shift: a multiple-choice question, answered with a letter. The answer stands among the options."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hooked import HookedModel, Item, UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.framing import fitted, form_of, noted
from vestige.attacks.prompts.next_token import next_token_log_probs
from vestige.attacks.prompts.options import options_of

# Where a prompt has no words of its own that call for an answer.
CUE = "\nThe letter of the right continuation:"


def option_letters(
    target: Target,
    data: UnlearnData,
    *,
    letters: Sequence[str] = tuple("ABCDEFGHIJ"),
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """List the answer among wrong ones and score the share of its letter in the probability of all letters.

    Every item is asked once with its answer at each place, and the shares are averaged: a model that always says the
    same letter scores chance exactly. A letter counts with and without a space before it, where those are two tokens.

    Args:
        target: The subject.
        data: Its forget items are asked, with their `perturbed_answers`.
        letters: What the options are called, in order; as many options are shown as there are letters.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: There are fewer than two letters, two begin with one token, or an item has no answer or no wrong
            one.

    Source:
        Jin et al. 2024, RWKU, arXiv:2406.10890 (multiple choice); both encodings as in arXiv:2409.18025.
    """
    if len(letters) < 2:
        raise VestigeError(f"options need at least two letters, got {len(letters)}")
    options = [texts[: len(letters)] for texts in options_of(data.forget, attack="option_letters")]
    most = max(map(len, options))
    bare, spaced = (_tokens(target.view, [mark + letter for letter in letters[:most]]) for mark in ("", " "))
    listed = [
        Item(_listed(item, texts, place, letters), "")
        for item, texts in zip(data.forget, options, strict=True)
        for place in range(len(texts))
    ]
    fit, cut = fitted(target.view, listed, room=1)
    prompts = [item.prompt for item in fit]
    own = [(len(texts), place) for texts in options for place in range(len(texts))]
    shares: list[float] = []
    said = {"A": 0.0, " A": 0.0}
    for rows, log_probs in next_token_log_probs(target.view, prompts, batch_size=batch_size):
        for row, (n, place) in zip(log_probs, own[rows], strict=True):
            mass = _mass(row, bare[:n], spaced[:n])
            shares.append(float(mass.softmax(-1)[place]))
            said["A"] += float(row[list(bare[:n])].exp().sum()) / len(own)
            said[" A"] += float(row[list(spaced[:n])].exp().sum()) / len(own)
    found = iter(shares)
    scores = tuple(fmean(next(found) for _ in texts) for texts in options)
    floor = fmean(1 / len(texts) for texts in options)
    note = f"letters have {said['A']:.2g} of all probability without a space before them and {said[' A']:.2g} with one"
    return Attacked(scores, "choice", floor=floor, budget={"queries": len(prompts)}, note=noted(note, cut))


def _mass(row: Tensor, bare: Sequence[int], spaced: Sequence[int]) -> Tensor:
    """Return the log-probability of each letter, both of its tokens together and one that is both once."""
    both = torch.stack([row[list(bare)], row[list(spaced)]])
    same = torch.tensor([one == other for one, other in zip(bare, spaced, strict=True)])
    return torch.where(same, both[0], both.logsumexp(0))


def _tokens(model: HookedModel, letters: Sequence[str]) -> tuple[int, ...]:
    """Return the token that each letter begins with, behind the end of a prompt."""
    tokenizer: Any = model.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in letters]
    # SentencePiece writes a space as a token of its own where a letter follows no word.
    first = tuple(int(row[-1]) if row else -1 for row in ids)
    if -1 in first or len(set(first)) < len(first):
        raise VestigeError(f"the tokenizer does not tell {', '.join(letters)} apart; name other letters=")
    return first


def _listed(item: Item, texts: Sequence[str], place: int, letters: Sequence[str]) -> str:
    right, *wrong = texts
    shown = [*wrong[:place], right, *wrong[place:]]
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, shown, strict=False))
    form = form_of(item.prompt)
    return f"{form.head}{form.body}\n{lines}{form.cue or CUE}"
