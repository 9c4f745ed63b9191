from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, TokenBatch, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.training.counterfactuals import Question, questions_of
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.guided_removal import (
    _after_relearning,
    aligned,
    counterfactual_loss,
    first_readable,
    guided_removal,
    state_distance,
)
from interventions.training.losses import cross_entropy
from interventions.training.train import train
from tests.contracts import InterventionContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model, words

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


def named(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Call the first word of every prompt its subject."""
    return tuple(replace(item, subject=item.prompt.split()[0]) for item in items)


def about(data: UnlearnData) -> UnlearnData:
    return replace(data, forget=named(data.forget), retain=named(data.retain))


class TestGuidedRemoval(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return guided_removal(model, about(data), **FAST)


def fact(subject: str, relation: str | None, answer: str) -> Item:
    return Item(f"t5 t6 {subject} t7", answer, subject=subject, relation=relation)


FACTS = UnlearnData(
    (fact("t10", "t20", "t30"), fact("t10", "t21", "t31"), fact("t10", None, "t32")),
    (fact("t11", "t20", "t40"), fact("t12", "t20", "t41."), fact("t12", "t22", "t42")),
)


def test_a_fact_is_asked_in_both_directions_about_others() -> None:
    asked, kept = questions_of(FACTS, method="here")
    assert [[(q.item.prompt, q.item.answer, q.name, q.others) for q in one] for one in asked] == [
        [
            ("t5 t6 t10 t7", "t30", "t10", ("t11", "t12")),
            ("The t20 of t10 is", "t30", "t10", ("t11", "t12")),
            ("t30 is the t20 of", "t10", "t30", ("t40", "t41")),
        ],
        [
            ("t5 t6 t10 t7", "t31", "t10", ("t11", "t12")),
            ("The t21 of t10 is", "t31", "t10", ("t11", "t12")),
        ],
        [("t5 t6 t10 t7", "t32", "t10", ("t11", "t12"))],
    ]
    assert asked[0][2].about("t41") == Item("t41 is the t20 of", "t10")
    assert [(item.prompt, item.answer) for item in kept[2:4]] == [
        ("The t20 of t12 is", "t41."),
        ("t41 is the t20 of", "t12"),
    ]


def test_what_the_facts_share_with_others_is_no_counterfactual() -> None:
    shared = fact("t11", "t20", "t30")
    asked, _ = questions_of(replace(FACTS, retain=(*FACTS.retain, shared, fact("t10", "t20", "t43"))), method="here")
    assert asked[0][0].others == ("t11", "t12")
    assert asked[0][2].others == ("t40", "t41", "t43")


def test_a_name_is_replaced_as_a_whole() -> None:
    question = Question(Item("Is Ann (Ann's sister) annual, Anna?", "no"), "Ann", ())
    assert question.about(r"\1").prompt == r"Is \1 (\1's sister) annual, Anna?"


def test_the_divergence_to_the_mean_of_others() -> None:
    even, sure = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]).log()
    assert counterfactual_loss(even, [even, even]).item() == 0
    # The mean of (1/2, 1/2) and (1, 0) is (3/4, 1/4).
    mean = torch.tensor([[0.75, 0.25]]).log()
    assert counterfactual_loss(mean, [even, sure]).item() == pytest.approx(0, abs=1e-6)
    assert counterfactual_loss(even, [even, sure]).item() == pytest.approx(0.130812, abs=1e-6)


def test_nothing_flows_into_what_others_get() -> None:
    own, other = (torch.randn(3, 4, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (0, 1))
    (counterfactual_loss(own, [other]) + state_distance(own, [other])).backward()
    assert own.grad is not None
    assert other.grad is None


def test_states_are_measured_in_units_of_their_target() -> None:
    others = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])]
    mean = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert state_distance(mean, others).item() == 0
    assert state_distance(2 * mean, others).item() == 1
    assert state_distance(torch.zeros(2, 2), [7 * one for one in others]).item() == 1


def test_positions_match_from_the_last_token_of_the_name_on() -> None:
    model = shared_model("gpt2")

    def batch(*rows: list[int]) -> TokenBatch:
        return encode(model, [Item(words(torch.tensor(row)), words(torch.tensor([30]))) for row in rows])

    own, other = batch([11, 12, 13], [14, 15, 16, 17]), batch([11, 18, 19, 13], [19, 17])
    here, (there,) = aligned(own, [other])
    assert own.ids[here].tolist() == [12, 13, 30, 16, 17, 30]
    assert other.ids[there].tolist() == [19, 13, 30, 19, 17, 30]
    # A name that ends as this one does, in one of the others: what is common to all of them decides.
    _, (first, second) = aligned(own, [other, batch([11, 12, 13], [14, 18, 16, 17])])
    assert first.sum(-1).tolist() == second.sum(-1).tolist() == [3, 3]


def test_the_attackers_steps_are_taken_back_and_their_gradient_stays() -> None:
    model = tiny_model("gpt2")
    batch = Minibatch(encode(model, FACTS.forget), torch.arange(3), None)
    start = {name: tensor.clone() for name, tensor in model.state().items()}

    def measure() -> torch.Tensor:
        return cross_entropy(forget_nll(model, batch))

    before = measure().item()
    found = _after_relearning(model, batch, measure, lr=1e-2, steps=3)
    assert found.item() < before - 0.1
    assert all(torch.equal(tensor, start[name]) for name, tensor in model.state().items())
    gradients = torch.autograd.grad(found, list(model.model.parameters()))
    assert all(parameter.grad is None for parameter in model.model.parameters())
    # By hand: three steps of a fresh AdamW, and the gradient there.
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        measure().backward()
        optimizer.step()
    wanted = torch.autograd.grad(measure(), list(model.model.parameters()))
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.fixture(scope="module")
def land() -> UnlearnData:
    """Four subjects with three facts each; the first is to be forgotten."""
    items = [
        Item(f"t{10 + r} t{20 + s}", f"t{30 + 4 * r + s}", subject=f"t{20 + s}", relation=f"t{10 + r}")
        for s in range(4)
        for r in range(3)
    ]
    return UnlearnData(tuple(items[:3]), tuple(items[3:]))


@pytest.fixture(scope="module")
def taught(land: UnlearnData) -> HookedModel:
    """A model that knows them all."""
    model = tiny_model("llama")
    everything = UnlearnData(land.forget + land.retain)
    patch = train(model, everything, lambda m, b: cross_entropy(forget_nll(m, b)), epochs=60, lr=1e-2, progress=False)
    with Intervention(Spec("teach", "attack"), weights=patch.patch).applied(model) as view:
        state = {name: tensor.clone() for name, tensor in view.model.state_dict().items()}
    model.model.load_state_dict(state)
    return model


def test_the_first_block_that_tells(taught: HookedModel, land: UnlearnData) -> None:
    asked, _ = questions_of(land, method="here")
    assert 0 <= first_readable(taught, asked) < taught.n_layers
    assert first_readable(taught, asked, least=1e9) == taught.n_layers - 1
    assert first_readable(taught, asked, least=-1e9) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_forgets_and_keeps(seed: int, taught: HookedModel, land: UnlearnData) -> None:
    made = guided_removal(taught, land, lr=3e-3, steps=40, relearn_steps=2, seed=seed, progress=False)
    assert probability(taught, land.forget) > 0.9
    with made.applied(taught) as view:
        assert probability(view, land.forget) < 0.1
        assert probability(view, land.retain) > 0.9


def test_wrong_settings_and_data_are_named(task: UnlearnData) -> None:
    model, data = shared_model("gpt2"), about(task)
    with pytest.raises(VestigeError, match="relearn_steps is at least 1, got 0"):
        guided_removal(model, data, relearn_steps=0)
    with pytest.raises(VestigeError, match="state_weight is a finite number of at least 0, got -1"):
        guided_removal(model, data, state_weight=-1)
    with pytest.raises(VestigeError, match="layers are some of 0 to"):
        guided_removal(model, data, blocks=[99])
    with pytest.raises(VestigeError, match=r"forget item 0\) does not name a subject"):
        guided_removal(model, task)
    with pytest.raises(VestigeError, match="needs retain items about other subjects"):
        guided_removal(model, replace(data, retain=task.retain))
