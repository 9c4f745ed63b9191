from typing import Any

import pytest
import torch

from hooked import UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.decoding.lower_layer_contrast import lower_layer_contrast


class TestLowerLayerContrast(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return lower_layer_contrast(target, data, **{"cutoff": 1e-9, **settings})


@torch.no_grad()
def test_each_block_is_contrasted_with_the_one_before() -> None:
    target, item = tiny_target(), facts().forget[0]
    _, cache = target.view.run_with_cache(target.view.tokenize(item.prompt))
    token = int(target.view.tokenize(item.prompt, answers=item.answer).ids[0, -1])
    exits = [target.view.lens(cache["resid_post", layer][0, -1]).log_softmax(-1) for layer in range(3)]
    expected = [exits[0], exits[1] - exits[0], exits[2] - exits[1]]
    data = UnlearnData((item,), facts().retain)
    found = lower_layer_contrast(target, data, cutoff=1e-9)
    assert found.per_layer == pytest.approx([float(one.softmax(-1)[token]) for one in expected], rel=1e-6)


def test_kept_facts_choose_the_block() -> None:
    target, data = tiny_target(), facts()
    of_kept = lower_layer_contrast(target, UnlearnData(data.retain, data.retain), cutoff=1e-9)
    assert of_kept.per_layer is not None
    best = of_kept.per_layer.index(max(of_kept.per_layer))
    found = lower_layer_contrast(target, data, cutoff=1e-9)
    assert found.note.startswith(f"block {best}, which scored")
    assert found.per_layer is not None
    assert sum(found.scores) / 6 == pytest.approx(found.per_layer[best])


def test_errors() -> None:
    with pytest.raises(VestigeError, match="lower_layer_contrast needs retain items"):
        lower_layer_contrast(tiny_target(), UnlearnData(facts().forget))
    with pytest.raises(VestigeError, match="at least one retain item, got trials=0"):
        lower_layer_contrast(tiny_target(), facts(), trials=0)
