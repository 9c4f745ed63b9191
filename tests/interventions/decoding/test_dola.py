"""DoLa: which blocks it contrasts with, what it scores, and the attack that it is when reversed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import DenseDelta, HookedModel, Intervention, Request, Spec, UnlearnData, VestigeError, WeightPatch
from interventions import ablate_direction
from interventions.decoding import dola
from interventions.decoding.divergence import jensen_shannon, reversed_jensen_shannon
from interventions.decoding.plausible import Plausible
from tests.contracts import InterventionContract, assert_close
from tests.interventions.decoding.made import applied_logits
from tests.tiny import random_ids, shared_model, tiny_model

PROMPTS = ["t5 t6 t7 t8", "t9 t10"]
FOUR_BLOCKS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 4},
    "llama": {"num_hidden_layers": 4},
    "gemma2": {"num_hidden_layers": 4},
}


class TestDoLa(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return dola(model, data, layers=[0, -2])


class TestDoLaReversed(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return dola(model, layers=[0, 1], cutoff=0.5, divergence="released", reverse=True)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def first_row(raw: HookedModel, request: Request) -> Tensor:
    return torch.arange(len(request.ids)) == 0


def distributions(model: HookedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the model, and of its early exits."""
    logits, cache = model.run_with_cache(ids)
    early = [model.lens(cache["resid_post", layer]).log_softmax(-1) for layer in range(model.n_layers - 1)]
    return logits.log_softmax(-1), torch.stack(early)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("divergence", ["jensen_shannon", "released"])
@pytest.mark.parametrize("reverse", [False, True])
def test_its_score_is_the_contrast_with_the_furthest_block(
    family: str, divergence: Any, reverse: bool, rng: torch.Generator
) -> None:
    model = tiny_model(family, dtype=torch.float64, **FOUR_BLOCKS[family])
    ids = random_ids(rng, batch=3, pos=9)
    final, early = distributions(model, ids)
    distance = jensen_shannon if divergence == "jensen_shannon" else reversed_jensen_shannon
    which = torch.stack([distance(final, one) for one in early]).argmax(0)
    assert len(which.unique()) > 1
    chosen = early.gather(0, which[None, ..., None].expand_as(early[:1]))[0]
    made = dola(model, layers=[0, 1, 2], cutoff=0.2, divergence=divergence, reverse=reverse)
    got = applied_logits(made, model, ids)
    wanted, judge = (chosen - final, chosen) if reverse else (final - chosen, final)
    kept = Plausible(0.2).keep(judge)
    assert_close(got[kept], wanted[kept])
    assert (got[~kept] < -900).all()
    assert 0 < kept.sum() < kept.numel()


def test_a_single_block_is_the_early_exit_after_it(rng: torch.Generator) -> None:
    model, ids = tiny_model("llama", dtype=torch.float64), random_ids(rng)
    final, early = distributions(model, ids)
    assert_close(applied_logits(dola(model, layers=[0], cutoff=None), model, ids), final - early[0])


@pytest.mark.parametrize(
    ("n_layers", "wanted"), [(2, (0,)), (3, (1,)), (4, (2,)), (6, (3,)), (12, (6, 8, 10)), (5, (2,))]
)
def test_every_second_block_of_the_upper_half_is_tried(n_layers: int, wanted: tuple[int, ...]) -> None:
    made = dola(tiny_model("gpt2", n_layer=n_layers))
    assert tuple(made.spec.settings["layers"]) == wanted


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reversed_it_shows_what_the_last_block_holds_back(seed: int) -> None:
    """A last block that only writes against one token: the model never says it, and the attack says it first."""
    model = tiny_model("gpt2", seed=seed, dtype=torch.float64)
    prompt = "t5 t6 t7 t8"
    early = model.run_with_cache(prompt, names_filter="resid_post.1", return_type=None)[1]["resid_post.1"]
    token = int(model.lens(early)[0, -1].argmax())
    last, away = model.weight_name("mlp.out", 2).replace("weight", "bias"), -20 * model.W_U[:, token]
    hide = Intervention(Spec("hide", "suppression"), weights=WeightPatch({last: DenseDelta(away)}))
    with hide.applied(model) as view:
        ranks = (view.logits(prompt)[0, -1] > view.logits(prompt)[0, -1, token]).sum()
        assert ranks > 90
        attacked = applied_logits(dola(model, layers=[1], reverse=True), view, prompt)[0, -1]
        assert int(attacked.argmax()) == token
        truthful = applied_logits(dola(model, layers=[1]), view, prompt)[0, -1]
        assert int(truthful.argmax()) != token


def test_its_exits_show_what_is_edited_at_their_block_whatever_the_order() -> None:
    model = shared_model("llama")
    ablate = ablate_direction(torch.arange(1.0, 33), sites=["resid_post.0"])
    exits = dola(model, layers=[0], cutoff=None)
    for gate in (None, first_row):
        wanted = applied_logits(ablate + replace(exits, gate=gate), model, PROMPTS)
        assert torch.equal(applied_logits(replace(exits, gate=gate) + ablate, model, PROMPTS), wanted)
        with replace(exits, gate=gate).applied(model) as view:
            got = view.run_with_hooks(PROMPTS, fwd_hooks=list(ablate.edits.items()))
        assert torch.equal(got, wanted)
        assert not torch.allclose(applied_logits(exits, model, PROMPTS), wanted)


def test_it_says_whether_it_is_an_attack() -> None:
    model = shared_model("gpt2")
    assert dola(model).spec.intent == "suppression"
    assert dola(model, reverse=True).spec.intent == "attack"


def test_what_cannot_be_contrasted_is_named() -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match=r"dola needs at least one block before the last of 3 .*, got none"):
        dola(model, layers=[])
    with pytest.raises(VestigeError, match="dola needs at least one block before the last of 1 to exit after"):
        dola(tiny_model("gpt2", n_layer=1))
    for last in (2, -1):
        with pytest.raises(VestigeError, match=f"exits before the last block, and {last} is the last"):
            dola(model, layers=[0, last])
    with pytest.raises(VestigeError, match="dola exits after blocks 0 to 1, got 3"):
        dola(model, layers=[3])
    with pytest.raises(VestigeError, match="divergence is one of jensen_shannon, released, got 'kl'"):
        dola(model, divergence="kl")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="a cutoff is a fraction"):
        dola(model, cutoff=0)
