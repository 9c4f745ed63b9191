"""ULD: its uniform term, its data, its identity at weight 0, and what it forgets and keeps on three seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from hooked.truncated import truncated
from interventions.decoding import Assistant, LogitCombiner, uld
from interventions.decoding.uld import _sides, uniform_kl
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.interventions.decoding.made import applied_logits, task_of, taught
from tests.interventions.training.knowing import probability
from tests.tiny import random_ids, shared_model

FAST: dict[str, Any] = {"steps": 3, "progress": False}
# Thirty of 99 tokens stay, as three hundred of 32,000 do at the published cutoff.
TINY: dict[str, Any] = {"epochs": 30, "batch_size": 6, "lr": 1e-2, "cutoff": 0.3, "weight": -1.5, "progress": False}
FIXTURE_A = torch.tensor([[[2, 1, 0, -1], [0, 1, 3, 0], [1, 1, 1, 1]]], dtype=torch.float64)


class TestULD(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return uld(model, data, **FAST)


def test_the_uniform_term_has_its_reference_values() -> None:
    for position, wanted in enumerate((0.553895, 0.824703, 0.0)):
        mask = F.one_hot(torch.tensor([position]), 3).bool()
        assert uniform_kl(FIXTURE_A, mask).item() == pytest.approx(wanted, abs=1e-6)
    assert uniform_kl(FIXTURE_A, torch.ones(1, 3).bool()).item() == pytest.approx(0.459533, abs=1e-6)


def test_the_uniform_term_and_its_gradient_do_not_see_padding(rng: torch.Generator) -> None:
    """The release averages over padding, so that a longer neighbour in the batch makes the term smaller."""
    mask = torch.ones(1, 3).bool()
    wide = torch.cat([FIXTURE_A, 9 * torch.randn(1, 4, 4, generator=rng, dtype=torch.float64)], 1).requires_grad_()
    value = uniform_kl(wide, F.pad(mask, (0, 4)))
    assert value.item() == pytest.approx(uniform_kl(FIXTURE_A, mask).item(), abs=1e-15)
    (grad,) = torch.autograd.grad(value, wide)
    assert torch.equal(grad[:, 3:], torch.zeros(1, 4, 4, dtype=torch.float64))
    # The gradient of KL(U || softmax z) is softmax z - 1 / V.
    torch.testing.assert_close(grad[:, :3], (FIXTURE_A.softmax(-1) - 0.25) / 3)


def test_paraphrases_are_learned_and_wrong_answers_are_not() -> None:
    item = Item(
        "who wrote it",
        "the tall poet",
        paraphrased_prompt="its author is",
        paraphrased_answer="the poet who is tall",
        perturbed_answers=(
            "the small cook of Rome",
            "the tall",
            "the tall poet in Bonn now",
            "the poet who is from Rome",
            "",
            "nobody",
        ),
    )
    retain = (Item("q", "a"), Item("r", ""))
    taught_items, blank, counts = _sides(UnlearnData((item,), retain))
    assert [(i.prompt, i.answer) for i in taught_items] == [
        ("who wrote it", "the tall poet"),
        ("its author is", "the tall poet"),
        ("who wrote it", "the poet who is tall"),
    ]
    # Up to its first wrong word, a wrong answer is a prompt of the right one.
    assert [(i.prompt, i.answer) for i in blank] == [
        ("q", "a"),
        ("who wrote it the small", "cook of Rome"),
        ("who wrote it the tall poet in", "Bonn now"),
        ("who wrote it the poet who is from", "Rome"),
    ]
    assert counts == {"paraphrases": 2, "wrong_answers": 3}


def test_a_quarter_of_the_blocks_is_trained_by_adapters_and_nothing_is_bounded(tiny_data: UnlearnData) -> None:
    made = uld(shared_model("gpt2"), tiny_data, **FAST)
    assert made.spec.settings["n_layers"] == 1
    assert made.spec.settings["lora"] == 16
    assert made.points == ("logits",)
    combiner = made.logits
    assert isinstance(combiner, LogitCombiner)
    (assistant,) = combiner.others
    assert isinstance(assistant, Assistant)
    assert assistant.weights is not None
    assert {name.split(".")[2] for name in assistant.weights.deltas} == {"0"}


def test_every_weight_of_more_blocks_may_be_trained(tiny_data: UnlearnData, tmp_path: Path) -> None:
    model = shared_model("llama")
    made = uld(model, tiny_data, n_layers=2, cutoff=None, lora=None, **FAST)
    made.save(tmp_path / "saved")
    loaded = Intervention.load(tmp_path / "saved")
    assert torch.equal(applied_logits(loaded, model, "t5 t6"), applied_logits(made, model, "t5 t6"))
    assert isinstance(loaded.logits, LogitCombiner)
    (assistant,) = loaded.logits.others
    assert isinstance(assistant, Assistant)
    assert assistant.n_layers == 2
    assert assistant.weights is not None
    assert {"model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"} <= set(assistant.weights.deltas)


def test_weight_0_is_the_model_bit_by_bit(tiny_data: UnlearnData, rng: torch.Generator) -> None:
    model, ids = shared_model("llama"), random_ids(rng)
    made = uld(model, tiny_data, weight=0.0, **FAST)
    assert torch.equal(applied_logits(made, model, ids), model.logits(ids))


def test_a_weight_near_0_changes_no_winner(tiny_data: UnlearnData, rng: torch.Generator) -> None:
    model, ids = shared_model("llama"), random_ids(rng)
    made = uld(model, tiny_data, weight=-1e-6, **FAST)
    assert torch.equal(applied_logits(made, model, ids).argmax(-1), model.logits(ids).argmax(-1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_forgets_and_the_uniform_term_is_what_keeps_the_rest(seed: int) -> None:
    data = task_of(seed)
    with taught(data.forget + data.retain, seed=seed) as model:
        before = model.logits("t5 t6")
        made, careless = uld(model, data, **TINY), uld(model, data, uniform_weight=0.0, **TINY)
        assert probability(model, data.forget) > 0.99
        with made.applied(model) as view:
            assert probability(view, data.forget) < 0.05
            assert probability(view, data.retain) > 0.8
            assert probability(view.raw, data.forget) > 0.99
            assert torch.equal(view.raw.logits("t5 t6"), before)
        with careless.applied(model) as view:
            assert probability(view, data.retain) < 0.6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_wrong_answers_it_disturbs_what_follows_them(seed: int) -> None:
    long = make_items(12, low=3, high=40, seed=seed)
    answers = [" ".join((item.prompt + " " + item.answer).split()[:4]) for item in long]
    forget = tuple(
        replace(item, answer=answers[i], perturbed_answers=(answers[6 + i], answers[6 + (i + 1) % 6]))
        for i, item in enumerate(long[:6])
    )
    asked = tuple(replace(item, answer=wrong) for item in forget for wrong in item.perturbed_answers)
    data = replace(task_of(seed), forget=forget)
    with taught(forget + data.retain, seed=seed) as model:
        moved = []
        for some in (data, replace(data, forget=tuple(replace(item, perturbed_answers=()) for item in forget))):
            with uld(model, some, **{**TINY, "cutoff": None}).applied(model) as view, torch.no_grad():
                batch = view.tokenize([i.prompt for i in asked], answers=[i.answer for i in asked])
                # Positions after a wrong word.
                where = batch.answer & batch.answer.roll(1, 1)
                p, q = model.logits(batch)[where].log_softmax(-1), view.logits(batch)[where].log_softmax(-1)
                moved.append(F.kl_div(q, p, reduction="batchmean", log_target=True).item())
    assert moved[0] < moved[1]


def test_what_is_out_of_range_is_named(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="uniform_weight is at least 0, got -1"):
        uld(model, tiny_data, uniform_weight=-1)
    for name in ("weight", "uniform_weight"):
        with pytest.raises(VestigeError, match=f"{name} is a finite number, got nan"):
            uld(model, tiny_data, **{name: float("nan")})  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="a cutoff is a fraction above 0 and at most 1, got 0"):
        uld(model, tiny_data, cutoff=0)
    with pytest.raises(VestigeError, match="n_layers is 1 to 3 for a model of 3 blocks, got 9"):
        uld(model, tiny_data, n_layers=9)
    with pytest.raises(VestigeError, match="uld has no setting 'rank'; train takes"):
        uld(model, tiny_data, rank=4)  # type: ignore[call-arg]


def test_its_loss_counts_answers_alone(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    made = uld(model, tiny_data, uniform_weight=2.0, steps=1, batch_size=40, progress=False)
    with torch.no_grad():
        blank = truncated(model, 1)
        losses = []
        for items in (tiny_data.forget, tiny_data.retain):
            batch = blank.tokenize([i.prompt for i in items], answers=[i.answer for i in items], padding_side="right")
            logits = blank.logits(batch).log_softmax(-1)[:, :-1]
            answer = batch.answer[:, 1:]
            nll = -logits.gather(-1, batch.ids[:, 1:, None])[..., 0]
            losses.append(((nll * answer).sum(-1) / answer.sum(-1)).mean())
            losses.append(-torch.tensor(99.0).log() - logits.mean(-1)[answer].mean())
    assert made.spec.settings["first_loss"] == pytest.approx(float(losses[0] + 2 * losses[3]), rel=1e-5)


def test_weight_0_leaves_the_uniform_term_out(tiny_data: UnlearnData) -> None:
    made = uld(shared_model("gpt2"), tiny_data, uniform_weight=0.0, steps=1, batch_size=40, progress=False)
    both = uld(shared_model("gpt2"), tiny_data, steps=1, batch_size=40, progress=False)
    assert 0 < made.spec.settings["first_loss"] < both.spec.settings["first_loss"]
