from typing import Any

import pytest
import torch

from hooked import Intervention, Spec, UnlearnData
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.decoding.reversed_dola import reversed_dola
from vestige.attacks.plain import plain


class TestReversedDola(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return reversed_dola(target, data, **settings)


def divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Jensen-Shannon divergence of two log-probabilities, nats."""
    middle = ((one.exp() + other.exp()) / 2).log()
    return float((one.exp() * (one - middle) + other.exp() * (other - middle)).sum()) / 2


@torch.no_grad()
def test_the_score_is_the_contrast_of_the_furthest_exit_with_the_output() -> None:
    target = tiny_target()
    furthest = []
    for item in facts().retain:
        ids = target.view.tokenize(item.prompt, answers=item.answer).ids[0]
        batch = target.view.tokenize(item.prompt)
        if len(ids) != batch.ids.shape[1] + 1:
            continue
        logits, cache = target.view.run_with_cache(batch)
        last = logits[0, -1].log_softmax(-1)
        exits = [target.view.lens(cache["resid_post", layer][0, -1]).log_softmax(-1) for layer in range(2)]
        each = [float((early - last).softmax(-1)[ids[-1]]) for early in exits]
        far = [divergence(last, early) for early in exits]
        found = reversed_dola(target, UnlearnData((item,)), cutoff=None)
        assert found.per_layer == pytest.approx([*each, plain(target, UnlearnData((item,))).scores[0]], rel=1e-6)
        furthest.append(far.index(max(far)))
        assert found.scores[0] == pytest.approx(each[furthest[-1]], rel=1e-6)
    assert furthest.count(0) > 0


def test_what_the_last_block_hides_comes_out_and_what_it_says_is_subtracted() -> None:
    target, data = tiny_target(), facts()
    told = plain(target, data).scores
    token = int(target.view.tokenize(data.forget[0].prompt, answers=data.forget[0].answer).ids[0, -1])

    def hide(logits: torch.Tensor, request: object) -> torch.Tensor:
        changed = logits.clone()
        changed[..., token] -= 20
        return changed

    with Intervention(Spec("hide", "suppression"), logits=hide).applied(target.raw) as view:
        hidden = Target("hidden", "unlearned", view, view.raw, target.notes)
        assert plain(hidden, data).scores[0] < 1e-6 < told[0]
        found = reversed_dola(hidden, data, cutoff=None).scores[0]
    assert found > 0.99 > reversed_dola(target, data, cutoff=None).scores[0]
