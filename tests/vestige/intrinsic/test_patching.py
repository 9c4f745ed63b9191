"""Patching: theorems of exact identity, locality, and invariance under batches, padding, heads and hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Item, Spec, VestigeError, WeightPatch
from tests.tiny import FAMILIES, tiny_model
from tests.vestige.intrinsic.conftest import ITEMS
from vestige.intrinsic.depth import depth
from vestige.intrinsic.lens_depth import lens_log_probs
from vestige.intrinsic.patched import Patched, Patching
from vestige.intrinsic.patching import patched_log_probs, plain_log_probs
from vestige.intrinsic.spans import Spans, answer_spans
from vestige.intrinsic.states import read_states
from vestige.result import SubjectInfo
from vestige.subjects import Source, opened


def patched(source: Source, original: HookedModel, spans: Spans, **settings: Any) -> Patched:
    """Read and patch one subject as the audit does."""
    patching = Patching(original, spans, decoder=original.decoder.frozen(), **settings)
    with opened(SubjectInfo("x", "unlearned"), source, original=original) as subject:
        states = patching.read(subject)
    assert states is not None
    return patching.patched(states)


@dataclass(frozen=True)
class Noise:
    """An edit that adds the same to every position."""

    size: float

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        return activation + self.size * torch.arange(activation.shape[-1]).to(activation).sin()


def noisy(size: float = 1.0, layer: int = 1) -> Intervention:
    return Intervention(Spec("noisy", "suppression"), edits={f"blocks.{layer}.hook_resid_post": Noise(size)})


@torch.no_grad()
def slowly(model: HookedModel, item: Item, source: HookedModel, layer: int) -> float:
    """Patch one item without padding, by full logits of the native model."""
    ids = [1, *model.tokenizer(f"{item.prompt} {item.answer}", add_special_tokens=False)["input_ids"]]
    n = len(model.tokenizer(item.answer, add_special_tokens=False)["input_ids"])
    places = list(range(len(ids) - n - 1, len(ids) - 1))
    site = f"blocks.{layer}.hook_resid_post"
    _, cache = source.run_with_cache(torch.tensor([ids]), names_filter=site)

    def put(activation: Tensor, hook: Any) -> Tensor:
        changed = activation.clone()
        changed[:, places] = cache[site][:, places]
        return changed

    log_probs = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(site, put)])[0].double().log_softmax(-1)
    return float(np.mean([float(log_probs[at, ids[at + 1]]) for at in places]))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_patching_equals_a_slow_oracle(family: str) -> None:
    model, source = tiny_model(family), tiny_model(family, seed=3)
    spans = answer_spans(model, ITEMS)
    found = patched_log_probs(model, spans, read_states(source, spans, batch_size=2), batch_size=3)
    for layer in range(model.n_layers):
        for n, item in enumerate(ITEMS):
            assert found[layer, n] == pytest.approx(slowly(model, item, source, layer), abs=3e-4)


def test_unpatched_values_are_those_of_the_native_logits(original: HookedModel, spans: Spans) -> None:
    batch = original.tokenize([i.prompt for i in ITEMS], answers=[i.answer for i in ITEMS])
    log_probs = original.logits(batch).detach().double().log_softmax(-1)[:, :-1]
    for n, found in enumerate(plain_log_probs(original, spans)):
        at = batch.answer[n, 1:]
        wanted = log_probs[n][at].gather(-1, batch.ids[n, 1:][at][:, None]).mean()
        assert found == pytest.approx(float(wanted), abs=2e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_models_own_states_change_nothing_at_any_block(family: str) -> None:
    model = tiny_model(family)
    found = patched(model, model, answer_spans(model, ITEMS), batch_size=2)
    assert found.view.shape == (model.n_layers, len(ITEMS))
    # To the last bit, the last block included: no state is normed before it is patched.
    assert not found.view.any()
    assert not found.lens.any()


def test_the_ends_of_the_scale(original: HookedModel, retrained: HookedModel, spans: Spans) -> None:
    scale = patched(retrained, original, spans)
    mine = patched(original, original, spans)
    for falls, own in ((scale.view, mine.view), (scale.lens, mine.lens)):
        known = depth(falls, falls)
        assert len(known.measured) > 2
        assert (known.measured == 1).all()
        assert (depth(falls, own).measured == 0).all()


def test_at_the_last_block_patching_is_decoding(original: HookedModel, unlearned: HookedModel, spans: Spans) -> None:
    found = patched(unlearned, original, spans)
    assert found.view[-1] == pytest.approx(found.lens[-1], abs=1e-5)
    assert abs(found.view[0] - found.lens[0]).max() > 0.1


@pytest.mark.parametrize("size", [1, 2, 50])
def test_batches_and_padding_change_nothing(
    original: HookedModel, unlearned: HookedModel, spans: Spans, size: int
) -> None:
    whole, parts = (patched(unlearned, original, spans, batch_size=n) for n in (5, size))
    for one, other in ((whole.view, parts.view), (whole.lens, parts.lens)):
        assert one == pytest.approx(other, abs=3e-4)
    alone = patched(unlearned, original, answer_spans(original, ITEMS[1:2]))
    assert alone.view[:, 0] == pytest.approx(whole.view[:, 1], abs=3e-4)


def test_only_the_places_are_replaced(original: HookedModel, unlearned: HookedModel) -> None:
    # With the last answer token alone as the entity, the states before it stay the original's.
    some = answer_spans(original, ITEMS[1:2], entities=["t12"])
    all_of_it = answer_spans(original, ITEMS[1:2])
    assert some.places[0] == all_of_it.places[0][-1:]
    one, every = (patched(unlearned, original, spans).view for spans in (some, all_of_it))
    assert abs(one - every).max() > 0.05


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_changed_unembedding_is_invisible(family: str) -> None:
    """Decoder swap, for both twins. GPT-2 ties its embedding, whose edit would reach the states, so it is untied."""
    model = tiny_model(family, tie_word_embeddings=False)
    spans, head = answer_spans(model, ITEMS), model.state()["lm_head.weight"]
    turned = WeightPatch.between({"lm_head.weight": head}, {"lm_head.weight": -head})
    edit = Intervention(Spec("turn", "removal"), weights=turned)
    with edit.applied(model) as view:
        assert abs(plain_log_probs(view, spans) - plain_log_probs(model, spans)).max() == 0
    found = patched(edit, model, spans)
    assert not found.view.any()
    assert not found.raw.any()
    assert not found.lens.any()


def test_an_edit_of_the_logits_is_invisible(original: HookedModel, spans: Spans) -> None:
    mute = Intervention(Spec("mute", "suppression"), logits=lambda logits, request: torch.zeros_like(logits))
    assert not patched(mute, original, spans).view.any()


def test_hooks_are_seen_in_the_view_and_not_in_the_bare_weights(original: HookedModel, spans: Spans) -> None:
    found = patched(noisy(), original, spans)
    assert abs(found.view[1]).max() > 0.05
    # The block below the hook is untouched.
    assert not found.view[0].any()
    assert not found.raw.any()


def test_weight_edits_are_read_in_force_and_patched_into_the_whole_original(retrained: HookedModel) -> None:
    model = tiny_model("llama")
    spans = answer_spans(model, ITEMS)
    edit = Intervention(Spec("swap", "removal"), weights=WeightPatch.between(model.state(), retrained.state()))
    one, other = patched(edit, model, spans), patched(retrained, model, spans)
    assert one.view == pytest.approx(other.view, abs=1e-3)
    assert one.raw is one.view
    assert one.lens == pytest.approx(other.lens, abs=1e-3)


def test_gates_and_prompt_edits_see_the_prompt(original: HookedModel, spans: Spans) -> None:
    seen = []

    def gate(raw: HookedModel, request: Any) -> Tensor:
        seen.append((request.ids[request.mask & ~request.prompt]).tolist())
        return torch.zeros(len(request.ids), dtype=torch.bool)

    shut = Intervention(noisy().spec, edits=noisy().edits, gate=gate)
    assert not patched(shut, original, spans).view.any()
    order = [n for rows in spans.batches(32) for n in rows.items]
    told = [i for n in order for i, own in zip(spans.ids[n], spans.answer[n], strict=True) if own]
    assert seen[0] == told


def test_items_without_a_place_are_nan(original: HookedModel, unlearned: HookedModel) -> None:
    spans = answer_spans(original, ITEMS[:3], entities=["t7", "t99", "t21"])
    found = patched(unlearned, original, spans)
    assert np.isnan(found.view).any(0).tolist() == [False, True, False]
    assert np.isnan(found.lens).all(0).tolist() == [False, True, False]


def test_the_precision_of_the_model_is_kept() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    spans = answer_spans(model, ITEMS)
    assert read_states(model, spans).dtype == torch.bfloat16
    assert not patched(model, model, spans).view.any()


def test_a_model_of_other_depth_has_no_states_to_patch(original: HookedModel, spans: Spans) -> None:
    short = tiny_model("llama", num_hidden_layers=2)
    patching = Patching(original, spans, decoder=original.decoder)
    with opened(SubjectInfo("x", "never"), short, original=original) as subject:
        assert patching.read(subject) is None
    with pytest.raises(VestigeError, match=r"states of shape \(2, 12, 32\) cannot be patched here.* is \(3, 12, 32\)"):
        patched_log_probs(original, spans, read_states(short, spans))


def test_refusals(original: HookedModel) -> None:
    with pytest.raises(VestigeError, match="no item has a place"):
        read_states(original, answer_spans(original, ITEMS[:1], entities=["t9"]))
    broken = tiny_model("llama")
    broken.state()["model.layers.1.mlp.down_proj.weight"].data.fill_(float("nan"))
    with pytest.raises(VestigeError, match="after block 1 holds NaN or infinity"):
        read_states(broken, answer_spans(broken, ITEMS))


def test_the_lens_reads_what_the_decoder_reads(original: HookedModel, spans: Spans) -> None:
    states = read_states(original, spans)
    found = lens_log_probs(original.decoder, spans, states)
    targets = torch.tensor([ids[p + 1] for ids, own in zip(spans.ids, spans.places, strict=True) for p in own])
    log_probs = original.lens(states).double().log_softmax(-1)[:, torch.arange(spans.n_places), targets]
    for n in range(len(ITEMS)):
        assert found[:, n] == pytest.approx(log_probs[:, spans.owner == n].mean(-1).detach().numpy(), abs=1e-4)
    assert found[-1] == pytest.approx(plain_log_probs(original, spans), abs=1e-5)
