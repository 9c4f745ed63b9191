"""Format shift: the question with the first letter of its answer. Uses a part of the target."""

from __future__ import annotations

from dataclasses import replace

from hooked import Item, UnlearnData, VestigeError
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.framing import fitted, form_of, noted

HINT = "The answer begins with '{start}'."


def first_letter_hint(
    target: Target,
    data: UnlearnData,
    *,
    letters: int = 1,
    hint: str = HINT,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Ask with the first letters of the answer given away; uses a part of the target, so read it against the control.

    The hint stands before the words that call for the answer (`form_of`), or before the whole prompt where there are
    none. An answer as short as the hint loses a letter of it at least, so that no answer is told whole.

    Args:
        target: The subject.
        data: Its forget items are asked.
        letters: How many letters are told, at least 1.
        hint: How they are told; `{start}` is replaced.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: `letters` is below 1, `hint` has no place for them, or an item has no answer.

    Source:
        Jin et al. 2024, RWKU, arXiv:2406.10890, asks in such forms; the hint of one letter and its wording are ours.
    """
    if letters < 1:
        raise VestigeError(f"a hint tells at least one letter, got letters={letters}")
    if "{start}" not in hint:
        raise VestigeError(f"hint needs the place {{start}} in it, got {hint!r}")
    items, cut = fitted(target.view, [replace(item, prompt=_hinted(item, letters, hint)) for item in data.forget])
    note = noted("the first letters of each answer were given", cut)
    return asked(target.view, items, batch_size=batch_size, note=note)


def _hinted(item: Item, letters: int, hint: str) -> str:
    answer = item.answer.strip()
    if len(answer) < 2:
        return item.prompt
    told = hint.replace("{start}", answer[: min(letters, len(answer) - 1)])
    form = form_of(item.prompt)
    return form.ask(f"{form.body} {told}") if form.cue else f"{told} {item.prompt}"
