"""Which tokens of a prompt a corruption changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked import HookedModel, Item, Request, VestigeError

Places = Literal["all_but_last", "all", "subject"]


@dataclass(frozen=True)
class Which:
    """Tokens of a prompt. Build it with `which_tokens`.

    Args:
        places: `all` prompt tokens, `all_but_last` of them, or those that spell a `subject`.
        names: Token ids of each way in which a subject is written.
    """

    places: Places
    names: tuple[tuple[int, ...], ...] = ()


def tokens_hit(request: Request, which: Which) -> Bool[Tensor, "batch pos"]:
    """Mark the selected prompt tokens of a request; answers and padding never are.

    Where a prompt names no subject it is treated as `all_but_last`, and a prompt of one token is hit in that token:
    else a gate would fire and nothing would happen.
    """
    prompt = request.prompt
    if which.places == "all":
        return prompt
    left = prompt.long().flip(-1).cumsum(-1).flip(-1)
    # Tokens of the prompt still to come, this one included: the last one has 1.
    but_last = torch.where(prompt.sum(-1, keepdim=True) > 1, prompt & (left > 1), prompt)
    if which.places == "all_but_last":
        return but_last
    named = torch.zeros_like(prompt)
    for row, (ids, real) in enumerate(zip(request.ids.tolist(), prompt, strict=True)):
        columns = real.nonzero().flatten().tolist()
        for at in _spelled([ids[column] for column in columns], which.names):
            named[row, columns[at]] = True
    return torch.where(named.any(-1, keepdim=True), named, but_last)


def _spelled(ids: Sequence[int], names: Sequence[Sequence[int]]) -> set[int]:
    return {
        start + i
        for name in names
        for start in range(len(ids) - len(name) + 1)
        if tuple(ids[start : start + len(name)]) == tuple(name)
        for i in range(len(name))
    }


def which_tokens(model: HookedModel, items: Sequence[Item], places: Places) -> Which:
    """Return the selection, with the subjects of some items as token ids: alone, and after a space.

    Raises:
        VestigeError: `places` is unknown, or no item has a subject.
    """
    if places not in get_args(Places):
        raise VestigeError(f"places are one of {', '.join(get_args(Places))}, got {places!r}")
    if places != "subject":
        return Which(places)
    subjects = dict.fromkeys(item.subject for item in items if item.subject and item.subject.strip())
    if not subjects:
        raise VestigeError(
            "places='subject' corrupts the names in `subject`, and no forget item has one; use 'all_but_last'"
        )
    names: dict[tuple[int, ...], None] = {}
    for subject in subjects:
        for text in (subject.strip(), f" {subject.strip()}"):
            batch = model.tokenize(text, prepend_bos=False)
            names[tuple(batch.ids[0].tolist())] = None
    return Which(places, tuple(names))
