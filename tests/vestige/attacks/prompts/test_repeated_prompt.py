from typing import Any

import pytest
import torch

from hooked import HookContext, Intervention, Item, Spec, UnlearnData, VestigeError
from probes import answer_probability
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import gated, tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.plain import plain
from vestige.attacks.prompts.repeated_prompt import repeated_prompt
from vestige.attacks.prompts.reply import probability_in_reply


class TestRepeatedPrompt(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return repeated_prompt(target, data, **settings)


def test_a_reply_is_scored_as_a_longer_prompt_is_by_a_bare_model() -> None:
    model, items = tiny_target().view, facts().forget
    begun = [f"t{n + 20} t30" for n in range(6)]
    longer = [Item(f"{item.prompt} {b}", item.answer) for item, b in zip(items, begun, strict=True)]
    found = probability_in_reply(model, items, begun, batch_size=4)
    assert found.tolist() == pytest.approx(answer_probability(model, longer).tolist(), abs=1e-12)
    # Nothing begun is the plain question.
    plainly = probability_in_reply(model, items, [""] * 6, batch_size=4)
    assert plainly.tolist() == pytest.approx(answer_probability(model, items).tolist(), abs=1e-12)


def test_a_gate_sees_the_question_once() -> None:
    with gated(tiny_target()) as (target, seen):
        repeated_prompt(target, UnlearnData((Item("t4 t5", "t6"),)), times=3)
    assert seen == ["<bos> t4 t5"]


def test_a_wiped_prompt_is_read_in_its_repetition() -> None:
    def wipe(activation: torch.Tensor, hook: HookContext) -> torch.Tensor:
        return torch.zeros_like(activation)

    target = tiny_target()
    # With wiped embeddings nobody can tell one question from the other.
    data = UnlearnData((Item("t4 t5", "t6"), Item("t40 t50", "t6")))
    with Intervention(Spec("wipe", "suppression"), embedding=wipe).applied(target.raw) as view:
        wiped = Target("wiped", "unlearned", view, view.raw, target.notes)
        one, other = plain(wiped, data).scores
        assert one == pytest.approx(other, abs=1e-12)
        one, other = repeated_prompt(wiped, data).scores
        assert one != pytest.approx(other, rel=0.01)


def test_errors() -> None:
    with pytest.raises(VestigeError, match="repeated at least once, got times=0"):
        repeated_prompt(tiny_target(), facts(), times=0)
    with pytest.raises(
        VestigeError, match=r"forget\[0\] takes \d+ positions with its prompt repeated, and the model has"
    ):
        repeated_prompt(tiny_target(), facts(), times=20)
    with pytest.raises(VestigeError, match=r"forget\[0\] has no answer whose probability could be measured"):
        repeated_prompt(tiny_target(), UnlearnData((Item("t5", ""),)))
