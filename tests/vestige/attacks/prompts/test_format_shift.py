from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from probes import answer_probability
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.format_shift import TEMPLATES, format_shift


class TestFormatShift(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return format_shift(target, data, **settings)


def test_one_template_is_asked_as_it_is(scored: list[tuple[str, str]]) -> None:
    item = Item("who?", "t9", subject="t5", relation="t6")
    found = format_shift(tiny_target(), UnlearnData((item,)), templates=["the {relation} of {subject} is"])
    assert scored == [("the t6 of t5 is", "t9")]
    assert found.budget == {"queries": 1, "templates": 1, "seed": 0}


def test_the_template_is_the_best_on_kept_facts_and_forgotten_ones_have_no_say() -> None:
    target, data = tiny_target(), facts()
    templates: tuple[str, ...] = ("t40 {subject}", "{subject} t41", "t42 {relation} {subject} t43")

    def mean(items: tuple[Item, ...], template: str) -> float:
        filled = [Item(template.format(subject=i.subject, relation=i.relation), i.answer) for i in items]
        return float(answer_probability(target.view, filled).mean())

    templates = tuple(sorted(templates, key=lambda template: mean(data.retain, template)))
    best = templates[-1]
    found = format_shift(target, data, templates=templates)
    assert found.note.startswith(f"asked as {best!r}, which on 12 retain items scored")
    assert sum(found.scores) / 6 == pytest.approx(mean(data.forget, best))
    assert found.budget["queries"] == 6 + 3 * 12


def test_default_templates_leave_the_answer_open() -> None:
    for template in TEMPLATES:
        filled = template.format(subject="S", relation="R")
        assert "S" in filled
        assert "R" in filled
        assert "{" not in filled


@pytest.mark.parametrize(
    ("data", "templates", "said"),
    [
        (facts(), (), "at least one template"),
        (facts(), ("who?",), "needs the place {subject} or {relation}, got 'who"),
        (
            UnlearnData((Item("who?", "t9"),)),
            ("of {subject}",),
            "needs the subject of every item, and 'who.' names none",
        ),
        (UnlearnData((Item("who?", "t9", subject="t5"),)), TEMPLATES, "format_shift needs retain items"),
        (
            UnlearnData((Item("who?", "t9", subject="t5"),), (Item("who?", "t8"),)),
            TEMPLATES,
            "chooses its template by retain items, and none has subject and relation",
        ),
        (
            UnlearnData((Item("who?", "t9", subject="t5"),)),
            ("{subject} t9",),
            "the template for 'who.' holds the answer",
        ),
    ],
)
def test_errors(data: UnlearnData, templates: tuple[str, ...], said: str) -> None:
    with pytest.raises(VestigeError, match=said):
        format_shift(tiny_target(), data, templates=templates)
