"""Hooks: in the order given, each once, gone afterwards, and nobody else's touched."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, VestigeError
from hooked.hooks import HookContext, Request
from tests.tiny import shared_model, tiny_model, words


def add(amount: float) -> Any:
    def edit(activation: Tensor, hook: HookContext) -> Tensor:
        return activation + amount

    return edit


def double(activation: Tensor, hook: HookContext) -> Tensor:
    return activation * 2


def boom(activation: Tensor, hook: HookContext) -> Tensor:
    raise RuntimeError("boom")


def hook_counts(model: HookedModel) -> list[tuple[int, int]]:
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.model.modules()]


def test_hooks_of_one_site_apply_in_order_each_once_whatever_they_call_it(untouched: HookedModel, ids: Tensor) -> None:
    """C9."""
    plain = untouched.run_with_cache(ids, names_filter="resid_post.0")[1]["resid_post", 0]
    cases = [
        (
            [("resid_post.0", add(1.0)), ("blocks.0.hook_out", double), ("blocks.0.hook_resid_post", add(3.0))],
            (plain + 1) * 2 + 3,
        ),
        ([("blocks.0.hook_out", double), ("resid_post.0", add(1.0))], plain * 2 + 1),
    ]
    for fwd_hooks, wanted in cases:
        _, cache = untouched.run_with_cache(ids, names_filter="resid_post.0", fwd_hooks=fwd_hooks)
        assert torch.equal(cache["resid_post", 0], wanted)


def test_a_predicate_hooks_every_site_it_picks(untouched: HookedModel, ids: Tensor) -> None:
    seen: list[str] = []

    def note(activation: Tensor, hook: HookContext) -> None:
        seen.append(hook.name)

    untouched.run_with_hooks(ids, fwd_hooks=[(lambda name: name.endswith("hook_resid_post"), note)])
    assert seen == [f"blocks.{i}.hook_resid_post" for i in range(3)]


def test_the_hook_argument_names_its_site_and_layer_and_carries_a_context(untouched: HookedModel, ids: Tensor) -> None:
    """As TransformerLens' HookPoint: the same argument for all functions of a site in one call."""
    found: list[tuple[str, int]] = []

    def first(activation: Tensor, hook: HookContext) -> None:
        hook.ctx["seen"] = activation.shape
        found.append((hook.name, hook.layer()))

    def second(activation: Tensor, hook: HookContext) -> None:
        assert hook.ctx["seen"] == activation.shape

    untouched.run_with_hooks(ids, fwd_hooks=[("mlp_post.2", first), ("mlp_post.2", second)])
    assert found == [("blocks.2.mlp.hook_post", 2)]
    with pytest.raises(VestigeError, match="'hook_embed' is outside the blocks and has no layer"):
        HookContext("hook_embed").layer()


@pytest.mark.parametrize("site", ["resid_pre.1", "resid_mid.1", "q.1", "logits"])
def test_a_hook_that_raises_leaves_nothing_behind(untouched: HookedModel, ids: Tensor, site: str) -> None:
    """C14."""
    normal, counts = untouched.logits(ids), hook_counts(untouched)
    for call in (
        lambda: untouched.run_with_hooks(ids, fwd_hooks=[("resid_post.0", add(1.0)), (site, boom)]),
        lambda: untouched.run_with_cache(ids, fwd_hooks=[(site, boom)]),
        lambda: untouched.generate_tokens([words(ids[0])], max_new_tokens=2),
    ):
        with pytest.raises(RuntimeError, match="boom"), untouched.hooks([(site, boom)]):
            call()
        assert hook_counts(untouched) == counts
        assert torch.equal(untouched.logits(ids), normal)


def test_a_stream_edit_that_was_cut_off_does_not_reach_the_next_pass(untouched: HookedModel, ids: Tensor) -> None:
    """C14: the edit in the middle of a block acts at its end too, and the pass may break off in between."""
    on = [True]

    def sometimes(activation: Tensor, hook: HookContext) -> Tensor | None:
        return activation + 1.0 if on[0] else None

    with untouched.hooks([("resid_mid.1", sometimes)]):
        with pytest.raises(RuntimeError, match="boom"):
            untouched.run_with_hooks(ids, fwd_hooks=[("mlp_post.1", boom)])
        edited = untouched.logits(ids)
        untouched.run_with_cache(ids, names_filter="resid_mid.1", return_type=None)
        assert torch.equal(untouched.logits(ids), edited)
        untouched.run_with_cache(ids, names_filter="resid_mid.1", return_type=None)
        on[0] = False
        outside = untouched.logits(ids)
    assert torch.equal(outside, untouched.logits(ids))
    assert not torch.equal(outside, edited)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda a, hook: a[:, :-1],
            r"'blocks.1.hook_resid_post' returned shape \(2, 6, 32\), the site has \(2, 7, 32\)",
        ),
        (lambda a, hook: a[..., None], r"returned shape \(2, 7, 32, 1\)"),
        (lambda a, hook: a.double(), r"returned dtype torch.float64, the site has torch.float32"),
        (lambda a, hook: a.to("meta"), r"returned device meta, the site has cpu"),
        (lambda a, hook: 1.0, r"returned float; it must return a tensor or None"),
        (lambda a, hook: (a,), r"returned tuple; it must return a tensor or None"),
    ],
)
def test_a_replacement_that_does_not_fit_is_refused_where_it_happens(
    untouched: HookedModel, ids: Tensor, edit: Any, message: str
) -> None:
    """C15."""
    with pytest.raises(VestigeError, match=message):
        untouched.run_with_hooks(ids, fwd_hooks=[("resid_post.1", edit)])


def test_a_replacement_of_split_heads_or_columns_is_checked_in_its_own_shape(ids: Tensor) -> None:
    """C15."""
    with pytest.raises(VestigeError, match=r"returned shape \(2, 7, 32\), the site has \(2, 7, 4, 8\)"):
        shared_model().run_with_hooks(ids, fwd_hooks=[("q.0", lambda a, hook: a.flatten(2))])
    with pytest.raises(VestigeError, match=r"returned shape \(2, 7, 47\), the site has \(2, 7, 48\)"):
        shared_model("phi3").run_with_hooks(ids, fwd_hooks=[("mlp_pre.0", lambda a, hook: a[..., 1:])])


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_postt", ("resid_post", 9), lambda name: False])
def test_an_unknown_site_is_refused_before_anything_runs(untouched: HookedModel, ids: Tensor, site: Any) -> None:
    """C12."""
    calls: list[str] = []
    fwd_hooks = [("resid_post.0", lambda a, hook: calls.append(hook.name)), (site, double)]
    with pytest.raises(VestigeError):
        untouched.run_with_hooks(ids, fwd_hooks=fwd_hooks)
    with pytest.raises(VestigeError), untouched.hooks(fwd_hooks):
        pass
    assert calls == []


def test_an_error_of_an_edits_own_comes_out_as_it_is(untouched: HookedModel, ids: Tensor) -> None:
    """Also an IndexError, which a model raises for ids outside its tables."""
    with pytest.raises(IndexError, match="out of bounds"):
        untouched.run_with_hooks(ids, fwd_hooks=[("resid_post.0", lambda a, hook: a[:, :, 99])])


def test_a_site_that_never_fires_is_an_error(ids: Tensor) -> None:
    """C10: a module that the forward does not call any more."""
    model = tiny_model()
    layer = model.model.model.layers[1]
    layer.mlp.forward = torch.zeros_like
    for call in (
        lambda: model.run_with_hooks(ids, fwd_hooks=[("mlp_post.1", double)]),
        lambda: model.run_with_hooks(ids, fwd_hooks=[("mlp_post.1", double)], stop_at_layer=2),
        lambda: model.run_with_cache(ids, names_filter="mlp_post.1"),
    ):
        with pytest.raises(VestigeError, match=r"'blocks.1.mlp.hook_post' never fired during the forward pass"):
            call()


def test_foreign_hooks_survive_and_keep_firing(ids: Tensor) -> None:
    """C18 without an SAE: ours are removed by handle, theirs are called before, during and after."""
    model = tiny_model()
    calls: list[str] = []
    block = model.model.model.layers[1]
    handles = [
        block.register_forward_hook(lambda *_: calls.append("after")),
        block.register_forward_pre_hook(lambda *_: calls.append("before")),
    ]
    model.logits(ids)
    with model.hooks([("resid_post.1", double), ("resid_pre.1", double)]):
        late = block.register_forward_hook(lambda *_: calls.append("late"))
        model.run_with_cache(ids)
    model.run_with_hooks(ids, fwd_hooks=[("resid_mid.1", double)])
    assert calls == ["before", "after", *["before", "after", "late"] * 2]
    for handle in (*handles, late):
        handle.remove()
    assert not any(sum(count) for count in hook_counts(model))


def test_a_foreign_hook_sees_the_edited_stream_and_its_own_tensor_is_not_written(ids: Tensor) -> None:
    """I2: what somebody cached before our edit is unchanged by it."""
    model = tiny_model()
    held: list[Tensor] = []
    block = model.model.model.layers[1]
    block.post_attention_layernorm.register_forward_pre_hook(lambda m, args: held.append(args[0]))
    block.register_forward_hook(lambda m, args, out: held.append(out))
    model.logits(ids)
    model.run_with_hooks(ids, fwd_hooks=[("resid_mid.1", add(3.0)), ("resid_post.1", add(5.0))])
    plain_middle, plain_end, middle, end = held
    assert torch.equal(middle, plain_middle)
    assert not torch.equal(end, plain_end)


def test_nested_hooks_apply_together_and_leave_in_any_order(untouched: HookedModel, ids: Tensor) -> None:
    plain = untouched.run_with_cache(ids, names_filter="resid_post.0")[1]["resid_post", 0]

    def now() -> Tensor:
        return untouched.run_with_cache(ids, names_filter="resid_post.0")[1]["resid_post", 0]

    outer, inner = untouched.hooks([("resid_post.0", add(1.0))]), untouched.hooks([("resid_post.0", double)])
    outer.__enter__()
    inner.__enter__()
    assert torch.equal(now(), (plain + 1) * 2)
    outer.__exit__(None, None, None)
    assert torch.equal(now(), plain * 2)
    inner.__exit__(None, None, None)
    assert torch.equal(now(), plain)


def test_hooks_in_place_see_the_request_of_each_pass(untouched: HookedModel, ids: Tensor) -> None:
    """P8: a hook knows which tokens are real and which are the prompt, also in a nested pass and none afterwards."""
    seen: list[Request | None] = []
    kept: list[HookContext] = []

    def look(activation: Tensor, hook: HookContext) -> None:
        seen.append(hook.request)
        kept.append(hook)

    def nested(activation: Tensor, hook: HookContext) -> None:
        if hook.request is not None and len(hook.request.ids) == 2:
            untouched.logits(ids[:1])
            assert hook.request is not None
            assert len(hook.request.ids) == 2

    batch = untouched.tokenize(["t4 t5", "t6"], answers=["t7", "t8 t9"])
    with untouched.hooks([("resid_post.1", look)]):
        untouched.logits(batch)
        untouched.logits(ids[:1])
    assert seen[0] is not None
    assert torch.equal(seen[0].mask, batch.mask)
    assert torch.equal(seen[0].prompt, batch.prompt)
    assert seen[1] is not None
    assert seen[1].ids.shape == (1, 7)
    assert all(hook.request is None for hook in kept)
    with untouched.hooks([("resid_post.0", nested)]):
        untouched.logits(batch)


def test_a_pass_keeps_nothing_alive(untouched: HookedModel, ids: Tensor) -> None:
    """C16: hooks in place do not hold on to the tensors of an earlier request."""
    with untouched.hooks([("resid_post.0", double)]):
        batch = untouched.as_batch(ids.clone())
        gone = weakref.ref(batch.mask)
        untouched.logits(batch)
        del batch
        gc.collect()
        assert gone() is None


def test_hooks_work_on_the_native_module_too(untouched: HookedModel, ids: Tensor) -> None:
    """A caller may run the Hugging Face model directly inside the block."""
    edited = untouched.run_with_hooks(ids, fwd_hooks=[("z.1", double), ("resid_mid.1", add(1.0))])
    with untouched.hooks([("z.1", double), ("resid_mid.1", add(1.0))]):
        assert torch.equal(untouched.model(ids).logits, edited)


def test_steps_are_the_positions_whose_logits_answer_the_prompt(untouched: HookedModel) -> None:
    """P4: from the last prompt token on, in every row, whatever the padding."""
    for side in ("left", "right"):
        batch = untouched.tokenize(["t4 t5 t6", "t7"], answers=["t8", "t9 t10 t11 t12"], padding_side=side)
        seen: list[Request | None] = []
        untouched.run_with_hooks(
            batch, fwd_hooks=[("hook_embed", lambda a, hook, seen=seen: seen.append(hook.request))]
        )
        request = seen[0]
        assert request is not None
        assert request.step[batch.mask].tolist() == [False] * 3 + [True] * 2 + [False] + [True] * 5
        assert request.offset == 0
        assert not request.step[~batch.mask].any()
