"""Every family of corruptions: what it does to a token, and to which tokens it does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, Item, Request, Spec, TokenBatch, VestigeError
from hooked.forward import first_chunk
from interventions.prompts import FAMILIES, Corruption, Which, corruption_of, which_tokens
from interventions.prompts.tokens_hit import tokens_hit
from tests.contracts import foreign_hooks, padded
from tests.tiny import D_MODEL, shared_model, tiny_model, words

SPEC = Spec("corrupt", "suppression")
TEXTS = ["t4 t5 t6", "t7 t7 t9", "t8 t9", "t10 t11 t12 t13"]
ANSWERS = ["t14 t15", "t16", "t17", "t18"]
MOVING = ("shuffle", "reverse")
every_family = pytest.mark.parametrize("family", FAMILIES)
changing = pytest.mark.parametrize("family", [family for family in FAMILIES if family not in MOVING])


def made(family: str, places: Any = "all_but_last", **settings: Any) -> Corruption:
    # Seed 9 shuffles each of the prompts here into another order.
    given = {"strength": 0.25, "which": Which(places), "n": 5, "seed": 9, "d_model": D_MODEL, **settings}
    return corruption_of(family, **given)


def even_rows(raw: HookedModel, request: Request) -> Tensor:
    return torch.arange(len(request.ids)) % 2 == 0


def embeddings(model: HookedModel, batch: TokenBatch) -> Tensor:
    found: Tensor = model.run_with_cache(batch, names_filter="hook_embed", return_type=None)[1]["hook_embed"]
    return found.detach()


def corrupted(edit: Corruption, batch: TokenBatch, model: HookedModel | None = None) -> Tensor:
    with Intervention(SPEC, embedding=edit).applied(model or shared_model("llama")) as view:
        return embeddings(view, batch)


@every_family
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rows_that_the_gate_leaves_alone_are_bit_identical(family: str, name: str) -> None:
    model = shared_model(name)
    batch = model.tokenize(TEXTS, answers=ANSWERS)
    with torch.no_grad(), Intervention(SPEC, embedding=made(family), gate=even_rows).applied(model) as view:
        got, plain = view.logits(batch), model.logits(batch)
    assert torch.equal(got[1::2], plain[1::2])
    assert all(not torch.equal(got[row], plain[row]) for row in (0, 2))


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_only_prompt_tokens_but_the_last_are_changed(family: str, side: Any) -> None:
    model = shared_model("llama")
    batch = model.tokenize(TEXTS, answers=ANSWERS, padding_side=side)
    plain = embeddings(model, batch)
    changed = (corrupted(made(family), batch) != plain).any(-1)
    hit = batch.prompt.clone()
    hit[torch.arange(4), batch.prompt_last] = False
    assert not changed[~hit].any()
    # A token may be moved to where an equal one was, or stay in its place.
    assert changed.any(-1).all() if family in MOVING else changed[hit].all()


@every_family
def test_a_prompt_is_corrupted_in_the_same_way_whatever_stands_around_it(family: str) -> None:
    model, edit = shared_model("llama"), made(family)
    for text, answer in zip(TEXTS, ANSWERS, strict=True):
        alone = model.tokenize(text)
        wanted = corrupted(edit, alone)[0]
        for side in ("left", "right"):
            for answers in (None, ANSWERS):
                together = padded(model.tokenize(TEXTS, answers=answers, padding_side=side), side, 3)  # type: ignore[arg-type]
                got = corrupted(edit, together)[TEXTS.index(text)]
                assert torch.equal(got[together.prompt[TEXTS.index(text)]], wanted)
        scored = model.tokenize(text, answers=answer)
        assert torch.equal(corrupted(edit, scored)[0, : len(wanted)], wanted)


@changing
@pytest.mark.parametrize("places", ["all", "all_but_last"])
def test_a_prompt_of_one_token_is_corrupted(family: str, places: str) -> None:
    """The cache offset says what a prompt is, not its length."""
    model = shared_model("llama")
    batch = model.tokenize("t5", prepend_bos=False)
    assert batch.ids.shape == (1, 1)
    edit = made(family, places)
    assert not torch.equal(corrupted(edit, batch), embeddings(model, batch))
    with Intervention(SPEC, embedding=made(family, places, strength=0.9)).applied(model) as view:
        cached, uncached = (
            view.generate_tokens(batch, max_new_tokens=5, stop_at_eos=False, use_cache=use_cache)
            for use_cache in (True, False)
        )
    assert cached == uncached


@every_family
def test_a_continuation_of_several_tokens_is_not_corrupted(family: str, rng: torch.Generator) -> None:
    request = first_chunk(shared_model("llama").tokenize("t4 t5 t6 t7")).request
    hook = HookContext("hook_embed")
    acts = torch.randn(1, 5, D_MODEL, generator=rng)
    hook.request = request
    assert not torch.equal(made(family)(acts, hook=hook), acts)
    hook.request = replace(request, offset=4)
    assert torch.equal(made(family)(acts, hook=hook), acts)


@every_family
def test_foreign_hooks_survive(family: str) -> None:
    model = shared_model("llama")
    with foreign_hooks(model) as seen:
        corrupted(made(family), model.tokenize(TEXTS))
        assert all(torch.equal(live, copy) for live, copy in seen)
        seen.clear()
        model.logits(TEXTS)
        assert seen


@changing
def test_the_right_dimensions_of_every_token_get_the_right_values(family: str) -> None:
    model = shared_model("llama")
    batch = model.tokenize(TEXTS)
    hit = tokens_hit(first_chunk(batch).request, Which("all_but_last"))
    before, after = (x[hit] for x in (embeddings(model, batch), corrupted(made(family), batch)))
    changed = before != after
    operation, dims = FAMILIES[family]
    count = round(0.25 * D_MODEL) if operation in ("zero_out", "flip_sign") else 5
    assert (changed.sum(-1) == count).all()
    if dims == "first_n":
        assert changed[:, :count].all()
    elif dims == "top_k":
        assert torch.equal(changed, before.abs() >= before.abs().sort(descending=True).values[:, count - 1 : count])
    else:
        # Drawn for each token anew.
        assert len(changed.unique(dim=0)) > 2
    new, old = after[changed], before[changed]
    if operation == "zero_out":
        assert not new.any()
    elif operation == "flip_sign":
        assert torch.equal(new, -old)
    elif operation in ("add_value", "sub_value"):
        assert torch.allclose(new - old, torch.full_like(new, 0.25 if operation == "add_value" else -0.25))
    else:
        noise = new - old if operation == "rand_noise" else new
        assert len(noise.unique()) > 0.9 * noise.numel()
        assert 0.15 < noise.std() < 0.35


@pytest.mark.parametrize("operation", ["rand_noise", "set_rand_noise"])
def test_the_strength_of_noise_is_a_standard_deviation(operation: str) -> None:
    model = tiny_model("llama", max_position_embeddings=400)
    batch = model.tokenize(words(torch.arange(300) % 90 + 3))
    for strength in (0.5, 40.0):
        edit = made(f"{operation}_first_n", "all", n=D_MODEL, strength=strength)
        noise = corrupted(edit, batch, model) - (embeddings(model, batch) if operation == "rand_noise" else 0)
        # Three standard errors of a standard deviation from 300 * 32 numbers are 2.2 %.
        assert noise.std() == pytest.approx(strength, rel=0.025)
        assert abs(noise.mean()) < 0.035 * strength


def test_reversing_moves_whole_tokens() -> None:
    model = shared_model("llama")
    batch = model.tokenize("t4 t5 t6 t7", padding_side="right")
    wanted = embeddings(model, batch)[:, [3, 2, 1, 0, 4]]
    assert torch.equal(corrupted(made("reverse"), batch), wanted)
    shuffled = corrupted(made("shuffle"), batch)[0]
    before = embeddings(model, batch)[0]
    order = [int((row == before).all(-1).nonzero()[0]) for row in shuffled]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order != [0, 1, 2, 3, 4]
    assert order[4] == 4


@pytest.mark.parametrize("family", ["rand_noise_first_n", "rand_noise_rand_n", "shuffle"])
def test_chance_depends_on_the_seed_and_on_the_prompt(family: str) -> None:
    model = shared_model("llama")
    text = "t4 t5 t6 t7 t8 t9 t10 t11"
    batch = model.tokenize([text, text, f"t3 {text.removeprefix('t4 ')}"])
    one, again, other = (corrupted(made(family, seed=seed), batch) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert torch.equal(one[0], one[1])
    assert not torch.equal(one, other)
    change = one - embeddings(model, batch)
    # The first differs in one word, so its noise is new everywhere.
    assert not torch.equal(change[0, 2:], change[2, 2:])


def test_a_published_strength_fits_half_precision() -> None:
    model = tiny_model("llama", dtype=torch.float16)
    edit = made("rand_noise_first_n", strength=1e6)
    assert torch.isfinite(corrupted(edit, model.tokenize(TEXTS), model)).all()


# Which tokens.


def test_names_are_found_where_they_stand() -> None:
    model = shared_model("llama")
    items = [Item("t3", "t4", subject="t20 t21"), Item("t3", "t4", subject="t30"), Item("t3", "t4")]
    which = which_tokens(model, items, "subject")
    assert set(which.names) == {(20, 21), (30,)}
    texts = ["t20 t21 t5 t20", "t5 t30 t6 t20 t21", "t4 t5 t6"]
    batch = model.tokenize(texts, answers=["t30 t31"] * 3)
    hit = tokens_hit(first_chunk(batch).request, which)
    rows = [ids[marks].tolist() for ids, marks in zip(batch.ids, hit, strict=True)]
    # The third names nobody: all of its prompt but the last is hit, BOS included.
    assert rows == [[20, 21], [30, 20, 21], [1, 4, 5]]
    assert not (hit & batch.answer).any()


def test_the_last_token_is_spared_where_there_is_another() -> None:
    model = shared_model("llama")
    batch = TokenBatch(
        torch.tensor([[5, 6, 7], [5, 9, 9]]),
        torch.tensor([[True, True, True], [True, False, False]]),
        torch.tensor([[False, False, True], [False, False, False]]),
    )
    request = first_chunk(model.as_batch(batch)).request
    assert tokens_hit(request, Which("all_but_last")).tolist() == [[True, False, False], [True, False, False]]
    assert tokens_hit(request, Which("all")).tolist() == [[True, True, False], [True, False, False]]


# Errors.


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("noise", {}, "no corruption 'noise'; there are rand_noise_first_n, "),
        ("shuffle", {"strength": -1.0}, "strength of a corruption is a finite number of at least 0, got -1.0"),
        ("shuffle", {"strength": float("nan")}, "of at least 0, got nan"),
        (
            "zero_out_top_k",
            {"strength": 1.5},
            r"is a fraction of the dimensions of d_model=, in \[0, 1\], got 1.5 of 32",
        ),
        ("flip_sign_first_n", {"d_model": None}, "got 0.25 of None"),
        ("add_value_top_k", {"n": 0}, "changes at least one dimension, got n=0"),
    ],
)
def test_wrong_settings_are_named(family: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        made(family, **settings)


def test_it_needs_a_request_and_names_need_a_subject() -> None:
    model = shared_model("llama")
    with pytest.raises(VestigeError, match="has to know which tokens are the prompt"):
        made("shuffle")(torch.zeros(1, 2, D_MODEL), hook=HookContext("hook_embed"))
    with pytest.raises(VestigeError, match="no forget item has one; use 'all_but_last'"):
        which_tokens(model, [Item("t3", "t4")], "subject")
    with pytest.raises(VestigeError, match="places are one of all_but_last, all, subject, got 'some'"):
        which_tokens(model, [], "some")  # type: ignore[arg-type]
