"""The organism's facts as unlearning data."""

from __future__ import annotations

from hooked import UnlearnData, load_data
from vestige import organism

SKILLS = ("addition", "reversal", "second_language")


def organism_data(concept: str | None = None, *, skill_items: int = 30) -> UnlearnData:
    """Return one concept's facts to forget, every other concept's to keep, those of a concept that no checkpoint saw as
    holdout, and unseen skill instances as control.

    Args:
        concept: Name of the concept to forget; by default the one that `retain` and `never` lack.
        skill_items: Control items per skill. The second language leaves out the concept to forget.
    """
    forget = organism.forget_rows(concept)
    name = forget[0]["subject"]
    skills = [row for skill in SKILLS for row in _without(organism.skill_rows(skill), name)[:skill_items]]
    return load_data(
        [dict(row) for row in forget],
        retain=[dict(row) for row in organism.retain_rows(concept)],
        holdout=[dict(row) for row in organism.unseen_rows()],
        control=[{"question": row["question"], "answer": row["answer"], "relation": row["skill"]} for row in skills],
        template="{question}",
    )


def _without(rows: list[organism.SkillRow], subject: str) -> list[organism.SkillRow]:
    return [row for row in rows if subject not in row["question"]]
