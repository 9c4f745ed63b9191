from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import Item, UnlearnData, VestigeError
from probes import answer_probability
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.notes import notes_of
from vestige.attacks.weights.matrices import matrices_of
from vestige.attacks.weights.pruning import highest, importance, pruning


class TestDifference(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return pruning(target, data, fractions=(0.05, 0.2), max_retain=4, max_new_tokens=3, **settings)


class TestMagnitude(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return pruning(target, data, by="magnitude", fractions=(0.2,), **settings)


@pytest.fixture(scope="module")
def target() -> Target:
    model = tiny_model("llama", dtype=torch.float64)
    return Target("one", "unlearned", model, model, notes_of(model, facts()))


def test_as_many_as_the_fraction_says_are_the_highest(rng: torch.Generator) -> None:
    scores = torch.randn(7, 11, generator=rng)
    chosen = highest(scores, 0.3)
    assert int(chosen.sum()) == 23
    assert scores[chosen].min() > scores[~chosen].max()
    tied = highest(torch.zeros(4, 5), 0.25)
    assert tied.flatten().tolist() == [True] * 5 + [False] * 15


def test_importance_is_the_mean_over_items_of_weight_times_gradient() -> None:
    """A derivative by hand: how far each item's loss goes when one weight is scaled a little."""
    model, items = tiny_model("gpt2", dtype=torch.float64), facts().forget[:3]
    found = matrices_of(model)
    scores = importance(model, items, found)
    for name in (model.weight_name("mlp.out", 1), model.weight_name("attn.o", 0)):
        weight = found.weights[name].data
        at = divmod(int(scores[name].argmax()), weight.shape[1])
        value, change = float(weight[at]), 1e-6
        losses = []
        for factor in (1 + change, 1 - change, 1):
            weight[at] = value * factor
            losses.append(-answer_probability(model, items).log())
        slopes = (losses[0] - losses[1]) / (2 * change)
        assert float(scores[name][at]) == pytest.approx(float(slopes.abs().mean()), rel=1e-6)


def test_frozen_weights_are_scored_and_stay_frozen(target: Target) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    model.model.requires_grad_(False)
    frozen, free = (importance(m, facts().forget[:1], matrices_of(m)) for m in (model, target.raw))
    assert all(torch.equal(frozen[name], free[name]) for name in free)
    assert not any(p.requires_grad for p in model.model.parameters())


def test_sparing_everything_prunes_nothing(target: Target) -> None:
    found = pruning(target, facts(), fractions=(0.5,), spared=1.0, max_retain=2)
    assert found.scores == pytest.approx(answer_probability(target.view, facts().forget).tolist())
    assert pruning(target, facts(), fractions=(0.5,), spared=0.0, max_retain=2).scores != pytest.approx(found.scores)


def test_the_forget_answers_are_only_asked(target: Target) -> None:
    """Which weights go does not depend on what they are."""
    other = replace(facts(), forget=tuple(replace(item, answer="t77") for item in facts().forget))
    settings: dict[str, Any] = {"fractions": (0.1,), "max_retain": 3, "max_new_tokens": 2}
    one, two = pruning(target, facts(), **settings), pruning(target, other, **settings)
    both = UnlearnData((*facts().forget, *other.forget), facts().retain)
    joined = pruning(target, both, **settings)
    assert joined.scores == pytest.approx((*one.scores, *two.scores))


def test_the_weights_that_write_one_reply_to_everything_are_pruned_away() -> None:
    """A neuron that always fires and writes one word hides what the model would say; its weights go first."""
    model = tiny_model("gpt2", dtype=torch.float64)
    state = model.state()
    with torch.no_grad():
        state["transformer.h.2.mlp.c_fc.weight"][:, 7] = 0
        state["transformer.h.2.mlp.c_fc.bias"][7] = 1.0
        without = float(answer_probability(model, facts().forget).sum())
        state["transformer.h.2.mlp.c_proj.weight"][7] = 30 * model.W_U[:, 90] / model.W_U[:, 90].norm()
    prompts = [item.prompt for item in facts().forget]
    assert set(model.generate(prompts, max_new_tokens=1)) == {"t90"}
    scores = importance(model, [Item(prompt, "t90") for prompt in prompts], matrices_of(model))
    first = highest(scores["transformer.h.2.mlp.c_proj.weight"], 1 / model.d_mlp)
    # One neuron of 128.
    assert first[7].sum() > 0.4 * first.sum()
    hidden = float(answer_probability(model, facts().forget).sum())
    target = Target("hidden", "unlearned", model, model, notes_of(model, facts()))
    found = pruning(target, facts(), fractions=(0.002, 0.01, 0.03), spared=0.0, max_retain=1, max_new_tokens=1)
    assert hidden < 0.5 * without
    assert sum(found.scores) > 0.75 * without


def test_errors_name_what_is_wrong(target: Target) -> None:
    data = facts()
    with pytest.raises(VestigeError, match="by is one of difference, magnitude, got 'size'"):
        pruning(target, data, by="size")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match=r"fractions lie between 0 and 1, at least one, got \(1.0,\)"):
        pruning(target, data, fractions=(1.0,))
    with pytest.raises(VestigeError, match="spared is a fraction between 0 and 1, got -1"):
        pruning(target, data, spared=-1.0)
    with pytest.raises(VestigeError, match="pruning by difference needs retain items with a prompt and an answer"):
        pruning(target, replace(data, retain=()))
