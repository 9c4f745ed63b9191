"""Free places in questions: where they are, and that filling them is what writing the tokens would be."""

from __future__ import annotations

import pytest
import torch

from hooked import Intervention, Item, Spec, VestigeError
from probes import answer_probability
from tests.tiny import byte_tokenizer, shared_model, tiny_model
from tests.vestige.attacks.contract import facts
from vestige.attacks.gradients.folds import folds_of
from vestige.attacks.gradients.frozen import frozen
from vestige.attacks.gradients.slots import Place, filling, mean_nlls, with_slots

# Words with a colon are unknown to the tokenizer, which reads them as t3.
ITEMS = (Item("Question: t5 t6 Answer:", "t7 t8"), Item("Question: t9 Answer:", "t10"), Item("t11 t12", "t13"))


@pytest.mark.parametrize(
    ("place", "rows"),
    [
        ("front", [[1, 0, 0, 3, 5, 6, 3, 7, 8], [1, 0, 0, 3, 9, 3, 10], [1, 0, 0, 11, 12, 13]]),
        ("question", [[1, 3, 5, 6, 0, 0, 3, 7, 8], [1, 3, 9, 0, 0, 3, 10], [1, 11, 12, 0, 0, 13]]),
        ("end", [[1, 3, 5, 6, 3, 0, 0, 7, 8], [1, 3, 9, 3, 0, 0, 10], [1, 11, 12, 0, 0, 13]]),
    ],
)
def test_places_by_hand(place: Place, rows: list[list[int]]) -> None:
    slots = with_slots(shared_model("gpt2"), ITEMS, 2, place=place)
    batch = slots.batch
    assert [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)] == rows
    assert slots.free.sum(-1).tolist() == [2, 2, 2]
    assert set(batch.ids[slots.free].tolist()) == {0}
    assert bool(batch.prompt[slots.free].all())
    assert [batch.ids[i][batch.answer[i]].tolist() for i in range(3)] == [[7, 8], [10], [13]]


def test_filling_places_with_tokens_is_writing_them() -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    slots = with_slots(model, ITEMS, 2, place="end").filled(torch.tensor([20, 21]))
    written = [Item(f"{item.prompt} t20 t21", item.answer) for item in ITEMS]
    expected = answer_probability(model, written)
    torch.testing.assert_close((-mean_nlls(model, slots.batch)).exp(), expected, rtol=0, atol=1e-12)
    each = with_slots(model, ITEMS, 1, place="end").filled(torch.tensor([[20], [21], [22]]))
    assert each.batch.ids[each.free].tolist() == [20, 21, 22]


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_embeddings_of_tokens_are_those_tokens(family: str) -> None:
    # Gemma scales what it looks up before the site, GPT-2 adds positions behind it.
    model = shared_model(family)
    slots = with_slots(model, ITEMS, 2, place="front")
    written = slots.filled(torch.tensor([20, 21]))
    _, cache = model.run_with_cache(written.batch, names_filter="hook_embed")
    looked_up = cache["hook_embed"][slots.free].view(3, 2, -1)
    edited = mean_nlls(model, slots.batch, ("hook_embed", filling(slots, looked_up)))
    torch.testing.assert_close(edited, mean_nlls(model, written.batch))
    shared = mean_nlls(model, slots.batch, ("hook_embed", filling(slots, looked_up[0])))
    torch.testing.assert_close(shared, edited)


def test_embeddings_stand_behind_the_edits_of_a_view() -> None:
    model = tiny_model("llama")
    slots = with_slots(model, ITEMS, 2, place="front")
    seen: list[torch.Tensor] = []

    def blank(activation: torch.Tensor, hook: object) -> torch.Tensor:
        return torch.zeros_like(activation)

    def look(activation: torch.Tensor, hook: object) -> None:
        seen.append(activation.clone())

    with Intervention(Spec("blank", "suppression"), embedding=blank).applied(model) as view:
        mean_nlls(view, slots.batch, ("hook_embed", filling(slots, torch.ones(2, 32))), ("hook_embed", look))
    assert bool((seen[0][slots.free] == 1).all())
    assert bool((seen[0][slots.batch.prompt & ~slots.free] == 0).all())


def test_rows_are_repeated_in_order() -> None:
    slots = with_slots(shared_model("gpt2"), ITEMS, 1, place="front")
    twice = slots.repeat(2)
    assert len(twice) == 6
    assert torch.equal(twice[3:].batch.ids, slots.batch.ids)
    assert torch.equal(twice.free[:3], slots.free)


def test_a_question_whose_end_is_no_token_end_takes_the_place_at_the_prompts_end() -> None:
    model = tiny_model("gpt2", vocab_size=300, tokenizer=byte_tokenizer(("t", "Ġ")))
    item = Item("Q: t A:", " b")
    slots = with_slots(model, [item], 1, place="question")
    assert int(slots.free[0].long().argmax()) == int(slots.batch.answer[0].long().argmax()) - 1


def test_errors_are_one_line_and_say_what_came() -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="needs items with a prompt and an answer, got none"):
        with_slots(model, [], 1, place="front")
    with pytest.raises(VestigeError, match="and item 1 lacks one of them"):
        with_slots(model, [ITEMS[0], Item("t3", "")], 1, place="front")
    with pytest.raises(VestigeError, match="has at least 1 token, got 0"):
        with_slots(model, ITEMS, 0, place="front")
    with pytest.raises(VestigeError, match="with 60 tokens more a row has 67, the model 64 positions; add fewer"):
        with_slots(model, ITEMS, 60, place="front")


def test_a_frozen_model_is_as_it_was_afterwards_also_after_an_exception() -> None:
    model = tiny_model("llama")
    parameters = list(model.model.parameters())
    parameters[0].requires_grad_(False)
    model.model.train()

    def stopped() -> None:
        with frozen(model):
            assert torch.is_grad_enabled()
            assert not any(p.requires_grad for p in parameters)
            assert not model.model.training
            raise RuntimeError("stop")

    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert model.model.training
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)


def test_halves_are_scored_by_what_was_learnt_on_the_other() -> None:
    data = facts()
    folds = folds_of(data, "half", most=5, seed=0, attack="x")
    assert sorted(row for fold in folds for row in fold.scored) == list(range(6))
    for fold in folds:
        assert not {data.forget[row].answer for row in fold.scored} & {item.answer for item in fold.learnt}
    (same,) = folds_of(data, "same", most=5, seed=0, attack="x")
    assert (same.learnt, same.scored) == (data.forget, tuple(range(6)))
    (kept,) = folds_of(data, "retain", most=5, seed=0, attack="x")
    assert len(kept.learnt) == 5
    assert set(kept.learnt) <= set(data.retain)
    with pytest.raises(VestigeError, match="x learns from 'half', 'same' or 'retain', got 'all'"):
        folds_of(data, "all", most=5, seed=0, attack="x")  # type: ignore[arg-type]
