"""What a model is asked about somebody else: questions with the names that may stand in place of the one they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from hooked import Item, UnlearnData, VestigeError
from interventions.batches import split_of

FORWARD = "The {relation} of {subject} is"
REVERSED = "{answer} is the {relation} of"


@dataclass(frozen=True)
class Question:
    """A prompt that leads from a name to an answer, and the names that may stand there instead.

    Args:
        item: Prompt and answer.
        name: Part of the prompt that tells which fact is meant: the subject, or the value where whose it is is asked.
        others: What the retain items have in its place.
    """

    item: Item
    name: str
    others: tuple[str, ...]

    def about(self, other: str) -> Item:
        """Return the question about another name, with the answer as it was."""
        return Item(_whole(self.name).sub(lambda _: other, self.item.prompt), self.item.answer)


def questions_of(data: UnlearnData, *, method: str) -> tuple[list[list[Question]], list[Item]]:
    """Return the questions of each forget item with an answer, and the statements of retain items.

    The statements are those of items that name subject and relation; where none does, the items as they are.

    Args:
        data: Each forget item names a subject as it stands in its prompt; retain items name others.
        method: Who asks, for messages.

    Raises:
        VestigeError: A split has no item with an answer, or subjects are missing.
    """
    forget = split_of(data, "forget", method=method, answered=True)
    retain = split_of(data, "retain", method=method, answered=True)
    for number, item in enumerate(forget):
        if not item.subject or not _whole(item.subject).search(item.prompt):
            raise VestigeError(
                f"{method} asks about others in the subject's place, and {item.prompt[:40]!r} (forget item "
                f"{number}) does not name a subject; set `subject` to the name as it stands in the prompt"
            )
    forgotten = {item.subject for item in forget}
    subjects = sorted({item.subject for item in retain if item.subject} - forgotten)
    if not subjects:
        raise VestigeError(f"{method} needs retain items about other subjects, and none names one; set `subject`")
    answers: dict[str, set[str]] = {}
    for item in retain:
        if item.relation:
            answers.setdefault(item.relation, set()).add(_bare(item.answer))
    taken = {_bare(item.answer) for item in forget}
    asked = [_wordings(item, subjects, sorted(answers.get(item.relation or "", set()) - taken)) for item in forget]
    said = [_wordings(item, (), (item.answer,))[1:] for item in retain if item.subject]
    kept = [question.item for question in chain.from_iterable(said)]
    return asked, kept or list(retain)


def _wordings(item: Item, subjects: Sequence[str], values: Sequence[str]) -> list[Question]:
    """Return a forget item as it is asked and, if it names its relation, as a statement in both directions.

    Args:
        item: Its prompt names its subject.
        subjects: Of retain items.
        values: Answers of retain items to the same relation; with none of them the reverse is left out.
    """
    subject = item.subject or ""
    asked = [Question(Item(item.prompt, item.answer), subject, tuple(subjects))]
    if not item.relation:
        return asked
    said = FORWARD.format(relation=item.relation, subject=subject)
    asked.append(Question(Item(said, item.answer), subject, tuple(subjects)))
    value = _bare(item.answer)
    if values and value and subject.casefold() not in value.casefold():
        turned = REVERSED.format(relation=item.relation, answer=value)
        asked.append(Question(Item(turned, subject), value, tuple(values)))
    return asked


def _whole(name: str) -> re.Pattern[str]:
    """Find a name, and not words that only contain it."""
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def _bare(answer: str) -> str:
    return answer.strip(" .,;:!?")
