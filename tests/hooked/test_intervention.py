"""Interventions and views: five points, each alone and together, and the model as it was afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import (
    ColumnDelta,
    DenseDelta,
    HookedModel,
    Intervention,
    LowRankDelta,
    RowDelta,
    Spec,
    VestigeError,
    View,
    WeightPatch,
)
from hooked.hooks import HookContext, Request
from tests.numerics import FLOAT32, error
from tests.tiny import shared_model, tiny_model

REMOVAL, SUPPRESSION = Spec("removed", "removal"), Spec("suppressed", "suppression")
TEXTS = ["t4 t5 t6", "t7", "t8 t9", "t10 t11 t12 t13"]


def scale(activation: Tensor, hook: HookContext) -> Tensor:
    return activation * 0.5


def scale_in_place(activation: Tensor, hook: HookContext) -> None:
    activation *= 0.5


def flip(logits: Tensor, request: Request) -> Tensor:
    return -logits


def even_rows(raw: HookedModel, request: Request) -> Tensor:
    return torch.arange(len(request.ids)) % 2 == 0


def weights_of(model: HookedModel) -> WeightPatch:
    return model.value_patch({(1, 3): torch.ones(32), (1, 4): torch.zeros(32)})


@pytest.mark.parametrize("point", ["weights", "edits", "embedding", "logits"])
def test_each_point_acts_inside_the_block_and_not_outside(untouched: HookedModel, point: str) -> None:
    values: dict[str, Any] = {
        "weights": weights_of(untouched),
        "edits": {"resid_post.1": scale},
        "embedding": scale,
        "logits": flip,
    }
    intervention = Intervention(SUPPRESSION, **{point: values[point]})
    assert intervention.points == (point,)
    batch = untouched.tokenize(TEXTS)
    normal = untouched.logits(batch)
    for _ in range(2):
        with intervention.applied(untouched) as view:
            edited = view.logits(batch)
            assert isinstance(view, View)
            assert view.intervention is intervention
            assert error(edited, normal) > 1e-3
            raw = view.raw.logits(batch)
            assert torch.equal(raw, edited if point == "weights" else normal)
        assert torch.equal(untouched.logits(batch), normal)


def test_a_view_reads_through_every_method(untouched: HookedModel) -> None:
    """The same reading interface as a model, with the edits in force."""
    batch = untouched.tokenize(TEXTS, answers=["t14"] * 4)
    hooked = [("resid_post.0", scale), ("mlp_post.2", scale)]
    wanted, wanted_cache = untouched.run_with_cache(batch, fwd_hooks=hooked)
    with Intervention(SUPPRESSION, edits={"resid_post.0": scale, "mlp_post.2": scale}).applied(untouched) as view:
        logits, cache = view.run_with_cache(batch)
        assert torch.equal(logits, wanted)
        assert torch.equal(view.logits(batch), wanted)
        assert torch.equal(view(batch), wanted)
        assert all(torch.equal(cache[site], wanted_cache[site]) for site in cache)
        residual, early = view.run_with_cache(batch, stop_at_layer=1)
        assert torch.equal(residual, wanted_cache["resid_post", 0])
        assert torch.equal(early["resid_post", 0], wanted_cache["resid_post", 0])
        only = view.run_with_cache(batch, names_filter="resid_post.0", return_type=None)[1]
        assert torch.equal(only["resid_post", 0], wanted_cache["resid_post", 0])
        extra = view.run_with_hooks(batch, fwd_hooks=[("resid_post.0", scale)])
        assert torch.equal(extra, untouched.run_with_hooks(batch, fwd_hooks=[*hooked, ("resid_post.0", scale)]))
        with torch.enable_grad():
            value, acts, _ = view.gradients(batch, lambda x: x[:, -1, 4].sum(), names_filter="resid_post.0")
        assert error(acts["resid_post", 0], wanted_cache["resid_post", 0]) < FLOAT32
        assert error(value, wanted[:, -1, 4].sum()) < FLOAT32
        assert view.sites == untouched.sites
        assert view.W_U is not None
        assert "View" in repr(view)


def test_edits_that_an_early_stop_does_not_reach_are_no_error(untouched: HookedModel, ids: Tensor) -> None:
    """R7: reading an early layer of a view whose edits are late, and an edited embedding before block 0."""
    late = Intervention(SUPPRESSION, edits={"resid_post.2": scale, "final": scale, "logits": scale})
    plain = untouched.run_with_cache(ids)[1]
    with late.applied(untouched) as view:
        assert torch.equal(view.run_with_cache(ids, stop_at_layer=1)[0], plain["resid_post", 0])
        _, cache = view.run_with_cache(ids, names_filter="resid_post.0", return_type=None)
        assert torch.equal(cache["resid_post", 0], plain["resid_post", 0])
    with Intervention(SUPPRESSION, embedding=scale, edits={"embed": scale}).applied(untouched) as view:
        assert torch.equal(view.run_with_cache(ids, stop_at_layer=0)[0], plain["embed"] * 0.5 * 0.5)
    with Intervention(SUPPRESSION, edits={"embed": scale}).applied(untouched) as view:
        assert torch.equal(view.run_with_cache(ids, stop_at_layer=0)[0], plain["embed"] * 0.5)


@pytest.mark.parametrize("edit", [scale, scale_in_place])
@pytest.mark.parametrize("site", ["resid_post.1", "resid_mid.1", "q.0", "mlp_post.2", "logits"])
def test_a_gate_leaves_the_other_rows_bit_identical(untouched: HookedModel, site: str, edit: Any) -> None:
    """I3: and gives the gated rows what an ungated edit gives them."""
    batch = untouched.tokenize(TEXTS)
    normal = untouched.logits(batch)
    everything: dict[str, Any] = {"edits": {site: edit}, "embedding": edit, "logits": flip}
    with Intervention(SUPPRESSION, **everything).applied(untouched) as view:
        ungated = view.logits(batch)
    with Intervention(SUPPRESSION, **everything, gate=even_rows).applied(untouched) as view:
        gated = view.logits(batch)
    assert torch.equal(gated[1::2], normal[1::2])
    assert error(gated[::2], ungated[::2]) < FLOAT32
    assert error(gated[::2], normal[::2]) > 1e-3


@pytest.mark.parametrize("answer", [True, False])
def test_a_gate_that_says_all_or_none_is_the_edit_or_nothing(untouched: HookedModel, answer: bool) -> None:
    """I1: an empty gate is a bitwise no-op."""
    batch = untouched.tokenize(TEXTS)

    def gate(raw: HookedModel, request: Request) -> Tensor:
        return torch.full((len(request.ids),), answer)

    gated = Intervention(SUPPRESSION, edits={"resid_post.1": scale}, gate=gate)
    plain = Intervention(SUPPRESSION, edits={"resid_post.1": scale})
    with plain.applied(untouched) as view:
        wanted = view.logits(batch) if answer else untouched.logits(batch)
    with gated.applied(untouched) as view:
        assert torch.equal(view.logits(batch), wanted)


def test_a_gate_may_read_the_raw_model_and_is_asked_once_per_request(untouched: HookedModel) -> None:
    asked: list[tuple[bool, int]] = []

    def gate(raw: HookedModel, request: Request) -> Tensor:
        asked.append((isinstance(raw, View), request.offset))
        first = raw.run_with_cache(request.ids, names_filter="resid_post.0", return_type=None)[1]
        assert torch.equal(first["resid_post", 0], plain["resid_post", 0])
        return torch.ones(len(request.ids), dtype=torch.bool)

    ids = untouched.tokenize(["t4 t5", "t6 t7"]).ids
    plain = untouched.run_with_cache(ids, names_filter="resid_post.0")[1]
    intervention = Intervention(SUPPRESSION, edits={"resid_post.0": scale, "mlp_post.1": scale}, logits=flip, gate=gate)
    with intervention.applied(untouched) as view:
        view.logits(ids)
        view.generate_tokens(["t4 t5", "t6 t7"], max_new_tokens=3, stop_at_eos=False)
        view.generate_tokens(["t4 t5", "t6 t7"], max_new_tokens=3, stop_at_eos=False, use_cache=False)
    assert asked == [(False, 0)] * 3


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (lambda raw, request: torch.ones(3, dtype=torch.bool), r"returned torch.bool of shape \(3,\), needed bool of"),
        (lambda raw, request: torch.ones(4), r"returned torch.float32 of shape \(4,\), needed bool of shape \(4,\)"),
        (lambda raw, request: True, r"the gate of 'suppressed' returned bool"),
    ],
)
def test_a_gate_that_does_not_answer_per_row_is_refused(untouched: HookedModel, gate: Any, message: str) -> None:
    with (
        Intervention(SUPPRESSION, edits={"resid_post.1": scale}, gate=gate).applied(untouched) as view,
        pytest.raises(VestigeError, match=message),
    ):
        view.logits(TEXTS)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda logits, request: logits[:, -1], r"the logit edit of 'suppressed' returned shape \(4, 99\)"),
        (lambda logits, request: None, r"returned NoneType, needed shape \(4, 5, 99\)"),
    ],
)
def test_a_logit_edit_of_another_shape_is_refused(untouched: HookedModel, edit: Any, message: str) -> None:
    with (
        Intervention(SUPPRESSION, logits=edit).applied(untouched) as view,
        pytest.raises(VestigeError, match=message),
    ):
        view.logits(TEXTS)


@pytest.mark.parametrize("wrong", [lambda a, hook: a[..., :1], lambda a, hook: a.double(), lambda a, hook: 0.0])
def test_a_gated_edit_that_does_not_fit_is_refused_and_not_broadcast(untouched: HookedModel, wrong: Any) -> None:
    """C15."""
    with (
        Intervention(SUPPRESSION, edits={"resid_post.1": wrong}, gate=even_rows).applied(untouched) as view,
        pytest.raises(VestigeError, match=r"the edit at 'blocks.1.hook_resid_post' returned"),
    ):
        view.logits(TEXTS)


def test_an_embedding_edit_acts_on_prompt_tokens_alone(untouched: HookedModel) -> None:
    """Point 3: not on padding, not on answers, not on decoded tokens."""
    batch = untouched.tokenize(TEXTS, answers=["t14 t15", "t16", "t17", "t18"])
    plain = untouched.run_with_cache(batch, names_filter="embed")[1]["embed"]
    seen: list[tuple[int, Tensor]] = []

    def look(activation: Tensor, hook: HookContext) -> None:
        assert hook.request is not None
        seen.append((hook.request.offset, activation.clone()))

    with Intervention(SUPPRESSION, embedding=scale).applied(untouched) as view:
        edited = view.run_with_cache(batch, names_filter="embed")[1]["embed"]
        assert torch.equal(edited[batch.prompt], plain[batch.prompt] * 0.5)
        assert torch.equal(edited[~batch.prompt], plain[~batch.prompt])
        with view.hooks([("resid_pre.0", look)]):
            new = view.generate_tokens(["t4 t5"], max_new_tokens=3, stop_at_eos=False)[0]
        with view.hooks([("resid_pre.0", look)]):
            view.generate_tokens(["t4 t5"], max_new_tokens=3, stop_at_eos=False, use_cache=False)
    embeddings = untouched.W_E[torch.tensor([1, 4, 5, *new])]
    assert torch.equal(seen[0][1][0], embeddings[:3] * 0.5)
    assert torch.equal(seen[1][1][0], embeddings[3:4])
    assert torch.equal(seen[2][1][0], embeddings[4:5])
    assert torch.equal(seen[5][1][0], torch.cat([embeddings[:3] * 0.5, embeddings[3:5]]))


def test_a_logit_edit_sees_the_request(untouched: HookedModel) -> None:
    """Point 4: it can act where the answer is decided."""
    batch = untouched.tokenize(TEXTS, answers=["t14"] * 4)

    def at_steps(logits: Tensor, request: Request) -> Tensor:
        return torch.where(request.step[..., None], 0.0, logits)

    normal = untouched.logits(batch)
    with Intervention(SUPPRESSION, logits=at_steps).applied(untouched) as view:
        edited, cache = view.run_with_cache(batch, names_filter="logits")
    assert not edited[:, -2:].any()
    assert torch.equal(edited[:, :-2], normal[:, :-2])
    assert torch.equal(cache["logits"], normal)


def test_nested_views_keep_the_outer_intervention_in_force(untouched: HookedModel, ids: Tensor) -> None:
    outer = Intervention(SUPPRESSION, edits={"resid_post.0": scale}, weights=weights_of(untouched))
    inner = Intervention(REMOVAL, edits={"resid_post.0": lambda a, hook: a + 1}, logits=flip)
    with outer.applied(untouched) as first:
        raw = untouched.logits(ids)
        with inner.applied(first) as second:
            wanted = untouched.run_with_hooks(
                ids, fwd_hooks=[("resid_post.0", scale), ("resid_post.0", lambda a, hook: a + 1)]
            )
            assert torch.equal(second.logits(ids), -wanted)
            assert second.interventions == (outer, inner)
            assert second.intervention is inner
            assert torch.equal(second.raw.logits(ids), raw)
            assert not isinstance(second.raw, View)
            assert torch.equal(first.logits(ids), untouched.run_with_hooks(ids, fwd_hooks=[("resid_post.0", scale)]))
        assert torch.equal(first.logits(ids), untouched.run_with_hooks(ids, fwd_hooks=[("resid_post.0", scale)]))


def test_a_view_that_has_ended_refuses_to_be_read(untouched: HookedModel, ids: Tensor) -> None:
    """I6: its weights are restored, so reading on would show half of an intervention as if it were all of it."""
    both = Intervention(SUPPRESSION, edits={"resid_post.0": scale}, weights=weights_of(untouched))
    with both.applied(untouched) as view, both.applied(view) as inner:
        view.logits(ids)
    for ended in (view, inner):
        for call in (
            lambda ended=ended: ended.logits(ids),
            lambda ended=ended: ended.run_with_cache(ids),
            lambda ended=ended: ended.generate("t4"),
        ):
            with pytest.raises(VestigeError, match="the view of 'suppressed' has ended; read it inside `with"):
                call()
    assert torch.equal(view.raw.logits(ids), untouched.logits(ids))


def test_interventions_may_be_left_in_any_order(untouched: HookedModel, ids: Tensor) -> None:
    """B7, I6: `untouched` checks every bit at the end."""
    name = untouched.weight_name("mlp.out", 1)
    patches = [
        weights_of(untouched),
        WeightPatch({name: RowDelta(torch.tensor([3, 9]), torch.ones(2, 48))}),
        WeightPatch({name: LowRankDelta(torch.ones(32, 1), torch.ones(1, 48))}),
        WeightPatch({name: ColumnDelta(torch.tensor([4]), torch.ones(1, 32))}),
        WeightPatch(
            {name: DenseDelta(torch.ones(32, 48)), untouched.weight_name("attn.o", 0): DenseDelta(torch.ones(32, 32))}
        ),
    ]
    normal = untouched.logits(ids)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [2, 4, 1, 0, 3]):
        contexts = [Intervention(REMOVAL, weights=patch).applied(untouched) for patch in patches]
        for context in contexts:
            context.__enter__()
        for i in order:
            assert not torch.equal(untouched.logits(ids), normal)
            contexts[i].__exit__(None, None, None)
        assert torch.equal(untouched.logits(ids), normal)


def test_an_exception_restores_everything(untouched: HookedModel, ids: Tensor) -> None:
    """C14, B7."""
    normal = untouched.logits(ids)

    def boom(activation: Tensor, hook: HookContext) -> Tensor:
        raise RuntimeError("boom")

    intervention = Intervention(SUPPRESSION, weights=weights_of(untouched), edits={"resid_post.1": boom})
    with pytest.raises(RuntimeError, match="boom"), intervention.applied(untouched) as view:
        view.logits(ids)
    assert torch.equal(untouched.logits(ids), normal)


def test_building_an_intervention_changes_nothing(untouched: HookedModel, ids: Tensor) -> None:
    normal = untouched.logits(ids)
    Intervention(SUPPRESSION, weights=weights_of(untouched), edits={"resid_post.1": scale}, logits=flip).applied(
        untouched
    )
    assert torch.equal(untouched.logits(ids), normal)


def test_an_empty_intervention_is_a_bitwise_no_op(untouched: HookedModel, ids: Tensor) -> None:
    """I1."""
    with Intervention(SUPPRESSION).applied(untouched) as view:
        assert torch.equal(view.logits(ids), untouched.logits(ids))
        assert view.generate(TEXTS) == untouched.generate(TEXTS)


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Intervention(SUPPRESSION, edits={"resid_post.7": scale}), "layers are 0 to 2"),
        (Intervention(SUPPRESSION, edits={"pattern.0": scale}), "can be read but not edited"),
        (Intervention(SUPPRESSION, weights=WeightPatch({"x": DenseDelta(torch.ones(1))})), "has no parameter 'x'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_on_entry(
    untouched: HookedModel, intervention: Intervention, message: str
) -> None:
    with pytest.raises(VestigeError, match=message), intervention.applied(untouched):
        pass


def test_two_models_and_two_interventions_do_not_meet(ids: Tensor) -> None:
    """I3."""
    one, other = tiny_model(seed=1), tiny_model(seed=2)
    normal = other.logits(ids)
    with Intervention(SUPPRESSION, edits={"resid_post.0": scale}, weights=weights_of(one)).applied(one):
        assert torch.equal(other.logits(ids), normal)


def test_a_logit_edit_may_run_another_model(ids: Tensor) -> None:
    """Point 4: the difference of two models."""
    model, assistant = shared_model(), tiny_model(seed=3)

    def minus(logits: Tensor, request: Request) -> Tensor:
        return logits - assistant.logits(request.ids)

    with Intervention(SUPPRESSION, logits=minus).applied(model) as view:
        assert torch.equal(view.logits(ids), model.logits(ids) - assistant.logits(ids))


def test_specs_are_data() -> None:
    """I4: equal and equally hashed where their content is, in every process."""
    one = Spec("method", "removal", ("forget",), "arXiv", {"top": 0.03, "layers": (1, 2)})
    same = Spec("method", "removal", ("forget",), "arXiv", {"layers": [1, 2], "top": 0.03})
    other = Spec("method", "removal", ("forget",), "arXiv", {"top": 0.04, "layers": (1, 2)})
    assert one == same
    assert hash(one) == hash(same)
    assert one.fingerprint == same.fingerprint
    assert one != other
    assert one.fingerprint != other.fingerprint
    assert Spec("a", "attack").fingerprint.startswith("cdcf37c357996efe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intent": "erasure"}, "intent is 'removal', 'suppression' or 'attack', got 'erasure'"),
        (
            {"intent": "removal", "settings": {"w": torch.ones(1)}},
            "setting 'w' of a spec is a Tensor, needed a JSON value",
        ),
        ({"intent": "removal", "settings": {"f": scale}}, "setting 'f' of a spec is a function"),
    ],
)
def test_a_spec_that_is_no_data_is_refused(arguments: dict[str, Any], message: str) -> None:
    """I4."""
    with pytest.raises(VestigeError, match=message):
        Spec("x", **arguments)


def test_values_that_hold_tensors_are_compared_by_identity() -> None:
    one, other = (Intervention(REMOVAL, weights=WeightPatch({"x": DenseDelta(torch.ones(2))})) for _ in range(2))
    assert one == one  # noqa: PLR0124
    assert one != other
    assert len({one, other, one}) == 2
    assert RowDelta(torch.tensor([1]), torch.ones(1, 2)) != RowDelta(torch.tensor([1]), torch.ones(1, 2))
