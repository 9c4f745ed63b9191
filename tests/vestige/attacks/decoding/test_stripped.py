from typing import Any

import torch

from hooked import Intervention, Spec, UnlearnData
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.decoding.stripped import stripped
from vestige.attacks.plain import plain


class TestStripped(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return stripped(target, data, **settings)


def test_what_is_built_around_the_weights_is_undone_and_they_stay() -> None:
    target = tiny_target()
    told = plain(target, facts()).scores

    def hide(logits: torch.Tensor, request: object) -> torch.Tensor:
        return torch.zeros_like(logits)

    around = Intervention(Spec("hide", "suppression"), logits=hide)
    patch = target.raw.value_patch({(0, n): torch.zeros(target.raw.d_model) for n in range(8)})
    with around.applied(target.raw) as view:
        hidden = Target("hidden", "unlearned", view, view.raw, target.notes)
        assert plain(hidden, facts()).scores != told
        assert stripped(hidden, facts()).scores == told
    with Intervention(Spec("erase", "removal"), weights=patch).applied(target.raw) as view:
        erased = Target("erased", "unlearned", view, view.raw, target.notes)
        assert stripped(erased, facts()).scores == plain(erased, facts()).scores != told
