"""Decoding: batched = single, cached = uncached, the same edits at every step, and an end where one is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, TokenBatch, VestigeError
from hooked.hooks import HookContext, Request
from tests.tiny import EOS, FAMILIES, random_ids, shared_model, tiny_model, words

SUPPRESS = Spec("test", "suppression")


@pytest.fixture
def prompts(rng: torch.Generator) -> list[str]:
    return [words(random_ids(rng, 1, n)[0]) for n in (3, 8, 5, 1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_is_that_of_hugging_face(family: str, prompts: list[str]) -> None:
    model = shared_model(family)
    batch = model.tokenize(prompts)
    native = model.model.generate(
        batch.ids, attention_mask=batch.mask.long(), max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=EOS
    )[:, batch.ids.shape[1] :]
    wanted = [row[: row.index(EOS)] if EOS in row else row for row in native.tolist()]
    assert model.generate_tokens(prompts, max_new_tokens=6) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_decodes_as_its_rows_do_and_with_a_cache_as_without(family: str, prompts: list[str]) -> None:
    """P11; 12 new tokens, more than the sliding window."""
    model = shared_model(family)
    settings: dict[str, Any] = {"max_new_tokens": 12, "stop_at_eos": False}
    batched = model.generate_tokens(prompts, **settings)
    assert batched == [model.generate_tokens(prompt, **settings)[0] for prompt in prompts]
    assert batched == model.generate_tokens(prompts, use_cache=False, **settings)
    assert batched == model.generate_tokens(prompts, batch_size=3, **settings)
    assert all(len(row) == 12 for row in batched)


def scale(activation: Tensor, hook: HookContext) -> Tensor:
    return activation * 0.5


def only_prompt(activation: Tensor, hook: HookContext) -> Tensor:
    """Acts on prompt tokens alone, whichever chunk they come in."""
    assert hook.request is not None
    return torch.where(hook.request.prompt[..., None], activation * -2.0, activation)


def trip(activation: Tensor, hook: HookContext) -> Tensor:
    """Zeroes a row from the first decoding step on at which its activation is high: state of its own per row."""
    request = hook.request
    assert request is not None
    high = (activation[..., 0] > 0.5) & request.step
    before = request.state.get(hook.name, torch.zeros(len(activation), dtype=torch.bool))
    tripped = (high.cumsum(1) > 0) | before[:, None]
    request.state[hook.name] = tripped[:, -1]
    return torch.where(tripped[..., None], 0.0, activation)


def refuse(logits: Tensor, request: Request) -> Tensor:
    """Prefers one token after the prompt."""
    changed = logits.clone()
    changed[..., 7] = torch.where(request.step, changed[..., 7] + 15.0, changed[..., 7])
    return changed


def short_prompts(raw: HookedModel, request: Request) -> Tensor:
    return request.prompt.sum(-1) < 7


INTERVENTIONS = {
    "everywhere": Intervention(SUPPRESS, edits={"resid_post.1": scale}),
    "middle": Intervention(SUPPRESS, edits={"resid_mid.1": scale}),
    "prompt": Intervention(SUPPRESS, edits={"mlp_post.0": only_prompt}),
    "state": Intervention(SUPPRESS, edits={"mlp_post.1": trip}),
    "embedding": Intervention(SUPPRESS, embedding=scale),
    "logits": Intervention(SUPPRESS, logits=refuse),
    "gate": Intervention(SUPPRESS, edits={"resid_post.1": trip}, embedding=scale, logits=refuse, gate=short_prompts),
}


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom"])
def test_edits_act_the_same_with_and_without_a_cache_and_in_a_batch(family: str, name: str, prompts: list[str]) -> None:
    """Cached = uncached and batched = single under deterministic edits, also with state, gates and embeddings."""
    model, settings = shared_model(family), {"max_new_tokens": 8, "stop_at_eos": False}
    with INTERVENTIONS[name].applied(model) as view:
        cached = view.generate_tokens(prompts, **settings)
        assert view.generate_tokens(prompts, use_cache=False, **settings) == cached
        assert [view.generate_tokens(prompt, **settings)[0] for prompt in prompts] == cached
        assert view.generate_tokens(prompts, **settings) == cached
    plain = model.generate_tokens(prompts, **settings)
    assert cached != plain
    if name == "gate":
        assert cached[1] == plain[1]


def test_every_decoded_token_is_the_best_of_a_full_forward_with_the_same_edit(prompts: list[str]) -> None:
    """Teacher forcing: the logits of the whole text, prompt and answer marked, choose the same tokens."""
    for name, intervention in INTERVENTIONS.items():
        with intervention.applied(shared_model()) as view:
            new = view.generate_tokens(prompts, max_new_tokens=6, stop_at_eos=False)
            for prompt, row in zip(prompts, new, strict=True):
                start = view.tokenize(prompt)
                ids = torch.cat([start.ids, torch.tensor([row])], 1)
                answer = torch.arange(ids.shape[1])[None] >= start.ids.shape[1]
                best = view.logits(TokenBatch(ids, torch.ones_like(answer), answer)).argmax(-1)
                assert best[0, start.ids.shape[1] - 1 : -1].tolist() == row, name


def test_hooks_in_place_are_in_force_while_decoding(model: HookedModel, prompts: list[str]) -> None:
    with model.hooks([("resid_post.1", scale)]):
        hooked = model.generate_tokens(prompts, max_new_tokens=5, stop_at_eos=False)
    with INTERVENTIONS["everywhere"].applied(model) as view:
        assert view.generate_tokens(prompts, max_new_tokens=5, stop_at_eos=False) == hooked
    assert model.generate_tokens(prompts, max_new_tokens=5, stop_at_eos=False) != hooked


def test_state_starts_anew_for_every_call(model: HookedModel, prompts: list[str]) -> None:
    """I3: nothing carries over from one request to the next."""
    seen: list[int] = []

    def count(activation: Tensor, hook: HookContext) -> None:
        assert hook.request is not None
        hook.request.state["calls"] = hook.request.state.get("calls", 0) + 1
        seen.append(hook.request.state["calls"])

    with Intervention(SUPPRESS, edits={"resid_post.0": count}).applied(model) as view:
        view.generate_tokens(prompts, max_new_tokens=3, stop_at_eos=False)
        view.logits(prompts)
        view.generate_tokens(prompts, max_new_tokens=2, stop_at_eos=False, batch_size=2)
    assert seen == [1, 2, 3, 1, 1, 2, 1, 2]


def test_a_request_tells_prefill_from_steps(model: HookedModel, prompts: list[str]) -> None:
    seen: list[Request] = []

    def look(activation: Tensor, hook: HookContext) -> None:
        assert hook.request is not None
        seen.append(hook.request)

    batch = model.tokenize(prompts)
    with model.hooks([("resid_post.0", look)]):
        model.generate_tokens(prompts, max_new_tokens=3, stop_at_eos=False)
    width = batch.ids.shape[1]
    assert [r.offset for r in seen] == [0, width, width + 1]
    assert torch.equal(seen[0].prompt, batch.mask)
    assert torch.equal(seen[0].step, torch.arange(width).expand_as(batch.mask) == width - 1)
    for request in seen[1:]:
        assert request.ids.shape == (4, 1)
        assert request.step.all()
        assert request.mask.all()
        assert not request.prompt.any()


def test_only_new_text_is_returned(model: HookedModel, prompts: list[str]) -> None:
    tokens = model.generate_tokens(prompts, max_new_tokens=4, stop_at_eos=False)
    texts = model.generate(prompts, max_new_tokens=4, stop_at_eos=False)
    assert texts == [model.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    assert model.generate(prompts[0], max_new_tokens=4) == model.generate([prompts[0]], max_new_tokens=4)


@pytest.mark.parametrize("n", [0, 1])
def test_no_token_or_one(model: HookedModel, prompts: list[str], n: int) -> None:
    rows = model.generate_tokens(prompts, max_new_tokens=n, stop_at_eos=False)
    assert [len(row) for row in rows] == [n] * 4
    if n:
        assert [row[0] for row in rows] == model.logits(prompts)[:, -1].argmax(-1).tolist()
    else:
        assert model.generate(prompts, max_new_tokens=0) == [""] * 4
    assert model.generate_tokens([], max_new_tokens=n) == []


def end_at(step: int) -> Any:
    """Make rows of odd length end themselves at a step."""

    def edit(logits: Tensor, request: Request) -> Tensor:
        done = request.state.get("steps", 0)
        request.state["steps"] = done + 1
        odd = request.state.setdefault("odd", request.prompt.sum(-1) % 2 == 1)
        changed = logits.clone()
        changed[odd, -1, EOS] = 100.0 if done >= step else -100.0
        changed[~odd, -1, EOS] = -100.0
        return changed

    return edit


def test_a_row_ends_at_eos_and_the_others_go_on(model: HookedModel, prompts: list[str]) -> None:
    with Intervention(SUPPRESS, logits=end_at(2)).applied(model) as view:
        rows = view.generate_tokens(prompts, max_new_tokens=6)
        free = view.generate_tokens(prompts, max_new_tokens=6, stop_at_eos=False)
    odd = [len(prompt.split()) % 2 == 0 for prompt in prompts]  # BOS makes an even number of words odd
    assert [len(row) for row in rows] == [2 if flag else 6 for flag in odd]
    assert all(EOS not in row for row in rows)
    assert [EOS in row for row in free] == odd
    assert any(odd)
    assert not all(odd)


def test_decoding_stops_when_every_row_has_ended(model: HookedModel) -> None:
    passes: list[int] = []

    def count(activation: Tensor, hook: HookContext) -> None:
        passes.append(activation.shape[1])

    with Intervention(SUPPRESS, logits=end_at(1)).applied(model) as view, view.hooks([("hook_embed", count)]):
        assert [len(row) for row in view.generate_tokens(["t4 t5", "t6 t7"], max_new_tokens=50)] == [1, 1]
    assert passes == [3, 1]


def test_the_last_token_is_not_run(model: HookedModel, prompts: list[str]) -> None:
    passes: list[int] = []
    with model.hooks([("hook_embed", lambda a, hook: passes.append(a.shape[1]))]):
        model.generate_tokens(prompts[0], max_new_tokens=3, stop_at_eos=False)
    assert passes == [4, 1, 1]


def test_samples_follow_the_seed_and_nothing_else(model: HookedModel, prompts: list[str]) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "stop_at_eos": False}
    before = torch.random.get_rng_state()
    first = model.generate_tokens(prompts, seed=5, **settings)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    assert model.generate_tokens(prompts, seed=5, **settings) == first
    assert model.generate_tokens(prompts, seed=5, batch_size=1, **settings) == first
    assert model.generate_tokens(prompts, seed=5, use_cache=False, **settings) == first
    assert model.generate_tokens(prompts, seed=6, **settings) != first
    assert len({tuple(row) for row in model.generate_tokens([prompts[0]] * 4, seed=5, **settings)}) == 4
    cold = model.generate_tokens(prompts, temperature=1e-4, **settings)
    assert cold == model.generate_tokens(prompts, max_new_tokens=8, stop_at_eos=False)


def test_samples_have_the_models_probabilities(model: HookedModel) -> None:
    rows = model.generate_tokens(["t4 t5"] * 2000, max_new_tokens=1, do_sample=True, stop_at_eos=False, batch_size=500)
    wanted = model.logits("t4 t5")[0, -1].softmax(-1)
    found = torch.bincount(torch.tensor(rows).flatten(), minlength=99) / 2000
    assert (found - wanted).abs().max() < 4 * (0.25 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is at least 0, got -1"),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is above 0, got 0.0; leave do_sample off"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature is above 0, got nan"),
    ],
)
def test_settings_without_meaning_are_refused(model: HookedModel, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        model.generate("t4", **settings)


def test_sampling_from_broken_logits_is_refused(ids: Tensor) -> None:
    model = tiny_model()
    model.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(VestigeError, match="NaN or infinity"):
        model.generate("t4", do_sample=True)


def test_prompts_that_end_in_padding_are_refused(model: HookedModel) -> None:
    """P4: also where another row hides it by beginning with padding."""
    right = model.tokenize(["t4 t5", "t6"], padding_side="right")
    both = TokenBatch(
        torch.tensor([[0, 4, 5], [6, 7, 0]]),
        torch.tensor([[False, True, True], [True, True, False]]),
        torch.zeros(2, 3, dtype=torch.bool),
    )
    for batch in (right, both):
        with pytest.raises(VestigeError, match="prompts are padded on the left"):
            model.generate(batch)


def test_a_prepared_batch_decodes_as_its_text(model: HookedModel, prompts: list[str]) -> None:
    batch = model.tokenize(prompts)
    assert model.generate(batch, batch_size=2) == model.generate(prompts)
    assert model.generate_tokens(batch, max_new_tokens=4) == model.generate_tokens(prompts, max_new_tokens=4)


def test_decoding_leaves_no_gradient_and_restores_the_mode(model: HookedModel) -> None:
    with torch.enable_grad():
        model.generate("t4 t5", max_new_tokens=2)
        assert torch.is_grad_enabled()
