"""Names of sites: every spelling means one site, and a wrong one says what was meant."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from hooked import HookedModel, VestigeError
from tests.tiny import shared_model

SPELLINGS = {
    "blocks.1.hook_resid_pre": [
        "blocks.1.hook_in",
        "resid_pre.1",
        "resid_pre.-2",
        ("resid_pre", 1),
        ("resid_pre", -2),
        "model.layers.1.input",
    ],
    "blocks.1.hook_resid_mid": ["blocks.1.ln2.hook_in", "resid_mid.1", "model.layers.1.post_attention_layernorm.input"],
    "blocks.1.hook_resid_post": ["blocks.1.hook_out", "resid_post.1", ("resid_post", 1), "model.layers.1.output"],
    "blocks.1.hook_attn_out": ["blocks.1.attn.hook_out", "attn_out.1", "attn_raw.1", "model.layers.1.self_attn.output"],
    "blocks.1.hook_mlp_out": ["blocks.1.mlp.hook_out", "mlp_out.1", "mlp_raw.1", "model.layers.1.mlp.output"],
    "blocks.1.mlp.hook_pre": [
        "blocks.1.mlp.gate.hook_out",
        "mlp_pre.1",
        "pre.1",
        "model.layers.1.mlp.gate_proj.output",
    ],
    "blocks.1.mlp.hook_pre_linear": [
        "blocks.1.mlp.in.hook_out",
        "mlp_pre_linear.1",
        "model.layers.1.mlp.up_proj.output",
    ],
    "blocks.1.mlp.hook_post": [
        "blocks.1.mlp.out.hook_in",
        "mlp_post.1",
        "post.1",
        "model.layers.1.mlp.down_proj.input",
    ],
    "blocks.1.attn.hook_q": ["blocks.1.attn.q.hook_out", "q.1", "model.layers.1.self_attn.q_proj.output"],
    "blocks.1.attn.hook_z": ["blocks.1.attn.o.hook_in", "z.1", "model.layers.1.self_attn.o_proj.input"],
    "blocks.1.attn.hook_pattern": ["pattern.1", ("pattern", 1)],
    "hook_embed": ["embed.hook_out", "embed", "model.embed_tokens.output"],
    "ln_final.hook_out": ["final", "model.norm.output"],
    "unembed.hook_out": ["logits", "lm_head.output"],
}


@pytest.mark.parametrize(("canonical", "spelling"), [(c, s) for c, others in SPELLINGS.items() for s in [c, *others]])
def test_every_spelling_means_the_canonical_site(model: HookedModel, canonical: str, spelling: Any) -> None:
    """C5, peers 1.2: short, tuple, legacy, bridge-native and Hugging Face names."""
    assert model.site_map.resolve(spelling) == canonical


@pytest.mark.parametrize("canonical", [name for name in SPELLINGS if "pattern" not in name])
def test_the_tap_is_the_module_that_hugging_face_runs(model: HookedModel, canonical: str) -> None:
    tap = model.site_map.tap(canonical)
    assert isinstance(model.model.get_submodule(tap.module), nn.Module)
    assert canonical in model.sites


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("blocks.9.hook_resid_posst", r"'blocks.9.hook_resid_posst' in a 3-layer LlamaForCausalLM; did you mean"),
        ("blocks.1.hook_resid_posst", r"did you mean 'blocks.1.hook_resid_post'\? \(layers are 0 to 2\)"),
        ("blocks.3.hook_resid_post", r"no site 'blocks.3.hook_resid_post' .* \(layers are 0 to 2\)"),
        ("resid_post.3", r"no site 'blocks.3.hook_resid_post'"),
        (("resid_post", -4), r"layers are 0 to 2"),
        ("resid_post", r"site kind 'resid_post' needs a layer, e.g. 'resid_post.0' \(layers are 0 to 2\)"),
        (("resid", 1), r"no site kind 'resid'; kinds are embed, final, .*resid_pre"),
        ("model.layers.1.outputs", r"no site 'model.layers.1.outputs'"),
        ("", r"no site ''"),
        (("resid_post", "1"), r"a site is a string or a pair such as \('resid_post', 5\)"),
        (7, r"a site is a string or a pair"),
        (None, r"a site is a string or a pair"),
    ],
)
def test_a_wrong_site_says_what_exists(model: HookedModel, site: Any, message: str) -> None:
    """C12."""
    with pytest.raises(VestigeError, match=message) as caught:
        model.site_map.resolve(site)
    assert "\n" not in str(caught.value)


# Names of TransformerLens that exist there, some of them switched off, and that the native forward does not compute.
ABSENT = [
    ("llama", "blocks.0.attn.hook_attn_scores", "never materialises"),
    ("llama", "blocks.0.ln1.hook_normalized", "never materialises"),
    ("llama", "hook_pos_embed", "no batch axis"),
    ("llama", "blocks.0.hook_mlp_in", "no site"),
    ("llama", "blocks.0.attn.hook_result", "no site"),
    ("gpt2", "blocks.0.mlp.hook_pre_linear", "not gated"),
    ("gpt_neox", "blocks.0.hook_resid_mid", "parallel"),
    ("granite", "blocks.0.hook_mlp_out", "rescaled"),
]


@pytest.mark.parametrize(("family", "site", "reason"), ABSENT)
def test_an_absent_site_gives_its_reason_on_read_and_on_write(ids: Tensor, family: str, site: str, reason: str) -> None:
    """C11."""
    model = shared_model(family)
    with pytest.raises(VestigeError, match=reason):
        model.run_with_cache(ids, names_filter=site)
    with pytest.raises(VestigeError, match=reason):
        model.run_with_hooks(ids, fwd_hooks=[(site, lambda a, hook: a)])
    with pytest.raises(VestigeError, match=reason), model.hooks([(site, lambda a, hook: a)]):
        pass


def test_an_absent_kind_in_a_layer_that_does_not_exist_is_about_the_layer() -> None:
    with pytest.raises(VestigeError, match="layers are 0 to 2"):
        shared_model("gpt_neox").site_map.resolve("blocks.7.hook_resid_mid")


def test_patterns_are_read_and_not_edited(ids: Tensor) -> None:
    model = shared_model("llama", "eager")
    assert model.run_with_cache(ids, names_filter="pattern.1")[1]["pattern", 1].shape == (2, 4, 7, 7)
    with pytest.raises(VestigeError, match="can be read but not edited"):
        model.run_with_hooks(ids, fwd_hooks=[("pattern.1", lambda a, hook: a)])


def test_patterns_of_fused_attention_name_the_implementation_that_has_them(ids: Tensor) -> None:
    with pytest.raises(VestigeError, match="attn_implementation='eager'"):
        shared_model("llama", "sdpa").run_with_cache(ids, names_filter="pattern.1")


def test_a_predicate_is_asked_about_patterns_only_where_they_exist(ids: Tensor) -> None:
    """Filters such as `lambda n: "attn" in n` work with every attention implementation."""

    def attention(name: str) -> bool:
        return name.startswith("blocks.1.attn.")

    fused = shared_model("llama", "sdpa").run_with_cache(ids, names_filter=attention)[1]
    eager = shared_model("llama", "eager").run_with_cache(ids, names_filter=attention)[1]
    assert set(eager) - set(fused) == {"blocks.1.attn.hook_pattern"}
    assert set(fused) == {f"blocks.1.attn.hook_{part}" for part in "qkvz"}


def test_parts_of_a_block_name_what_exists(model: HookedModel) -> None:
    assert model.block_part(1, "mlp.out") == "model.layers.1.mlp.down_proj"
    assert model.weight_name("attn.o", -1) == "model.layers.2.self_attn.o_proj.weight"
    with pytest.raises(VestigeError, match=r"no layer 3 in a 3-layer LlamaForCausalLM \(layers are 0 to 2\)"):
        model.block_part(3, "mlp.out")
    with pytest.raises(VestigeError, match=r"have no part .mlp.up.; parts are attn, attn\.k"):
        model.block_part(0, "mlp.up")
    with pytest.raises(VestigeError, match="no part 'norm' outside the blocks"):
        model.weight_name("norm")
    for read in (model.value_vectors, model.W_in, model.W_gate):
        with pytest.raises(VestigeError, match="no layer -4"):
            read(-4)
