"""Head projection: thresholds among the other tokens, the token that is hidden, and the lens it is hidden from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.erasure import fact_erasure, head_projection, head_projection_loss, select_layers
from interventions.erasure.lens import first_answer, prompt_lens
from tests.contracts import LossContract
from tests.interventions.erasure.defences import FAST, leaked
from tests.interventions.training.knowing import probability
from tests.tiny import byte_tokenizer, shared_model, tiny_model

D = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], dtype=torch.float64)


class TestHeadProjection(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return head_projection(model, data, k=48, **FAST)


class TestHeadProjectionWithErasure(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return head_projection(model, data, combine=1.0, defence_layers=[0, 2], layer=0, kl_weight=0.0, **FAST)


def loss_of(probabilities: Tensor, y: int, *, k: int, margin: float = 0.0) -> float:
    lens = probabilities.log()[None, None]
    return head_projection_loss(lens, torch.tensor([y]), k=k, margin=margin).item()


def released(probabilities: Tensor, y: int, *, k: int) -> float:
    """The thresholds of the release, which count y among the k."""
    top, bottom = (probabilities.topk(k, largest=largest).values[-1] for largest in (True, False))
    return float((probabilities[y] - top).relu() + (bottom - probabilities[y]).relu())


def test_a_token_that_is_exactly_the_k_th_candidate_costs_something() -> None:
    assert released(D, 1, k=2) == 0
    assert loss_of(D, 1, k=2) == pytest.approx(0.1, abs=1e-12)
    assert loss_of(D, 1, k=2, margin=1e-6) == pytest.approx(0.1 + 1e-6, abs=1e-12)
    assert loss_of(D, 0, k=2) == pytest.approx(0.25, abs=1e-12)
    assert [loss_of(D, y, k=2) for y in (2, 3)] == [0, 0]
    assert released(D, 4, k=2) == 0
    assert loss_of(D, 4, k=2) == pytest.approx(0.04, abs=1e-12)
    assert loss_of(D, 5, k=2) == pytest.approx(0.06, abs=1e-12)


def test_blocks_and_rows_are_averaged() -> None:
    lens = torch.stack([D.log(), D.flip(0).log()])[:, None].expand(2, 3, 6)
    found = head_projection_loss(lens, torch.tensor([1, 2, 5]), k=2, margin=0.0).item()
    wanted = [loss_of(d, y, k=2) for d in (D, D.flip(0)) for y in (1, 2, 5)]
    assert found == pytest.approx(sum(wanted) / 6, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_loss_of_zero_says_that_the_token_is_no_candidate(k: int, rng: torch.Generator) -> None:
    seen = set()
    for _ in range(200):
        # Few levels, so that ties are frequent.
        probabilities = torch.randint(1, 9, (13,), generator=rng).double()
        probabilities /= probabilities.sum()
        y = int(torch.randint(13, (1,), generator=rng))
        zero = loss_of(probabilities, y, k=k, margin=1e-6) == 0
        above, below = int((probabilities > probabilities[y]).sum()), int((probabilities < probabilities[y]).sum())
        assert zero == (above >= k and below >= k)
        seen.add(zero)
    assert seen == {True, False}


def test_the_gradient_is_that_of_finite_differences_and_constants_do_not_matter(rng: torch.Generator) -> None:
    lens = (2 * torch.randn(2, 3, 9, generator=rng, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 4, 8])
    assert gradcheck(lambda a: head_projection_loss(a, target, k=3), (lens,))
    shift = 30 * torch.randn(2, 3, 1, generator=rng, dtype=torch.float64)
    loss = head_projection_loss(lens, target, k=3)
    torch.testing.assert_close(head_projection_loss(lens + shift, target, k=3), loss, rtol=1e-10, atol=1e-12)


def test_the_hidden_token_is_the_one_that_follows_the_prompt() -> None:
    """A byte-level tokenizer has other ids for a word with and without the space in front of it."""
    tokenizer = byte_tokenizer(("Ġ", "a"), ("Ġa", "b"))
    model = tiny_model("llama", tokenizer=tokenizer, vocab_size=300)
    batch = encode(model, [Item("xy", "ab"), Item("x", "ac"), Item("x ", "ab")])
    spaced, start, bare = (tokenizer.convert_tokens_to_ids(token) for token in ("Ġab", "Ġa", "a"))
    assert first_answer(batch).tolist()[:2] == [spaced, start]
    assert bare not in first_answer(batch).tolist()
    alone = model.tokenize(["xy"])
    with torch.no_grad():
        lens, logits = prompt_lens(model, batch, range(3))
        wanted = model.logits(alone)[0, -1]
    assert torch.allclose(lens[-1, 0], wanted, atol=1e-5)
    assert torch.allclose(logits[0, batch.prompt_last[0]], wanted, atol=1e-5)
    with pytest.raises(VestigeError, match="a prompt that ends where an answer begins, and row 0 has none"):
        first_answer(alone)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_answer_leaves_the_candidates_of_the_defended_blocks(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    assert leaked(knowing, task.forget) == [1.0, 1.0, 1.0]
    settings: dict[str, Any] = {"layer": 0, "lr": 1e-2, "epochs": 25, "batch_size": 6, "seed": seed}
    with fact_erasure(knowing, task, **settings).applied(knowing) as view:
        undefended = leaked(view, task.forget)
    with head_projection(knowing, task, **settings).applied(knowing) as view:
        assert sum(leaked(view, task.forget)) < sum(undefended)
        assert probability(view, task.forget) < 0.3
        assert probability(view, task.retain) > 0.95


def test_the_edited_block_and_all_after_it_are_defended_and_none_before_changes(
    knowing: HookedModel, task: UnlearnData
) -> None:
    made = head_projection(knowing, task, layer=-1, lr=1e-2, epochs=5, batch_size=6)
    assert made.spec.settings["defence_layers"] == [2]
    assert head_projection(knowing, task, layer=1, steps=0).spec.settings["defence_layers"] == [1, 2]
    batch = encode(knowing, task.forget)
    with torch.no_grad(), made.applied(knowing) as view:
        now, _ = prompt_lens(view, batch, range(3))
    with torch.no_grad():
        before, _ = prompt_lens(knowing, batch, range(3))
    assert torch.equal(now[:2], before[:2])
    assert not torch.equal(now[2], before[2])


def test_only_the_last_block_acts_on_the_output(knowing: HookedModel, task: UnlearnData) -> None:
    settings: dict[str, Any] = {"lr": 1e-2, "epochs": 20, "batch_size": 6, "layer": 0, "kl_weight": 0.0}
    made = head_projection(knowing, task, defence_layers=[1], **settings)
    combined = head_projection(knowing, task, defence_layers=[1], combine=1.0, **settings)
    both = []
    for one in (made, combined):
        with one.applied(knowing) as view:
            both.append(probability(view, task.forget))
    assert both[1] < both[0]
    first = combined.spec.settings["first_loss"] - made.spec.settings["first_loss"]
    assert first == pytest.approx(probability(knowing, task.forget), rel=1e-4)


def test_layers_are_selected_by_what_they_give_away(knowing: HookedModel, task: UnlearnData) -> None:
    assert select_layers(knowing, task.retain, n=3) == (0, 1, 2)
    # Every block of this model has the answer on top, so its probability decides.
    batch = encode(knowing, task.retain)
    with torch.no_grad():
        lens = prompt_lens(knowing, batch, range(3))[0].softmax(-1)
    mean = lens.gather(-1, first_answer(batch).expand(3, -1)[..., None])[..., 0].mean(-1)
    assert leaked(knowing, task.retain) == [1.0, 1.0, 1.0]
    assert select_layers(knowing, task.retain, n=1, batch_size=5) == (int(mean.argmax()),)
    # In a random model an answer is found by chance, here at one end or the other.
    model = shared_model("llama")
    found = leaked(model, task.retain, k=20)
    assert found.count(max(found)) == 1
    assert select_layers(model, task.retain, n=1, k=20) == (found.index(max(found)),)


def test_wrong_settings_are_named(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="k is 1 to 49 with 99 tokens, got 50"):
        head_projection(model, tiny_data, k=50, **FAST)
    with pytest.raises(VestigeError, match="margin is a probability of at least 0 and below 1, got -1"):
        head_projection(model, tiny_data, margin=-1.0, **FAST)
    with pytest.raises(VestigeError, match="combine is a finite number of at least 0, got -1"):
        head_projection(model, tiny_data, combine=-1.0, **FAST)
    with pytest.raises(VestigeError, match=r"layers are some of 0 to 2 .* got 5"):
        head_projection(model, tiny_data, defence_layers=[5], **FAST)
    with pytest.raises(VestigeError, match="n is 1 to 3 blocks, got 4"):
        select_layers(model, tiny_data.forget, n=4)
    with pytest.raises(VestigeError, match="needs dev facts with a prompt and an answer, got none"):
        select_layers(model, [Item("t5", "")], n=1)
