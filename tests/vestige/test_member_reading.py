"""What membership inference reads of a model, and gradient norms."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch

from hooked import Item, UnlearnData, VestigeError
from probes import answer_probability
from tests.tiny import shared_model, tiny_model
from vestige.gradient_norm import gradient_norm_scores
from vestige.member_reading import read_members, read_texts
from vestige.metrics.membership import log_prob_moments

ITEMS = tuple(Item(f"t{n} t4", " ".join(f"t{n + k}" for k in range(1 + n % 3))) for n in range(5, 12))


def test_log_probabilities_are_those_of_the_answer() -> None:
    model = shared_model("gpt2")
    found = read_texts(model, ITEMS, batch_size=3)
    means = [np.exp(np.mean(text.log_probs)) for text in found]
    assert means == pytest.approx(answer_probability(model, ITEMS).tolist(), abs=1e-6)
    assert [text.text for text in found] == [item.answer for item in ITEMS]


def test_moments_are_those_of_the_whole_vocabulary() -> None:
    model = shared_model("gpt2")
    item = ITEMS[2]
    batch = model.tokenize(item.prompt, answers=item.answer)
    with torch.no_grad():
        log_p = model.logits(batch)[0, :-1][batch.answer[0, 1:]].double().log_softmax(-1).numpy()
    means, variances = log_prob_moments(log_p)
    assert read_texts(model, [item])[0].means == pytest.approx(means, abs=1e-6)
    assert read_texts(model, [item])[0].variances == pytest.approx(variances, abs=1e-6)


def test_batches_change_nothing() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    one, other = (read_texts(model, ITEMS, batch_size=size) for size in (2, 32))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.log_probs == pytest.approx(theirs.log_probs, abs=1e-9)
        assert mine.variances == pytest.approx(theirs.variances, abs=1e-9)


def test_items_without_an_answer_are_left_out_and_no_holdout_is_no_reading() -> None:
    model = shared_model("gpt2")
    assert read_members(model, UnlearnData(ITEMS)) is None
    found = read_members(model, UnlearnData(ITEMS, holdout=(*ITEMS[:2], Item("t9", ""))))
    assert found is not None
    assert [len(found.forget), len(found.holdout)] == [7, 2]
    assert set(found.scores()) == {"loss", "zlib", "min_k", "min_k_plus_plus"}
    assert found.scores()["loss"].forget[:2] == found.scores()["loss"].holdout
    with pytest.raises(VestigeError, match="membership needs items with an answer, and none of 1 has one"):
        read_texts(model, [Item("t9", "")])


def test_gradient_norms_are_means_of_norms_in_eval_mode() -> None:
    model = tiny_model("gpt2", dtype=torch.float64, attn_pdrop=0.5, resid_pdrop=0.5)
    model.model.train()
    frozen = next(iter(model.model.parameters()))
    frozen.requires_grad_(False)
    found = gradient_norm_scores(model, ITEMS[:2])
    assert model.model.training
    assert not frozen.requires_grad
    assert all(p.grad is None for p in model.model.parameters())

    model.model.eval()
    frozen.requires_grad_(True)
    for item, score in zip(ITEMS, found, strict=False):
        model.model.zero_grad()
        batch = model.tokenize(item.prompt, answers=item.answer)
        log_p = model.logits(batch)[0, :-1].log_softmax(-1)[batch.answer[0, 1:]]
        (-log_p.gather(-1, batch.ids[0][batch.answer[0]][:, None]).mean()).backward()
        norms = [float(p.grad.norm()) for p in model.model.parameters() if p.grad is not None]
        assert score == pytest.approx(np.mean(norms))
        assert score != pytest.approx(np.linalg.norm(norms))


def test_a_gradient_norm_has_an_order() -> None:
    model = shared_model("llama")
    two, largest = (gradient_norm_scores(model, ITEMS[:1], p=p)[0] for p in (2, inf))
    assert 0 < largest < two
    with pytest.raises(VestigeError, match="the order p of a norm is above 0, got 0"):
        gradient_norm_scores(model, ITEMS[:1], p=0)
    with pytest.raises(VestigeError, match="gradient norms need at least one item, got none"):
        gradient_norm_scores(model, [])
    with pytest.raises(VestigeError, match="gradient norms need answers, and item 1 has none"):
        gradient_norm_scores(model, [ITEMS[0], Item("t9", "")])
