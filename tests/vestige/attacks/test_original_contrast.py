from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import Intervention, Spec, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.original_contrast import original_contrast


class TestOriginalContrast(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return original_contrast(target, data, **settings)


def test_nothing_was_withdrawn_from_the_original() -> None:
    assert original_contrast(tiny_target(), facts()).scores == (0.0,) * 6


def test_the_score_is_the_share_of_what_was_withdrawn() -> None:
    target, data = tiny_target(), facts()
    batch = target.view.tokenize([i.prompt for i in data.forget], answers=[i.answer for i in data.forget])
    tokens = batch.ids.gather(-1, batch.answer.long().argmax(-1, keepdim=True))[:, 0]

    def silence(*ids: int) -> Intervention:
        def edit(logits: torch.Tensor, request: object) -> torch.Tensor:
            changed = logits.clone()
            changed[..., list(ids)] = -1e9
            return changed

        return Intervention(Spec("silence", "suppression"), logits=edit)

    first, other = int(tokens[0]), 98
    before = torch.from_numpy(target.notes.log_probs[0]).exp()
    with silence(first).applied(target.raw) as view:
        alone = original_contrast(replace(target, view=view), data).scores[0]
    with silence(first, other).applied(target.raw) as view:
        shared = original_contrast(replace(target, view=view), data).scores[0]
    assert alone == pytest.approx(1, abs=1e-5)
    assert shared == pytest.approx(float(before[first] / (before[first] + before[other])), abs=1e-5)


def test_notes_of_other_items_are_refused() -> None:
    with pytest.raises(
        VestigeError, match=r"the notes of the original have log-probabilities \[6, 99\], needed \[5, 99\]"
    ):
        original_contrast(tiny_target(), UnlearnData(facts().forget[:5]))
