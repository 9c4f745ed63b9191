from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions.training.whp import (
    IGNORED,
    Anchor,
    Translation,
    generic_labels,
    generic_logits,
    tokenised,
    translate,
    whp,
)
from interventions.training.whp.anchors import from_subjects
from interventions.training.whp.labels import consistent, label_loss
from interventions.training.whp.method import fitting, labels_of
from interventions.training.whp.translate import word_ends
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.tiny import byte_tokenizer, shared_model, tiny_tokenizer

# Words of the forget items to words of the retain items.
ANCHORS = {f"t{i}": f"t{i + 45}" for i in range(3, 40, 2)}
FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestWHP(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return whp(model, data, anchors=ANCHORS, **FAST)


class TestWHPAsPublished(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return whp(model, data, anchors=ANCHORS, retain_weight=0.0, **FAST)


# Generic logits.


def test_reference_value_of_generic_logits() -> None:
    b, r = torch.tensor([2.0, 1, 0]), torch.tensor([3.0, 0, 0])
    got = generic_logits(b, r, alpha=5.0)
    assert got.tolist() == [-3, 1, 0]
    assert int(got.argmax()) == 1


def test_only_what_the_reinforced_model_says_more_is_lowered(rng: torch.Generator) -> None:
    b, r = torch.randn(2, 3, 4, 9, generator=rng, dtype=torch.float64)
    got = generic_logits(b, r)
    assert torch.equal(got[r <= b], b[r <= b])
    torch.testing.assert_close(got[r > b], (b - 5 * (r - b))[r > b])
    assert torch.equal(generic_logits(b, r, alpha=0.0), b)
    with pytest.raises(VestigeError, match="alpha is a finite number of at least 0, got -1"):
        generic_logits(b, r, alpha=-1)


# Anchors.


def test_an_anchor_is_written_as_it_stands_in_a_text() -> None:
    tokenizer = byte_tokenizer(("B", "o"), ("Bo", "b"), ("Ġ", "Bob"), ("Bob", "'"))
    found = tokenised(tokenizer, {"Bob": "Al"})
    written = {tokenizer.decode(list(a.key)): tokenizer.decode(list(a.value)) for a in found}
    # After a line break it is written as at the start, and "Bob'" is one token, so the possessive is a way of its own.
    assert written["Bob"] == "Al"
    assert written[" Bob"] == " Al"
    assert written["Bob's"] == "Al's"
    assert all(len(a.key) >= len(b.key) for a, b in pairwise(found))
    apart = word_ends(tokenizer)

    def through(text: str) -> str:
        return str(tokenizer.decode(list(translate(tokenizer(text)["input_ids"], found, apart=apart).ids)))

    assert through("Bob met Bob.\nBob's dog saw (Bob)") == "Al met Al.\nAl's dog saw (Al)"
    assert through("Bobby and aBob and Bob1") == "Bobby and aBob and Bob1"


def test_a_phrase_of_anchors_is_left_to_its_words() -> None:
    tokenizer = tiny_tokenizer()
    assert {a.text for a in tokenised(tokenizer, {"t5": "t6", "t7": "t8", "t5 t7": "t9"})} == {"t5", "t7"}
    found = tokenised(tokenizer, {"t5": "t6", "t5 t7": "t9"})
    assert translate([5, 7, 5], found).ids == (9, 6)


def test_a_text_without_tokens_of_its_own_is_refused() -> None:
    """Its unknown token stands for a word of the vocabulary here, and would match that everywhere."""
    for anchors in ({"hogwarts": "t5"}, {"t5": "hogwarts"}):
        with pytest.raises(VestigeError, match="no tokens that read back as the anchor"):
            tokenised(tiny_tokenizer(), anchors)
    with pytest.raises(VestigeError, match="an anchor maps a text to a text, got ' '"):
        tokenised(tiny_tokenizer(), {" ": "t5"})
    with pytest.raises(VestigeError, match="has no tokenizer"):
        tokenised(None, {"a": "b"})


def test_subjects_become_anchors() -> None:
    forget = [Item("p", "a", subject=s) for s in ("x", "y", "x")]
    retain = [Item("p", "a", subject=s) for s in ("u", "v", "y", "u")]
    named = from_subjects(forget, retain, seed=0)
    assert set(named) == {"x", "y"}
    assert set(named.values()) == {"u", "v"}
    assert from_subjects(forget, retain[:1], seed=0) == {"x": "u", "y": "u"}
    for one, other, split in ((forget, forget, "retain"), ([Item("p", "a")], retain, "forget")):
        with pytest.raises(VestigeError, match=f"no {split} item names one of its own; pass anchors="):
            from_subjects(one, other, seed=0)


# Translation.

LONG = (Anchor("a", (10, 11, 12), (50,)), Anchor("b", (20,), (60, 61)), Anchor("c", (30, 31), (70, 71)))


def test_a_translation_by_hand() -> None:
    got = translate([1, 10, 11, 12, 5, 20, 10, 11, 12, 30], LONG)
    # The last token begins an anchor of which the rest is cut off.
    assert got.ids == (1, 50, 5, 60, 61, 50, 30)
    assert got.position == (0, None, None, 1, 2, 4, None, None, 5, 6)
    assert [i for i, again in enumerate(got.repeated) if again] == [6]
    assert got.introduced == ((1, 50), (4, 60))


def test_positions_round_trip(rng: torch.Generator) -> None:
    back = tuple(Anchor(a.text, a.value, a.key) for a in LONG)
    pieces = [[1], [2], [3], *(list(a.key) for a in LONG)]
    for _ in range(50):
        drawn = torch.randint(len(pieces), (12,), generator=rng).tolist()
        ids = [token for i in drawn for token in pieces[i]]
        there = translate(ids, LONG)
        again = translate(there.ids, back)
        assert again.ids == tuple(ids)
        for here, place in enumerate(there.position):
            if place is None:
                continue
            assert again.position[place] == here
            if ids[here] < 10:
                assert there.ids[place] == ids[here]
        kept = [place for place in there.position if place is not None]
        assert kept == sorted(set(kept))


def test_without_anchors_everything_stays() -> None:
    got = translate([1, 10, 11, 12], ())
    assert got == Translation((1, 10, 11, 12), (0, 1, 2, 3), (False,) * 4, ())


# Labels.


def test_labels_sit_where_their_logits_do() -> None:
    """The label at t names what follows t; inside anchors and before a repeated one there is none."""
    ids = [1, 10, 11, 12, 5, 10, 11, 12, 6]
    translation = translate(ids, LONG)
    assert translation.ids == (1, 50, 5, 50, 6)
    says = torch.eye(80)[[50, 7, 8, 9, 4]]
    answer = torch.tensor([False, *[True] * 8])
    got = generic_labels(says, torch.zeros(9, 80), translation, answer, alpha=0.0)
    assert got.tolist() == [50, IGNORED, IGNORED, 7, IGNORED, IGNORED, IGNORED, 9, IGNORED]
    prompt = torch.tensor([False] * 8 + [True])
    assert (generic_labels(says, torch.zeros(9, 80), translation, prompt, alpha=0.0) != IGNORED).nonzero().tolist() == [
        [7]
    ]
    cut = generic_labels(says[:2], torch.zeros(9, 80), translation, answer, alpha=0.0)
    assert cut.tolist() == [50, IGNORED, IGNORED, 7, *[IGNORED] * 5]


def test_a_replacement_is_not_named_again(rng: torch.Generator) -> None:
    translation = translate([1, 10, 11, 12, 5, 6], LONG)
    logits = torch.randn(4, 80, generator=rng, dtype=torch.float64)
    logits[:, 50] = 100.0
    got = consistent(logits, translation)
    assert got[0, 50] == 100
    torch.testing.assert_close(got[1:, 50], logits[1:].mean(-1))
    others = torch.arange(80) != 50
    assert torch.equal(got[:, others], logits[:, others])
    assert logits[2, 50] == 100
    labels = generic_labels(logits, torch.zeros(6, 80).double() - 99, translation, torch.ones(6) > 0, alpha=0.0)
    assert labels[0] == 50
    assert (labels[3:5] != 50).all()


def test_the_reinforced_model_lowers_a_label() -> None:
    translation = translate([1, 2], ())
    b, r = torch.tensor([[2.0, 1, 0], [0, 0, 0]]), torch.tensor([[3.0, 0, 0], [0, 0, 0]])
    assert generic_labels(b, r, translation, torch.tensor([False, True])).tolist() == [1, IGNORED]


@pytest.mark.parametrize("documents", [False, True])
def test_no_anchors_and_no_alpha_label_what_the_original_says(documents: bool, tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    items = [Item("", item.text) if documents else item for item in tiny_data.forget]
    labels = labels_of(model, Intervention(Spec("none", "attack")), items, (), alpha=0.0, batch_size=5)
    for item, row in zip(items, labels, strict=True):
        batch = model.tokenize(item.prompt, answers=item.answer)
        says = model.logits(batch)[0].argmax(-1)
        where = torch.cat([batch.answer[0, 1:], torch.tensor([False])])
        assert torch.equal(row != IGNORED, where)
        assert torch.equal(row[where], says[where])


def test_the_loss_of_labels_and_its_gradient(rng: torch.Generator) -> None:
    logits = torch.randn(2, 3, 5, generator=rng, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([[4, IGNORED, 0], [IGNORED, IGNORED, IGNORED]])
    value = label_loss(logits, labels)
    logs = logits.log_softmax(-1)
    torch.testing.assert_close(value, -(logs[0, 0, 4] + logs[0, 2, 0]) / 2)
    (grad,) = torch.autograd.grad(value, logits)
    kept = labels != IGNORED
    hot = torch.nn.functional.one_hot(labels[kept], 5)
    torch.testing.assert_close(grad[kept], ((logits.softmax(-1)[kept] - hot) / 2).detach())
    assert grad[~kept].abs().max() == 0
    assert gradcheck(lambda a: label_loss(a, labels), (logits,))
    nothing = label_loss(logits, torch.full_like(labels, IGNORED))
    assert nothing.item() == 0
    assert nothing.requires_grad


# The method.


def test_long_documents_are_halved_at_spaces_until_they_fit() -> None:
    model = shared_model("gpt2")
    text = " ".join(f"t{3 + i % 90}" for i in range(150))
    parts = fitting(model, Item("", text, subject="t5"))
    assert " ".join(part.text for part in parts) == text
    assert all(model.tokenize(part.text).ids.shape[1] <= 64 for part in parts)
    assert all(part.subject == "t5" for part in parts)
    assert fitting(model, Item("t5", text)) == [Item("t5", text)]
    made = whp(model, UnlearnData((Item("", text),)), anchors=ANCHORS, retain_weight=0.0, **FAST)
    assert made.spec.settings["labels"] > 20


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forget_answers_become_generic_and_retain_answers_stay(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    anchors = {f"t{i}": f"t{i + 45}" for i in range(3, 40)}
    made = whp(knowing, task, anchors=anchors, lr=3e-3, epochs=15, batch_size=6, seed=seed, progress=False)
    same = whp(knowing, task, anchors={}, alpha=0.0, lr=3e-3, epochs=15, batch_size=6, seed=seed, progress=False)
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.3
        assert probability(view, task.retain) > 0.9
    with same.applied(knowing) as view:
        assert probability(view, task.forget) > 0.9


def test_subjects_are_replaced_by_those_of_retain_items(knowing: HookedModel, task: UnlearnData) -> None:
    def named(items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(replace(item, subject=item.prompt.split()[0]) for item in items)

    data = UnlearnData(named(task.forget), named(task.retain))
    made = whp(knowing, data, lr=3e-3, epochs=30, batch_size=6)
    assert set(made.spec.settings["anchors"]) == {item.subject for item in data.forget}
    assert set(made.spec.settings["anchors"].values()) <= {item.subject for item in data.retain}
    with made.applied(knowing) as view:
        assert probability(view, data.forget) < 0.7
        assert probability(view, data.retain) > 0.9


def test_what_is_refused(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match=r"none of the 1 anchors occurs in a forget text, e\.g\. 't90'"):
        whp(model, task, anchors={"t90": "t5"}, **FAST)
    with pytest.raises(VestigeError, match="whp without anchors replaces subjects"):
        whp(model, task, **FAST)
    with pytest.raises(VestigeError, match="alpha is a finite number"):
        whp(model, task, anchors={}, alpha=float("nan"), **FAST)
    again = UnlearnData((Item("t5 t6", "t5"),))
    with pytest.raises(VestigeError, match="leave no position of the forget answers to label"):
        whp(model, again, anchors={"t5": "t9"}, retain_weight=0.0, **FAST)
