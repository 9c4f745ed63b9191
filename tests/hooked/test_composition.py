"""Interventions that are made of others: order, claims, and what may not be mixed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, LogitEdit, Request, RowDelta, Spec, VestigeError, WeightPatch
from hooked.truncated import truncated
from tests.tiny import shared_model, tiny_model

SITE = "blocks.0.hook_resid_post"
PROMPT = "t5 t6 t7"


@dataclass(frozen=True)
class Scale:
    """Edit: multiply."""

    by: float

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor:
        return activation * self.by


@dataclass(frozen=True)
class Shift:
    """Edit: add."""

    by: float

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor:
        return activation + self.by


@dataclass(frozen=True)
class AddLogit:
    """Logit edit: add to one token."""

    by: float

    def __call__(self, logits: Tensor, request: Request, /) -> Tensor:
        out = logits.clone()
        out[..., 0] += self.by
        return out


@dataclass(frozen=True)
class AddTwin:
    """Binds to the model: adds the logits that its weights alone give."""

    weight: float

    def bind(self, raw: HookedModel, /) -> LogitEdit:
        def edit(logits: Tensor, request: Request, /) -> Tensor:
            return logits + self.weight * raw.logits(request.ids)

        return edit


@dataclass(frozen=True)
class AddCopy:
    """Binds to the model: adds the logits of a copy of it, of which some tensors are its own and the rest shared."""

    patch: WeightPatch
    bound: list[HookedModel] = field(default_factory=list)

    def bind(self, raw: HookedModel, /) -> LogitEdit:
        other = truncated(raw, patch=self.patch)
        self.bound.append(other)

        def edit(logits: Tensor, request: Request, /) -> Tensor:
            return logits + other.logits(request.ids)

        return edit


def weights(model: HookedModel, by: float) -> Intervention:
    name = next(name for name, p in model.state().items() if name.endswith("h.0.mlp.c_proj.bias"))
    patch = WeightPatch({name: RowDelta(torch.arange(3), torch.full((3,), by))})
    return Intervention(Spec("bias", "removal", ("forget",), "A"), weights=patch)


def edit(by: float, *, shift: bool = False) -> Intervention:
    made = Shift(by) if shift else Scale(by)
    return Intervention(Spec("shift" if shift else "scale", "suppression", ("retain",), "B"), edits={SITE: made})


@torch.no_grad()
def logits(model: HookedModel) -> Tensor:
    return model.logits(PROMPT)


def test_parts_are_applied_in_their_order() -> None:
    model = shared_model("gpt2")
    a, b = edit(2.0), edit(0.5, shift=True)
    with a.applied(model) as first, b.applied(first) as nested:
        wanted = logits(nested)
    with (a + b).applied(model) as view:
        assert torch.equal(logits(view), wanted)
    with (b + a).applied(model) as view:
        assert not torch.allclose(logits(view), wanted)


def test_weights_edits_and_logits_compose_and_are_taken_back() -> None:
    model = tiny_model("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    made = weights(model, 0.3) + edit(1.5) + Intervention(Spec("logit", "suppression"), logits=AddLogit(3.0))
    assert made.points == ("weights", "edits", "logits")
    with made.applied(model) as view:
        through, raw = logits(view), logits(view.raw)
        assert [one.spec.name for one in view.interventions] == ["bias", "scale", "logit"]
    with made.parts[0].applied(model) as alone:
        assert torch.equal(raw, logits(alone))
    assert not torch.allclose(raw, through)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())


def test_the_claim_is_the_weakest_and_the_needs_are_all() -> None:
    model = shared_model("gpt2")
    a, b = weights(model, 0.3), edit(2.0)
    attack = replace(b, spec=replace(b.spec, intent="attack"))
    assert (a + a).spec.intent == "removal"
    assert (a + b).spec.intent == "suppression"
    assert (b + a + attack).spec.intent == "attack"
    assert (a + b).spec.name == "bias + scale"
    assert (a + b).spec.needs == ("forget", "retain")
    assert (a + b + a).spec.source == "A; B"


def test_sums_are_flat_whatever_the_brackets() -> None:
    model = shared_model("gpt2")
    a, b, c = weights(model, 0.3), edit(2.0), edit(0.5, shift=True)
    assert ((a + b) + c).steps == (a + (b + c)).steps == (a, b, c)
    assert ((a + b) + c).spec == (a + (b + c)).spec
    assert a.steps == (a,)


def test_a_sum_survives_the_disk(tmp_path: Path) -> None:
    from interventions.steer import steer

    model = tiny_model("gpt2")
    made = weights(model, 0.3) + steer(torch.ones(model.d_model), sites=[SITE])
    made.save(tmp_path / "sum")
    loaded = Intervention.load(tmp_path / "sum")
    assert loaded.spec == made.spec
    with made.applied(model) as view, torch.no_grad():
        wanted = logits(view)
    with loaded.applied(model) as view:
        assert torch.equal(logits(view), wanted)


def test_weights_alone_can_be_baked_and_an_edit_among_them_not(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    made = weights(model, 0.3) + weights(model, 0.2)
    made.bake(model, tmp_path / "baked")
    with made.applied(model) as view:
        wanted = logits(view)
    baked = HookedModel.from_pretrained(str(tmp_path / "baked"))
    assert torch.allclose(logits(baked), wanted, atol=1e-6)
    with pytest.raises(VestigeError, match="'scale' acts through edits, which weights cannot carry"):
        (made + edit(2.0)).bake(model, tmp_path / "not")
    assert not (tmp_path / "not").exists()


def test_what_binds_sees_the_weights_and_no_edit() -> None:
    model = tiny_model("gpt2")
    twin = Intervention(Spec("twin", "suppression"), logits=AddTwin(1.0))
    shifted = weights(model, 0.3)
    with shifted.applied(model) as alone:
        raw = logits(alone)
    with (shifted + edit(2.0)).applied(model) as view:
        edited = logits(view)
    with (shifted + edit(2.0) + twin).applied(model) as view:
        assert torch.allclose(logits(view), edited + raw)


def test_parts_and_a_change_beside_them_are_refused() -> None:
    model = shared_model("gpt2")
    both = edit(2.0) + edit(3.0)
    with pytest.raises(VestigeError, match="made of parts changes nothing itself"):
        replace(both, weights=weights(model, 1.0).weights)
    with pytest.raises(TypeError):
        both + 3  # type: ignore[operator]


def copying_and_weights(model: HookedModel) -> tuple[Intervention, Intervention]:
    """A combiner with a copy of its own of one tensor, and a change of that tensor and of one the copy shares."""
    own, shared = (f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 1))
    assert {own, shared} <= model.state().keys()
    delta = RowDelta(torch.arange(3), torch.linspace(-1, 1, 3 * model.d_model).view(3, -1))
    copying = Intervention(Spec("copy", "suppression"), logits=AddCopy(WeightPatch({own: delta})))
    return copying, Intervention(Spec("both", "removal"), weights=WeightPatch({own: delta, shared: delta}))


def test_what_binds_sees_the_weights_of_later_parts_too() -> None:
    model = tiny_model("gpt2")
    copying, changed = copying_and_weights(model)
    with (changed + copying).applied(model) as view:
        wanted = logits(view)
    with copying.applied(model) as view:
        alone = logits(view)
    assert not torch.allclose(wanted, alone)
    assert isinstance(copying.logits, AddCopy)
    copying.logits.bound.clear()
    with (copying + changed).applied(model) as view:
        assert torch.equal(logits(view), wanted)
    # All weights are in force before anything is bound, so nothing is built in vain.
    assert len(copying.logits.bound) == 1


def test_what_is_bound_follows_the_weights_as_they_come_and_go() -> None:
    model = tiny_model("gpt2")
    copying, changed = copying_and_weights(model)
    with (changed + copying).applied(model) as view:
        wanted = logits(view)
    with copying.applied(model) as outer:
        alone = logits(outer)
        with changed.applied(outer) as inner:
            assert torch.equal(logits(inner), wanted)
            assert torch.equal(logits(outer), wanted)
        assert torch.equal(logits(outer), alone)
    for first in (True, False):
        contexts = changed.applied(model), copying.applied(model)
        views = [context.__enter__() for context in contexts]
        assert torch.equal(logits(views[1]), wanted)
        left, kept = contexts if first else contexts[::-1]
        left.__exit__(None, None, None)
        if first:
            assert torch.equal(logits(views[1]), alone)
        kept.__exit__(None, None, None)


def test_what_is_bound_anew_in_inference_mode_has_gradients_later() -> None:
    model = tiny_model("gpt2")
    copying, changed = copying_and_weights(model)
    with copying.applied(model) as view, changed.applied(model):
        with torch.inference_mode():
            view.logits(PROMPT)
        with torch.enable_grad():
            view.logits(PROMPT).sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.parameters())


def test_patches_of_other_models_bind_nothing_anew() -> None:
    model, other = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    copying, changed = copying_and_weights(model)
    assert isinstance(copying.logits, AddCopy)
    with copying.applied(model) as view, changed.applied(other):
        logits(view)
    assert len(copying.logits.bound) == 1
