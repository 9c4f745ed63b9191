"""Models that come wrapped: bridges, adapters, other dtypes, weights that are elsewhere; and what is no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hooked import DenseDelta, HookedModel, Intervention, RowDelta, Spec, VestigeError, WeightPatch
from hooked.ledger import patched
from tests.numerics import FLOAT32, error
from tests.tiny import FAMILIES, byte_tokenizer, shared_model, tiny_hugging_face, tiny_model, tiny_tokenizer

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
REMOVAL = Spec("x", "removal")


# TransformerLens bridges.


def test_a_bridge_is_booted_around_a_copy(ids: Tensor) -> None:
    """B2, B4: the model itself keeps its modules and names."""
    model = tiny_model("llama", attn="eager")
    names = list(model.state())
    bridge = model.bridge()
    assert list(model.state()) == names
    assert error(bridge(ids), model.logits(ids)) < FLOAT32
    model.model.lm_head.weight.data.zero_()
    assert bridge(ids).any()


@pytest.mark.parametrize(
    "tokenizer", [tiny_tokenizer(), tiny_tokenizer(bos=False), tiny_tokenizer(pad=False), byte_tokenizer()]
)
def test_a_bridge_boots_with_every_kind_of_tokenizer(tokenizer: Any) -> None:
    """B9: in-memory tokenizers have no name, and booting would go to the network for one."""
    before = dict(tokenizer.init_kwargs)
    bridge = tiny_model("gpt2", attn="eager", tokenizer=tokenizer).bridge()
    assert bridge(torch.tensor([[4, 5]])).shape == (1, 2, 99)
    assert tokenizer.init_kwargs == before


def test_a_bridge_without_a_tokenizer_or_of_an_adapter_says_what_to_do() -> None:
    """B9."""
    with pytest.raises(VestigeError, match="booting one without goes to the network; pass tokenizer="):
        HookedModel(tiny_hugging_face("gpt2")).bridge()
    with pytest.raises(VestigeError, match="merge the adapter first"):
        HookedModel(lora_of("llama"), tiny_tokenizer()).bridge()


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox", "bloom", "gemma2"])
def test_a_users_bridge_works_as_a_model(family: str, ids: Tensor) -> None:
    """Reading, editing and decoding through the bridge's own hook points."""
    model = tiny_model(family, attn="eager")
    wrapped = HookedModel(model.bridge())
    assert wrapped.tokenizer is not None
    assert wrapped.sites[: len(model.sites)] == model.sites
    texts = ["t4 t5 t6", "t7"]
    for site in ("resid_post.1", "mlp_post.1", "q.0", "z.2"):
        edits = [(site, lambda a, hook: a * 0.5)]
        assert error(wrapped.run_with_hooks(ids, fwd_hooks=edits), model.run_with_hooks(ids, fwd_hooks=edits)) < FLOAT32
    batch = model.tokenize(texts)
    assert error(wrapped.logits(batch)[batch.mask], model.logits(batch)[batch.mask]) < FLOAT32
    assert error(wrapped.lens(ids.new_ones(1, 32).float()), model.lens(torch.ones(1, 32))) < FLOAT32
    assert wrapped.generate(texts, max_new_tokens=4) == model.generate(texts, max_new_tokens=4)
    assert wrapped.run_with_cache(ids, names_filter="pattern.1")[1]["pattern", 1].shape == (2, 4, 7, 7)
    with pytest.raises(VestigeError, match="or use your bridge itself"):
        wrapped.bridge()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_the_middle_of_the_stream_is_edited_on_a_bridge_too(family: str, ids: Tensor) -> None:
    """C10."""
    model = tiny_model(family, attn="eager")
    edits = [("resid_mid.1", lambda a, hook: a * 0.5 + 1)]
    bridged = HookedModel(model.bridge()).run_with_hooks(ids, fwd_hooks=edits)
    assert error(bridged, model.run_with_hooks(ids, fwd_hooks=edits)) < FLOAT32


@pytest.mark.parametrize("family", FAMILIES)
def test_a_record_made_on_the_plain_model_fits_the_bridge_or_is_refused(family: str, ids: Tensor) -> None:
    """B2, B7, B8: by Hugging Face names; where the bridge computes with copies, patching would be a silent no-op."""
    model = tiny_model(family, attn="eager")
    wrapped = HookedModel(model.bridge())
    normal, refused = wrapped.logits(ids), []
    for name, parameter in model.model.named_parameters():
        delta = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
        intervention = Intervention(REMOVAL, weights=WeightPatch({name: DenseDelta(delta)}, tied=True))
        with intervention.applied(model) as view:
            wanted = view.logits(ids)
        if name in wrapped._geometry.detached:
            refused.append(name)
            with pytest.raises(VestigeError, match="computes with its own copies"), intervention.applied(wrapped):
                pass
            continue
        with intervention.applied(wrapped) as view:
            assert error(view.logits(ids), wanted) < FLOAT32, name
    assert torch.equal(wrapped.logits(ids), normal)
    assert all("query_key_value" in name for name in refused)
    assert bool(refused) == (family in ("bloom", "gpt_neox", "falcon"))


def test_patches_between_states_of_a_bridge_carry_plain_names(ids: Tensor) -> None:
    """B2."""
    model = tiny_model("llama", attn="eager")
    wrapped = HookedModel(model.bridge())
    before = {name: value.clone() for name, value in wrapped.state().items()}
    wrapped.value_vectors(1)[3] = 0.0
    patch = WeightPatch.between(before, wrapped.state())
    assert model.weight_name("mlp.out", 1) in patch.deltas
    wanted = wrapped.logits(ids)
    plain = WeightPatch({model.weight_name("mlp.out", 1): patch.deltas[model.weight_name("mlp.out", 1)]})
    with Intervention(REMOVAL, weights=plain).applied(model) as view:
        assert error(view.logits(ids), wanted) < FLOAT32


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_baking_a_bridged_model_writes_hugging_face_names(family: str, ids: Tensor, tmp_path: Path) -> None:
    """B3: saving the wrapped module itself would write mangled keys."""
    model = tiny_model(family, attn="eager")
    wrapped = HookedModel(model.bridge())
    intervention = Intervention(REMOVAL, weights=model.value_patch({(1, 3): torch.zeros(32)}))
    intervention.bake(wrapped, tmp_path / "x")
    again = HookedModel.from_pretrained(tmp_path / "x", attn_implementation="eager")
    with intervention.applied(model) as view:
        assert torch.equal(again.logits(ids), view.logits(ids))


def test_a_model_inside_a_bridge_is_refused_without_it() -> None:
    """B5."""
    from transformer_lens.model_bridge import TransformerBridge

    native = tiny_hugging_face("llama", attn="eager")
    native.config.architectures = ["LlamaForCausalLM"]
    tokenizer = tiny_model().bridge().tokenizer
    bridge = TransformerBridge.boot_transformers("label", hf_model=native, tokenizer=tokenizer, device="cpu")
    with pytest.raises(VestigeError, match="a TransformerBridge was booted around this model and renamed its modules"):
        HookedModel(native, tiny_tokenizer())
    assert HookedModel(bridge).n_layers == 3


def test_a_bridge_with_folded_weights_is_refused() -> None:
    """R9: raw weights only."""
    bridge = tiny_model("gpt2", attn="eager").bridge()
    bridge.enable_compatibility_mode()
    with pytest.raises(VestigeError, match=r"folded weights \(enable_compatibility_mode\), and Vestige reads raw ones"):
        HookedModel(bridge)


def test_one_model_may_be_wrapped_twice(ids: Tensor) -> None:
    """B5: wrapping changes nothing, so two wrappers agree and do not see each other's edits."""
    native = tiny_hugging_face("llama")
    one, other = HookedModel(native, tiny_tokenizer()), HookedModel(native)
    normal = one.logits(ids)
    with Intervention(REMOVAL, edits={"resid_post.1": lambda a, hook: a * 0}).applied(one) as view:
        assert not torch.equal(view.logits(ids), normal)
        assert torch.equal(other.logits(ids), normal)


# PEFT adapters.


def lora_of(family: str, seed: int = 5, **settings: Any) -> Any:
    """A LoRA whose B is not zero, so that it acts."""
    import peft

    targets = {
        "llama": ["down_proj", "up_proj", "q_proj", "o_proj"],
        "gpt2": ["c_proj", "c_attn"],
        "phi3": ["qkv_proj", "gate_up_proj", "down_proj"],
    }
    config = peft.LoraConfig(
        **{"r": 2, "target_modules": targets[family], "task_type": "CAUSAL_LM", "lora_alpha": 8, **settings}
    )
    if family == "gpt2":
        config.fan_in_fan_out = True
    with torch.random.fork_rng(devices=[]):
        wrapped = peft.get_peft_model(tiny_hugging_face(family, attn="eager"), config).eval()
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return wrapped


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_an_adapter_is_part_of_every_site_and_every_weight(family: str, ids: Tensor) -> None:
    """Value vectors and projections include the delta, also where the adapted matrix is fused."""
    import copy

    wrapped = lora_of(family)
    model = HookedModel(wrapped, tiny_tokenizer())
    merged = HookedModel(copy.deepcopy(wrapped).merge_and_unload(), tiny_tokenizer())
    assert model.sites == merged.sites
    assert torch.equal(model.logits(ids), wrapped(ids).logits)
    logits, cache = model.run_with_cache(ids)
    wanted_logits, wanted = merged.run_with_cache(ids)
    assert error(logits, wanted_logits) < FLOAT32
    assert all(error(cache[site], wanted[site]) < FLOAT32 for site in model.sites)
    base = tiny_model(family, attn="eager")
    for i in range(3):
        assert error(model.value_vectors(i), merged.value_vectors(i)) < FLOAT32
        assert error(model.W_in(i), merged.W_in(i)) < FLOAT32
        assert error(model.value_vectors(i), base.value_vectors(i)) > 1e-3
        assert model.weight_name("mlp.out", i) == merged.weight_name("mlp.out", i)
    assert (
        error(
            model.run_with_hooks(ids, fwd_hooks=[("q.1", lambda a, hook: a * 2)]),
            merged.run_with_hooks(ids, fwd_hooks=[("q.1", lambda a, hook: a * 2)]),
        )
        < FLOAT32
    )
    assert model.generate(["t4 t5", "t6"], max_new_tokens=4) == merged.generate(["t4 t5", "t6"], max_new_tokens=4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_value_patch_under_an_adapter_sets_the_vector_that_is_in_force(family: str, ids: Tensor) -> None:
    """B7: under Hugging Face names; base weight and adapter are restored bit by bit."""
    model = HookedModel(lora_of(family), tiny_tokenizer())
    before = {name: value.clone() for name, value in model.state().items()}
    patch = model.value_patch({(1, 3): torch.zeros(32)})
    assert list(patch.deltas) == [tiny_model(family).weight_name("mlp.out", 1)]
    with Intervention(REMOVAL, weights=patch).applied(model) as view:
        assert float(view.value_vectors(1)[3].abs().max()) < 1e-6
        _, cache = view.run_with_cache(ids, names_filter=["mlp_post.1", "mlp_out.1"])
        out = cache["mlp_post", 1] @ view.value_vectors(1)
        bias = 0 if family == "llama" else view.state()["base_model.model.transformer.h.1.mlp.c_proj.base_layer.bias"]
        assert error(out + bias, cache["mlp_out", 1]) < FLOAT32
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())


def test_an_adapter_that_is_off_or_merged_is_read_so(ids: Tensor) -> None:
    wrapped = lora_of("llama")
    model, base = HookedModel(wrapped), tiny_model("llama")
    with wrapped.disable_adapter():
        assert torch.equal(model.value_vectors(1), base.value_vectors(1))
        assert model.value_vectors(1).untyped_storage().data_ptr() in {
            p.untyped_storage().data_ptr() for p in wrapped.parameters()
        }
    live = model.value_vectors(1)
    wrapped.merge_adapter()
    assert error(model.value_vectors(1), live) < FLOAT32
    assert (
        error(model.run_with_cache(ids)[1]["mlp_out", 1], model.run_with_cache(ids)[1]["mlp_post", 1] @ live) < FLOAT32
    )


def test_an_adapter_that_is_no_delta_is_refused_for_weights_and_read_at_sites(ids: Tensor) -> None:
    wrapped = lora_of("llama", use_dora=True)
    model = HookedModel(wrapped)
    assert torch.equal(model.logits(ids), wrapped(ids).logits)
    with pytest.raises(VestigeError, match=r"the adapter 'default' .* is not a plain weight delta; merge it first"):
        model.value_vectors(1)


def test_an_adapter_on_the_unembedding_is_part_of_the_lens(ids: Tensor) -> None:
    model = HookedModel(lora_of("llama", target_modules=["lm_head"], lora_alpha=64))
    logits, cache = model.run_with_cache(ids)
    assert error(model.lens(cache["resid_post", -1]), logits) < FLOAT32
    assert error(cache["final"] @ model.W_U, logits) < FLOAT32
    assert error(cache["final"] @ tiny_model("llama").W_U, logits) > 1e-3
    assert torch.equal(model.decoder.W_U, model.W_U)


def test_an_adapter_of_invented_positions_is_refused() -> None:
    import peft

    with torch.random.fork_rng(devices=[]):
        prompted = peft.get_peft_model(
            tiny_hugging_face("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        )
    with pytest.raises(VestigeError, match="prompt-learning adapters add positions"):
        HookedModel(prompted)


def test_an_adapted_model_is_not_baked(tmp_path: Path) -> None:
    model = HookedModel(lora_of("llama"))
    with pytest.raises(VestigeError, match="merge the adapter first"):
        Intervention(REMOVAL, weights=WeightPatch()).bake(model, tmp_path / "x")


# Other dtypes, other places.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_dtype_is_read_and_edited_in_it(dtype: torch.dtype, ids: Tensor) -> None:
    """B6: reported as the parameters have it; nothing is widened behind the caller's back."""
    model = tiny_model("llama", dtype=dtype)
    assert model.dtype == dtype
    logits, cache = model.run_with_cache(ids)
    assert torch.equal(logits, model.model(ids).logits)
    assert {cache[site].dtype for site in cache} == {dtype}
    for i in range(3):
        assert torch.equal(cache["resid_pre", i] + cache["attn_out", i], cache["resid_mid", i])
        assert torch.equal(cache["resid_mid", i] + cache["mlp_out", i], cache["resid_post", i])
    assert torch.equal(model.lens(cache["resid_post", -1]), logits)
    with Intervention(REMOVAL, edits={"resid_post.1": lambda a, hook: a * 0.5}).applied(model) as view:
        assert view.logits(ids).dtype == dtype
        assert len(view.generate_tokens("t4 t5", max_new_tokens=3, stop_at_eos=False)[0]) == 3
    _, grads = model.run_with_cache(ids, names_filter="resid_post.1", dtype=torch.float32)
    assert grads["resid_post", 1].dtype == torch.float32
    assert model(ids, return_type="loss").dtype == torch.float32


def test_weights_that_accelerate_holds_elsewhere_can_be_hooked_and_not_read(ids: Tensor) -> None:
    """A dispatched model runs as it is; reading or patching its weights says why it cannot."""
    import accelerate

    native = tiny_hugging_face("llama")
    wanted = HookedModel(tiny_hugging_face("llama")).run_with_cache(ids)
    model = HookedModel(accelerate.cpu_offload(native, execution_device=torch.device("cpu")), tiny_tokenizer())
    logits, cache = model.run_with_cache(ids)
    assert model.device == torch.device("cpu")
    assert (model.d_model, model.d_vocab, model.dtype) == (32, 99, torch.float32)
    assert torch.equal(logits, wanted[0])
    assert all(torch.equal(cache[site], wanted[1][site]) for site in wanted[1])
    assert model.generate("t4 t5", max_new_tokens=3) == tiny_model().generate("t4 t5", max_new_tokens=3)
    for read in (lambda: model.value_vectors(0), lambda: model.W_U, lambda: model.W_E):
        with pytest.raises(
            VestigeError, match="is offloaded; reading weights needs floating point parameters in memory"
        ):
            read()
    patch = WeightPatch({"model.layers.0.mlp.down_proj.weight": RowDelta(torch.tensor([0]), torch.ones(1, 48))})
    with pytest.raises(VestigeError, match="is offloaded"), patched(model.model, patch):
        pass


def test_a_dispatched_model_is_read_as_any_other(ids: Tensor) -> None:
    import accelerate

    native = accelerate.dispatch_model(tiny_hugging_face("llama"), device_map={"": "cpu"}, force_hooks=True)
    model = HookedModel(native)
    assert torch.equal(model.logits(ids), shared_model().logits(ids))
    with Intervention(REMOVAL, weights=model.value_patch({(1, 3): torch.zeros(32)})).applied(model) as view:
        assert not view.value_vectors(1)[3].any()


# What is no model.


class Other(nn.Module):
    config: Any = None


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (
            "gpt2",
            r"takes a loaded Hugging Face causal language model, got str; load one with HookedModel.from_pretrained",
        ),
        (nn.Linear(2, 2), r"got Linear; load one with .*, or use HookedModule for other modules"),
        (None, r"got NoneType"),
        (Other(), r"TransformerLens has no adapter for Other; the nearest it knows are .*; use HookedModule"),
    ],
)
def test_what_is_no_language_model_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        HookedModel(thing)


def test_models_that_are_no_decoders_are_refused_in_one_line() -> None:
    import transformers

    small = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    with torch.random.fork_rng(devices=[]):
        t5 = transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        )
        headless = transformers.LlamaModel(transformers.LlamaConfig(**small))
        classifier = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**small, pad_token_id=0))
    for wrong in (t5, headless, classifier):
        with pytest.raises(VestigeError) as caught:
            HookedModel(wrong)
        assert type(wrong).__name__ in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_compiled_model_is_refused_with_the_way_out() -> None:
    """I4: hooks are not traced into the graph, so an edit would silently do nothing."""
    compiled = torch.compile(tiny_hugging_face("llama"), backend="eager")
    with pytest.raises(
        VestigeError, match=r"hooks do not reach into a compiled model; pass the model as it was before"
    ):
        HookedModel(compiled)
