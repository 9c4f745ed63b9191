"""What every unlearning method has to keep, whatever it does: one suite, inherited by the tests of each method.

A test class names the method's `make` and says which of the promises it cannot make:

    class TestNeuronAdjust(InterventionContract):
        def make(self, model, data):
            return neuron_adjust(model, data, top=0.1)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, TokenBatch, UnlearnData, VestigeError
from tests.tiny import tiny_model

# Two orders of the same float64 sums; logits are of the order of ten.
ROUNDING = 1e-9
NEEDS = frozenset({"forget", "retain", "reference", "vectors", "direction"})


@dataclass(frozen=True)
class Case:
    """A fresh model, the data, and the intervention that a method made of them."""

    model: HookedModel
    data: UnlearnData
    intervention: Intervention
    untouched: dict[str, Tensor]

    @property
    def prompts(self) -> list[str]:
        """Prompts of different lengths."""
        return [item.prompt for item in self.data.forget[:4]]


class InterventionContract:
    """Inherit it, implement `make`, and override what does not apply."""

    # GPT-2 stores its projections transposed and learns positions; this Llama is gated and ties its embeddings.
    families: ClassVar[dict[str, dict[str, Any]]] = {"gpt2": {}, "llama": {"tie_word_embeddings": True}}
    # Off for methods that toss coins.
    deterministic: ClassVar[bool] = True
    # Splits without which fitting has to fail.
    required: ClassVar[tuple[str, ...]] = ()

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        """Return the intervention under test, fitted on a tiny model."""
        raise NotImplementedError

    def model(self, family: str) -> HookedModel:
        """Return a fresh model in float64."""
        return tiny_model(family, dtype=torch.float64, **self.families[family])

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every promise on every family."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", list(self.families), indirect=True, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, request: pytest.FixtureRequest, tiny_data: UnlearnData) -> Case:
        model = cls().model(request.param)
        untouched = {name: tensor.clone() for name, tensor in model.state().items()}
        return Case(model, tiny_data, cls().make(model, tiny_data), untouched)

    def test_fitting_leaves_the_model_bit_equal(self, case: Case) -> None:
        assert_untouched(case)
        assert all(parameter.grad is None for parameter in case.model.model.parameters())
        assert all(parameter.requires_grad for parameter in case.model.model.parameters())
        assert not case.model.model.training
        assert count_hooks(case.model) == 0

    def test_it_changes_the_logits_of_forget_prompts(self, case: Case) -> None:
        before = logits(case.model, case)
        with case.intervention.applied(case.model) as view:
            after = logits(view, case)
        assert torch.isfinite(after).all()
        assert (after - before).abs().max() > 1e-4

    def test_leaving_restores_everything_twice(self, case: Case) -> None:
        before = logits(case.model, case)
        inside = []
        for _ in range(2):
            with case.intervention.applied(case.model) as view:
                inside.append(logits(view, case))
            assert_untouched(case)
            assert torch.equal(logits(case.model, case), before)
        assert torch.equal(*inside) or not self.deterministic

    def test_an_exception_restores_everything(self, case: Case) -> None:
        before = logits(case.model, case)

        def fail(view: HookedModel) -> None:
            logits(view, case)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), case.intervention.applied(case.model) as view:
            fail(view)
        assert_untouched(case)
        assert count_hooks(case.model) == 0
        assert torch.equal(logits(case.model, case), before)

    @pytest.mark.parametrize("first_in_first_out", [False, True])
    def test_nested_ones_may_be_left_in_any_order(self, case: Case, first_in_first_out: bool) -> None:
        before = logits(case.model, case)
        outer = case.intervention.applied(case.model)
        inner = case.intervention.applied(outer.__enter__())
        logits(inner.__enter__(), case)
        for context in (outer, inner) if first_in_first_out else (inner, outer):
            context.__exit__(None, None, None)
        assert_untouched(case)
        assert torch.equal(logits(case.model, case), before)

    def test_foreign_hooks_survive_and_see_tensors_that_stay(self, case: Case) -> None:
        with foreign_hooks(case.model) as seen:
            with case.intervention.applied(case.model) as view:
                logits(view, case)
                assert seen
                assert all(torch.equal(live, copy) for live, copy in seen)
            seen.clear()
            logits(case.model, case)
            assert seen

    def test_padding_changes_nothing_at_real_positions(self, case: Case) -> None:
        if not self.deterministic:
            pytest.skip("coins depend on the shape of the batch")
        with case.intervention.applied(case.model) as view:
            alone = [logits(view, case, prompts=[prompt])[0] for prompt in case.prompts]
            for side in ("left", "right"):
                batch = view.tokenize(case.prompts, padding_side=side)
                for pad in (0, 7):
                    wide = padded(batch, side, pad)
                    together = logits(view, case, prompts=wide)
                    for row, wanted in enumerate(alone):
                        assert_close(together[row][wide.mask[row]], wanted)

    def test_cached_and_uncached_decoding_agree(self, case: Case) -> None:
        if not self.deterministic:
            pytest.skip("coins are tossed anew at every step")
        with case.intervention.applied(case.model) as view:
            cached, uncached, one_by_one = (
                view.generate_tokens(case.prompts, max_new_tokens=6, use_cache=use_cache, batch_size=size)
                for use_cache, size in ((True, 4), (False, 4), (True, 1))
            )
        assert cached == uncached == one_by_one

    def test_scoring_a_text_meets_the_logits_of_decoding_it(self, case: Case) -> None:
        if not self.deterministic:
            pytest.skip("coins are tossed anew at every step")
        with case.intervention.applied(case.model) as view:
            for prompt in case.prompts[:2]:
                said = view.generate_tokens(prompt, max_new_tokens=5, stop_at_eos=False)[0]
                batch = continued(view.tokenize(prompt), said)
                predictions = logits(view, case, prompts=batch)[0, :-1].argmax(-1)
                assert predictions[batch.answer[0, 1:]].tolist() == said

    def test_raw_is_what_somebody_who_takes_the_weights_has(self, case: Case) -> None:
        before = logits(case.model, case)
        with case.intervention.applied(case.model) as view:
            raw, through = logits(view.raw, case), logits(view, case)
        if "weights" not in case.intervention.points:
            assert torch.equal(raw, before)
        elif case.intervention.points == ("weights",):
            assert torch.equal(raw, through)
            assert not torch.equal(raw, before)

    def test_saving_and_loading_changes_nothing(self, case: Case, tmp_path: Path) -> None:
        case.intervention.save(tmp_path / "saved")
        loaded = Intervention.load(tmp_path / "saved")
        assert loaded.points == case.intervention.points
        assert loaded.spec == replace(case.intervention.spec, settings=loaded.spec.settings)
        assert as_json(loaded.spec.settings) == as_json(case.intervention.spec.settings)
        with case.intervention.applied(case.model) as view:
            wanted = logits(view, case)
        with loaded.applied(case.model) as view:
            assert torch.equal(logits(view, case), wanted)

    def test_weights_can_be_baked_and_nothing_else(self, case: Case, tmp_path: Path) -> None:
        folder = tmp_path / "baked"
        if case.intervention.points != ("weights",):
            outside = next(one.spec.name for one in case.intervention.steps if one.points != ("weights",))
            with pytest.raises(VestigeError, match=f"'{outside}' acts through .*save"):
                case.intervention.bake(case.model, folder)
            assert not folder.exists()
            return
        case.intervention.bake(case.model, folder)
        assert_untouched(case)
        baked = HookedModel.from_pretrained(str(folder), dtype=torch.float64)
        with case.intervention.applied(case.model) as view:
            assert_close(logits(baked, case), logits(view, case))

    def test_a_missing_split_is_named(self, case: Case) -> None:
        for split in self.required:
            data = replace(case.data, **{split: ()}) if split != "forget" else without_answers(case.data)
            with pytest.raises(VestigeError, match=f"needs {split} items"):
                self.make(case.model, data)
        assert_untouched(case)

    def test_the_spec_is_complete(self, case: Case) -> None:
        spec = case.intervention.spec
        assert spec.name
        assert spec.intent in ("removal", "suppression", "attack")
        assert set(spec.needs) <= NEEDS
        assert set(self.required) <= set(spec.needs)
        assert "arXiv" in spec.source
        assert json.loads(as_json(spec.settings))

    def test_the_same_seed_gives_the_same_intervention(self, case: Case) -> None:
        again = self.make(case.model, case.data)
        with case.intervention.applied(case.model) as view:
            wanted = logits(view, case)
        with again.applied(case.model) as view:
            assert torch.equal(logits(view, case), wanted)
        assert as_json(again.spec.settings) == as_json(case.intervention.spec.settings)


class LossContract(InterventionContract):
    """For methods that differ from others in nothing but a loss: it sees logits alone, so one family shows it all."""

    families: ClassVar[dict[str, dict[str, Any]]] = {"llama": {"tie_word_embeddings": True}}


@torch.no_grad()
def logits(model: HookedModel, case: Case, *, prompts: list[str] | TokenBatch | None = None) -> Tensor:
    """Run the forget prompts, padded on the left."""
    return model.logits(case.prompts if prompts is None else prompts)


def assert_untouched(case: Case) -> None:
    """Every parameter and buffer has the bits it had before anything was fitted."""
    state = case.model.state()
    assert state.keys() == case.untouched.keys()
    changed = [name for name, tensor in state.items() if not torch.equal(tensor, case.untouched[name])]
    assert changed == []


def assert_close(got: Tensor, wanted: Tensor) -> None:
    """Equal up to the rounding of float64."""
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < ROUNDING * max(1.0, float(wanted.abs().max()))


def padded(batch: TokenBatch, side: str, width: int) -> TokenBatch:
    """Add columns of padding on one side."""
    rows = len(batch)
    columns = [torch.zeros(rows, width, dtype=t.dtype) for t in (batch.ids, batch.mask, batch.answer)]
    pairs = list(zip(columns, (batch.ids, batch.mask, batch.answer), strict=True))
    return TokenBatch(*(torch.cat(pair if side == "left" else pair[::-1], 1) for pair in pairs))


def continued(batch: TokenBatch, said: list[int]) -> TokenBatch:
    """Append an answer to the prompt of a single row."""
    row = torch.tensor([said])
    true = torch.ones_like(row, dtype=torch.bool)
    return TokenBatch(
        torch.cat([batch.ids, row], 1), torch.cat([batch.mask, true], 1), torch.cat([batch.answer, true], 1)
    )


def without_answers(data: UnlearnData) -> UnlearnData:
    """The same forget questions, of which nothing can be scored."""
    return replace(data, forget=tuple(replace(item, answer="") for item in data.forget))


def count_hooks(model: HookedModel) -> int:
    """Hooks on all modules together."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@contextmanager
def foreign_hooks(model: HookedModel) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Somebody else's hooks on every module: they keep each live output beside a copy of it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append((output, output.clone()))

    handles = [module.register_forward_hook(keep) for module in model.model.modules()]
    try:
        yield seen
    finally:
        assert all(handle.id in (handle.hooks_dict_ref() or {}) for handle in handles)
        for handle in handles:
            handle.remove()


def as_json(settings: Any) -> str:
    """Settings as text; tuples and lists count as the same."""
    return json.dumps(settings, sort_keys=True, default=dict)
