"""The combiner: what it adds up, its other models' caches and padding, gates, nesting, and what it leaves alone."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor

from hooked import DenseDelta, HookedModel, Intervention, Request, Spec, TokenBatch, VestigeError, WeightPatch
from hooked.hooks import HookContext
from hooked.truncated import truncated
from interventions.decoding import Assistant, LogitCombiner, NoteStream, Plausible, Term, notes
from interventions.decoding.divergence import furthest
from tests.contracts import ROUNDING, assert_close
from tests.interventions.decoding.made import applied_logits, random_patch
from tests.tiny import FAMILIES, random_ids, shared_model, tiny_model

PROMPTS = ["t5 t6 t7 t8 t9 t10 t11", "t12 t13", "t14 t15 t16"]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama", dtype=torch.float64)


@pytest.fixture
def ids(rng: torch.Generator) -> Tensor:
    return random_ids(rng)


def combined(combiner: LogitCombiner, *layers: int, **more: Any) -> Intervention:
    return Intervention(Spec("combined", "suppression"), edits=notes(layers), logits=combiner, **more)


def everything(model: HookedModel) -> Intervention:
    """Two other models, early exits of both kinds, an instruction and a cutoff at once."""
    others = (Assistant(2, random_patch(model)), Assistant(before=(1, 20, 21), bos=1))
    terms = (
        Term(1.0),
        Term(-0.5, model=1),
        Term(0.3, "excess", 2),
        Term(0.2, "logits", 1, (0,)),
        Term(-0.4, layers=(0, 1)),
        Term(0.1, layers=(1,)),
    )
    return combined(LogitCombiner(terms, others, Plausible(0.01, rank=True)), 0, 1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_terms_add_up_to_what_the_formula_says(family: str, ids: Tensor) -> None:
    model = tiny_model(family, dtype=torch.float64)
    patch = random_patch(model)
    other, z = truncated(model, 2, patch=patch), model.logits(ids)
    streams = model.run_with_cache(ids, names_filter=["resid_post.0", "resid_post.1"], return_type=None)[1]
    early = [model.lens(streams["resid_post", layer]).log_softmax(-1) for layer in (0, 1)]
    low = other.run_with_cache(ids, names_filter="resid_post.0", return_type=None)[1]["resid_post", 0]
    for terms, wanted in (
        ((Term(1.0, "logits"), Term(-0.8, "logits", 1)), z - 0.8 * other.logits(ids)),
        ((Term(2.0), Term(-1.0, model=1)), 2 * z.log_softmax(-1) - other.logits(ids).log_softmax(-1)),
        ((Term(1.0, "logits"), Term(-3.0, "excess", 1)), z - 3 * torch.relu(other.logits(ids) - z)),
        ((Term(1.0), Term(-1.0, layers=(1,))), z.log_softmax(-1) - early[1]),
        ((Term(-1.0), Term(1.0, layers=(0, 1))), furthest(z.log_softmax(-1), early) - z.log_softmax(-1)),
        ((Term(0.5, model=1, layers=(0,)),), 0.5 * other.lens(low).log_softmax(-1)),
    ):
        made = combined(LogitCombiner(terms, (Assistant(2, patch),)), 0, 1)
        assert_close(applied_logits(made, model, ids), wanted)


def test_the_cutoff_is_that_of_the_term_it_names(model: HookedModel, ids: Tensor) -> None:
    other = truncated(model, 1).logits(ids)
    for by, judged in ((0, model.logits(ids)), (1, other)):
        terms = (Term(1.0, "logits"), Term(0.0, model=1))
        got = applied_logits(combined(LogitCombiner(terms, (Assistant(1),), Plausible(0.5, by=by))), model, ids)
        kept = Plausible(0.5).keep(judged.log_softmax(-1))
        assert torch.equal(got[kept], model.logits(ids)[kept])
        assert (got.amax(-1) - got.amin(-1) >= 1000).all()
        assert torch.equal(got > got.amax(-1, keepdim=True) - 900, kept)


def test_only_weights_of_0_are_only_zeros_and_one_term_of_weight_1_is_the_identity(ids: Tensor) -> None:
    model = shared_model("gpt2")
    alone = LogitCombiner((Term(1.0, "logits"), Term(0.0, "logits", 1)), (Assistant(1),))
    assert torch.equal(applied_logits(combined(alone), model, ids), model.logits(ids))
    assert (applied_logits(combined(LogitCombiner((Term(0.0),))), model, ids) == 0).all()


def test_a_uniform_assistant_changes_no_probability(model: HookedModel, ids: Tensor) -> None:
    blank = Assistant(1, WeightPatch({"lm_head.weight": DenseDelta(-model.W_U.T)}))
    for weight in (-0.8, -5.0, 3.0):
        made = combined(LogitCombiner((Term(1.0, "logits"), Term(weight, "logits", 1)), (blank,)))
        got = applied_logits(made, model, ids)
        assert torch.equal(got.argmax(-1), model.logits(ids).argmax(-1))
        assert_close(got.log_softmax(-1), model.logits(ids).log_softmax(-1))


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_in_padded_batches_is_uncached_decoding_one_by_one(family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    last = model.n_layers - 2
    others = (Assistant(1, random_patch(model)), Assistant(before=(1, 20, 21), bos=1))
    terms = (Term(1.0), Term(-0.6, model=1), Term(0.5, model=2), Term(-0.4, layers=(last,)))
    made = combined(LogitCombiner(terms, others, Plausible(0.001, rank=True)), last)
    with made.applied(model) as view:
        cached, plain, alone = (
            view.generate_tokens(PROMPTS, max_new_tokens=6, use_cache=use_cache, batch_size=size)
            for use_cache, size in ((True, 3), (False, 3), (True, 1))
        )
        assert cached == plain == alone
    assert cached != model.generate_tokens(PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_step_of_cached_decoding_has_the_logits_of_scoring_the_whole(model: HookedModel, side: str) -> None:
    """Not only the same winners: the very distribution that is sampled from is the one that is scored."""
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Spy:
        def __call__(self, logits: Tensor, request: Request, /) -> Tensor:
            seen.append(logits[:, -1].clone())
            return logits

    made, spy = everything(model), Intervention(Spec("spy", "suppression"), logits=Spy())
    with made.applied(model) as view, spy.applied(view) as watched:
        said = watched.generate_tokens(PROMPTS, max_new_tokens=5, stop_at_eos=False)
        answers = [" ".join(f"t{i}" if i > 2 else ("<pad>", "<bos>", "<eos>")[i] for i in row) for row in said]
        batch = view.tokenize(PROMPTS, answers=answers, padding_side=side)  # type: ignore[arg-type]
        scored = view.logits(batch)
    for row in range(len(PROMPTS)):
        end = int(batch.last[row])
        assert_close(scored[row, end - 5 : end], torch.stack([step[row] for step in seen[:5]]))
        assert scored[row].log_softmax(-1)[batch.mask[row]].isfinite().all()


def test_an_instruction_is_read_before_the_text_and_its_bos_once(model: HookedModel) -> None:
    before, text = (1, 20, 21), torch.tensor([[5, 6, 7]])
    made = combined(LogitCombiner((Term(1.0, "logits", 1),), (Assistant(before=before, bos=1),)))
    alone = model.logits(torch.cat([torch.tensor([before]), text], 1))[:, 3:]
    assert_close(applied_logits(made, model, text), alone)
    with made.applied(model) as view:
        got = view.logits(["t5 t6 t7", "t8"])
    # The first row's BOS is column 0; the second row is padded, so its BOS is column 2. What follows a BOS follows the
    # instruction.
    assert_close(got[0], model.logits(torch.tensor([[*before, 5, 6, 7]]))[0, 2:])
    assert_close(got[1, 2:], model.logits(torch.tensor([[*before, 8]]))[0, 2:])


@dataclass(frozen=True)
class Rows:
    """A gate that is open on rows whose prompt holds a token."""

    token: int

    def __call__(self, raw: HookedModel, request: Request, /) -> Bool[Tensor, " batch"]:
        return (request.ids == self.token).any(-1)


def test_a_gate_leaves_other_rows_bit_identical(model: HookedModel) -> None:
    made = everything(model)
    gated = Intervention(made.spec, edits=made.edits, logits=made.logits, gate=Rows(13))
    with made.applied(model) as view:
        full, said = view.logits(PROMPTS), view.generate_tokens(PROMPTS, max_new_tokens=4)
    with gated.applied(model) as view:
        got, gated_said = view.logits(PROMPTS), view.generate_tokens(PROMPTS, max_new_tokens=4)
    plain, plain_said = model.logits(PROMPTS), model.generate_tokens(PROMPTS, max_new_tokens=4)
    assert torch.equal(got[1], full[1])
    assert torch.equal(got[[0, 2]], plain[[0, 2]])
    assert gated_said == [plain_said[0], said[1], plain_said[2]]
    assert said[0] != plain_said[0]


def test_it_may_be_applied_inside_itself(model: HookedModel) -> None:
    """Both have caches of their own: twice the assistant is the assistant with twice the weight."""

    def subtract(weight: float) -> Intervention:
        terms = (Term(1.0, "logits"), Term(weight, "logits", 1))
        return combined(LogitCombiner(terms, (Assistant(1, patch),)))

    patch = random_patch(model)
    once, double = subtract(-0.5), subtract(-1.0)
    with double.applied(model) as view:
        wanted, said = view.logits(PROMPTS), view.generate_tokens(PROMPTS, max_new_tokens=5)
    for stacked in (once + once, once + subtract(-0.5)):
        with stacked.applied(model) as view:
            assert_close(view.logits(PROMPTS), wanted)
            assert view.generate_tokens(PROMPTS, max_new_tokens=5) == said


def test_the_other_models_are_those_of_the_weights_in_force(model: HookedModel, ids: Tensor) -> None:
    other = Intervention(Spec("patch", "removal"), weights=random_patch(model, seed=5, layer=1))
    made = combined(LogitCombiner((Term(1.0, "logits", 1),), (Assistant(2),)))
    with other.applied(model) as view:
        wanted = truncated(model, 2).logits(ids)
        assert torch.equal(applied_logits(made, view, ids), wanted)
    assert not torch.equal(applied_logits(made, model, ids), wanted)


def test_nothing_that_others_hold_is_edited(model: HookedModel, ids: Tensor) -> None:
    held: list[tuple[Tensor, Tensor]] = []

    @dataclass(frozen=True)
    class Hold:
        def __call__(self, logits: Tensor, request: Request, /) -> Tensor:
            held.append((logits, logits.clone()))
            return logits

    def note(activation: Tensor, hook: HookContext) -> None:
        held.append((activation, activation.clone()))

    holding = Intervention(Spec("hold", "suppression"), edits={"resid_post.0": note}, logits=Hold())
    with holding.applied(model) as view, everything(model).applied(view) as inner:
        inner.logits(ids)
        inner.generate_tokens(PROMPTS, max_new_tokens=3)
    assert len(held) == 8
    assert all(torch.equal(live, copy) for live, copy in held)


def test_the_other_models_are_gone_with_the_view() -> None:
    model = tiny_model("gpt2")
    made = everything(model)
    with made.applied(model) as view:
        view.generate_tokens(PROMPTS, max_new_tokens=2)
        other = weakref.ref(view._logit_edits[0].edit.beside[0].model.model)  # type: ignore[union-attr]
        assert other() is not None
    del view
    gc.collect()
    assert other() is None
    assert sum(len(m._forward_hooks) for m in model.model.modules()) == 0


def test_only_changed_weights_take_memory(model: HookedModel) -> None:
    with everything(model).applied(model) as view:
        beside = view._logit_edits[0].edit.beside  # type: ignore[union-attr]
        own = {id(tensor) for tensor in model.state().values()}
        fresh = [[name for name, t in one.model.state().items() if id(t) not in own] for one in beside]
    assert fresh == [["model.layers.0.mlp.down_proj.weight"], []]


def test_narrow_logits_stay_narrow_and_are_combined_in_float32(ids: Tensor) -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    got = applied_logits(everything(model), model, ids)
    assert got.dtype == torch.bfloat16
    assert torch.isfinite(got.float().log_softmax(-1)).all()
    pair = combined(LogitCombiner((Term(1.0, "logits"), Term(-0.8, "logits", 1)), (Assistant(1),)))
    wanted = model.logits(ids).float() - 0.8 * truncated(model, 1).logits(ids).float()
    assert torch.equal(applied_logits(pair, model, ids), wanted.bfloat16())


def test_gradients_flow_through_both_models(model: HookedModel, ids: Tensor) -> None:
    pair = combined(LogitCombiner((Term(1.0, "logits"), Term(-0.8, "logits", 1)), (Assistant(1),)))
    weight: Tensor = model.model.lm_head.weight  # type: ignore[union-attr, assignment]
    with torch.enable_grad(), pair.applied(model) as view:
        (got,) = torch.autograd.grad(view.logits(ids).square().sum(), weight)
        direct = model.logits(ids) - 0.8 * truncated(model, 1).logits(ids)
        (wanted,) = torch.autograd.grad(direct.square().sum(), weight)
    assert (got - wanted).abs().max() < ROUNDING * wanted.abs().max()


def test_activations_can_be_read_and_passes_stopped_under_it(model: HookedModel, ids: Tensor) -> None:
    with everything(model).applied(model) as view:
        logits, cache = view.run_with_cache(ids, names_filter=["resid_post.0", "resid_post.2"])
        assert torch.equal(logits, view.logits(ids))
        assert torch.equal(cache["resid_post.0"], model.run_with_cache(ids)[1]["resid_post.0"])
        resid, _ = view.run_with_cache(ids, names_filter="resid_post.0", stop_at_layer=1)
        assert torch.equal(resid, cache["resid_post.0"])
        assert torch.equal(view.raw.logits(ids), model.logits(ids))


def test_it_is_saved_with_everything_in_it(model: HookedModel, ids: Tensor, tmp_path: Path) -> None:
    made = everything(model)
    made.save(tmp_path / "saved")
    loaded = Intervention.load(tmp_path / "saved")
    assert torch.equal(applied_logits(loaded, model, ids), applied_logits(made, model, ids))


def test_what_cannot_be_combined_is_named(model: HookedModel, ids: Tensor) -> None:
    for weight in (float("nan"), float("inf")):
        with pytest.raises(VestigeError, match=f"weight is a finite number, got {weight}"):
            Term(weight)
    with pytest.raises(VestigeError, match="a combination needs at least one term"):
        LogitCombiner(())
    with pytest.raises(VestigeError, match=r"a term reads model 2, and there are 0 \(the target\) to 1"):
        LogitCombiner((Term(1.0, model=2),), (Assistant(),))
    with pytest.raises(VestigeError, match="tokens stay by term 1, and there are 0 to 0"):
        LogitCombiner((Term(1.0),), plausible=Plausible(0.1, by=1))
    unnoted = Intervention(Spec("unnoted", "attack"), logits=LogitCombiner((Term(1.0, layers=(1,)),)))
    with pytest.raises(VestigeError, match=r"stream after block 1 was not noted; .* edits=notes\(\[1\]\)"):
        applied_logits(unnoted, model, ids)
    with pytest.raises(VestigeError, match="an early exit belongs to a request"):
        NoteStream(0)(torch.zeros(1, 1, 32), hook=HookContext("blocks.0.hook_resid_post"))
    with pytest.raises(VestigeError, match="n_layers is 1 to 3"):
        applied_logits(combined(LogitCombiner((Term(1.0, model=1),), (Assistant(4),))), model, ids)
    long = TokenBatch(torch.full((1, 63), 5), torch.ones(1, 63).bool(), torch.zeros(1, 63).bool())
    positions = tiny_model("gpt2")
    with pytest.raises(VestigeError, match="66 positions were asked for, the model has 64"):
        applied_logits(everything(positions), positions, long)  # type: ignore[arg-type]
