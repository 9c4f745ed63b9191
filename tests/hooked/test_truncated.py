"""Models made of the first blocks of another: what they compute, what they share, and what reaches them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import DenseDelta, HookedModel, Intervention, LowRankDelta, RowDelta, Spec, VestigeError, WeightPatch
from hooked.forward import first_chunk, run
from hooked.truncated import truncated
from hooked.weights import parameters_of
from tests.numerics import FLOAT32, error
from tests.tiny import FAMILIES, shared_model, tiny_hugging_face, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_the_early_exit_of_the_model(family: str, ids: Tensor) -> None:
    model = shared_model(family)
    for kept in range(1, model.n_layers + 1):
        short = truncated(model, kept)
        resid = model.run_with_cache(ids, names_filter=("resid_post", kept - 1), return_type=None)[1]
        assert torch.equal(short.logits(ids), model.lens(resid["resid_post", kept - 1]))
        assert short.n_layers == short.config.num_hidden_layers == kept


@pytest.mark.parametrize("family", FAMILIES)
def test_it_shares_every_tensor_and_leaves_the_model_as_it_was(family: str, ids: Tensor) -> None:
    model = shared_model(family)
    before, config = model.logits(ids), model.config.to_dict()
    short = truncated(model, 1)
    state, mine = model.state(), short.state()
    assert all(tensor is state[name] for name, tensor in mine.items())
    assert len(mine) < len(state)
    assert torch.equal(model.logits(ids), before)
    assert model.config.to_dict() == config
    assert truncated(model).state().keys() == state.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_its_cache_has_one_layer_per_block_and_decoding_with_it_agrees(family: str) -> None:
    short = truncated(shared_model(family), 1)
    prompt = short.tokenize(["t5 t6 t7 t8 t9 t10 t11", "t12 t13"], padding_side="left")
    output = run(short, first_chunk(prompt, use_cache=True))
    assert len(output.native.past_key_values) == 1
    cached, plain = (short.generate_tokens(prompt, max_new_tokens=5, use_cache=use) for use in (True, False))
    assert cached == plain


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_patch_makes_new_tensors_of_what_it_names_alone(family: str, ids: Tensor, rng: torch.Generator) -> None:
    model = tiny_model(family)
    untouched = {name: tensor.clone() for name, tensor in model.state().items()}
    name = model.weight_name("mlp.out", 0)
    shape = parameters_of(model.model)[name].shape
    patch = WeightPatch({name: DenseDelta(0.1 * torch.randn(shape, generator=rng))})
    changed = truncated(model, patch=patch)
    with Intervention(Spec("patch", "removal"), weights=patch).applied(model) as view:
        assert torch.equal(changed.logits(ids), view.logits(ids))
    fresh = [n for n, tensor in changed.state().items() if tensor is not model.state()[n]]
    assert fresh == [name]
    assert all(torch.equal(tensor, untouched[n]) for n, tensor in model.state().items())


def test_a_patched_tensor_with_two_names_stays_one(ids: Tensor) -> None:
    model = tiny_model("gpt2")
    patch = WeightPatch({"transformer.wte.weight": RowDelta(torch.tensor([5]), torch.ones(1, 32))}, tied=True)
    changed = truncated(model, 2, patch=patch)
    network: Any = changed.model
    assert network.lm_head.weight is network.transformer.wte.weight
    assert network.lm_head.weight is not model.model.transformer.wte.weight  # type: ignore[union-attr]
    assert torch.equal(changed.W_E[5], model.W_E[5] + 1)
    assert torch.equal(changed.W_U[:, 6], model.W_U[:, 6])
    assert not torch.equal(changed.logits(ids), truncated(model, 2).logits(ids))


def test_later_changes_reach_what_is_shared_and_not_what_is_not(ids: Tensor) -> None:
    model = tiny_model("llama")
    down, up = model.weight_name("mlp.out", 0), model.weight_name("mlp.in", 0)
    own = truncated(model, patch=WeightPatch({down: LowRankDelta(torch.zeros(32, 1), torch.ones(1, 48))}))
    before = parameters_of(own.model)[down].clone()
    for name in (down, up):
        parameters_of(model.model)[name].data.mul_(2)
    assert torch.equal(parameters_of(own.model)[down], before)
    assert parameters_of(own.model)[up] is parameters_of(model.model)[up]


def test_lists_that_only_happen_to_be_as_long_as_the_model_stay_whole() -> None:
    model = HookedModel(tiny_hugging_face("llama", eos_token_id=[2, 5, 7]))
    assert truncated(model, 2).config.eos_token_id == [2, 5, 7]


def test_nobodys_hooks_are_taken_over(model: HookedModel, ids: Tensor) -> None:
    calls: list[str] = []
    handle = model.model.register_forward_hook(lambda m, a, o: calls.append("whole"))
    try:
        with model.hooks([("resid_post.0", lambda activation, hook: calls.append(hook.name))]):
            short = truncated(model, 2)
            short.logits(ids)
        assert calls == []
    finally:
        handle.remove()


def test_transformers_own_recording_still_works_on_it(ids: Tensor) -> None:
    model = tiny_model("llama")
    assert len(model.model(ids, output_hidden_states=True).hidden_states) == 4
    assert len(truncated(model, 2).model(ids, output_hidden_states=True).hidden_states) == 3
    assert len(model.model(ids, output_hidden_states=True).hidden_states) == 4


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_an_adapter_comes_along(ids: Tensor, rng: torch.Generator) -> None:
    from peft import LoraConfig, get_peft_model

    adapted: Any = get_peft_model(tiny_hugging_face("llama"), LoraConfig(r=2, target_modules=["down_proj"])).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=rng)
    model = HookedModel(adapted, shared_model().tokenizer)
    resid = model.run_with_cache(ids, names_filter=("resid_post", 1), return_type=None)[1]
    short = truncated(model, 2)
    assert error(short.logits(ids), model.lens(resid["resid_post", 1])) < FLOAT32
    assert error(short.logits(ids), truncated(shared_model(), 2).logits(ids)) > 1e-3


def test_what_does_not_fit_is_named(model: HookedModel) -> None:
    for wrong in (0, 4):
        with pytest.raises(VestigeError, match=f"n_layers is 1 to 3 for a model of 3 blocks, got {wrong}"):
            truncated(model, wrong)
    patch = WeightPatch({model.weight_name("mlp.out", 2): DenseDelta(torch.zeros(32, 48))})
    with pytest.raises(VestigeError, match=r"no parameter 'model\.layers\.2\.mlp\.down_proj\.weight'"):
        truncated(model, 2, patch=patch)


def test_a_bridge_is_refused() -> None:
    model = HookedModel(tiny_model("gpt2", attn="eager").bridge())
    with pytest.raises(VestigeError, match="blocks of a TransformerBridge cannot be cut off"):
        truncated(model, 1)
