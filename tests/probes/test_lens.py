"""The lens: normalised once at every layer, blind to padding and batching, and fixed when its decoder is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, Item, Spec, TokenBatch, VestigeError, WeightPatch
from probes import lens_floor, logit_lens
from tests.probes.conftest import LargestTensor, assert_same_bits, bits
from tests.tiny import shared_model, tiny_hugging_face, tiny_model, tiny_tokenizer

FAMILIES = ["gpt2", "llama", "gemma2"]
ITEMS = (
    Item("t5 t6 t7", "t8"),
    Item("t9", "t10 t11"),
    Item("t12 t13 t14 t15 t16 t17", "t18"),
    Item("t20 t21", "t22 t23 t24"),
    Item("t30 t31 t32", "t5"),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_the_model_itself(family: str) -> None:
    # Gemma-2 caps its logits, so a lens that forgot the cap would be off by several nats.
    model = shared_model(family)
    found = logit_lens(model, ITEMS)
    for i, item in enumerate(ITEMS):
        batch = model.tokenize(item.prompt)
        log_p = model.logits(batch)[0, -1].detach().float().log_softmax(-1)
        target = int(model.to_tokens(item.answer, prepend_bos=False)[0, 0])
        assert found.targets[i] == target
        torch.testing.assert_close(found.log_prob[-1, i], log_p[target], rtol=0, atol=1e-5)
        assert found.rank[-1, i] == (log_p > log_p[target]).sum()
    assert found.sites == tuple(f"blocks.{i}.hook_resid_post" for i in range(3))


def test_the_last_layer_is_bitwise_the_models_logits() -> None:
    model = shared_model("llama")
    batch = model.tokenize([item.prompt for item in ITEMS], answers=[item.answer for item in ITEMS])
    with torch.no_grad():
        rows = torch.arange(len(batch))
        resid = model.run_with_cache(batch, names_filter="blocks.2.hook_resid_post")[1]["resid_post", 2]
        log_p = model.lens(resid[rows, batch.prompt_last]).log_softmax(-1)
    found = logit_lens(model, batch)
    assert torch.allclose(found.log_prob[-1], log_p[rows, found.targets], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_normalised_exactly_once(family: str) -> None:
    hf = tiny_hugging_face(family)
    model = HookedModel(hf, tiny_tokenizer())
    blocks, norm = (hf.transformer.h, hf.transformer.ln_f) if family == "gpt2" else (hf.model.layers, hf.model.norm)
    kept: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, out: kept.append(out if isinstance(out, Tensor) else out[0]))
        for block in blocks
    ]
    ids = model.tokenize(ITEMS[2].prompt).ids
    with torch.no_grad():
        hf(ids)
    for handle in handles:
        handle.remove()
    found = logit_lens(model, [ITEMS[2]])
    for layer, resid in enumerate(kept):
        with torch.no_grad():
            logits = hf.lm_head(norm(resid[0, -1]))
            if family == "gemma2":
                cap = hf.config.final_logit_softcapping
                logits = cap * torch.tanh(logits / cap)
        torch.testing.assert_close(found.log_prob[layer, 0], logits.log_softmax(-1)[18], rtol=0, atol=1e-5)
        twice = norm(norm(resid[0, -1])).detach()
        assert not torch.allclose(twice, norm(resid[0, -1]), atol=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, "bloom", "gpt_neox"])
def test_padding_and_batching_change_nothing(family: str) -> None:
    model = shared_model(family)
    prompts, answers = [item.prompt for item in ITEMS], [item.answer for item in ITEMS]
    alone = [logit_lens(model, [item]) for item in ITEMS]
    expected = torch.cat([one.log_prob for one in alone], 1), torch.cat([one.rank for one in alone], 1)
    readings = [logit_lens(model, ITEMS, batch_size=n) for n in (1, 2, 64)]
    readings += [
        logit_lens(model, model.tokenize(prompts, answers=answers, padding_side=side)) for side in ("left", "right")
    ]
    readings.append(logit_lens(model, model.tokenize(prompts), targets=readings[0].targets))
    for found in readings:
        torch.testing.assert_close(found.log_prob, expected[0], rtol=0, atol=1e-4)
        assert torch.equal(found.rank, expected[1])


def test_a_fixed_decoder_does_not_see_an_edited_unembedding() -> None:
    original, unlearned = tiny_model("llama"), tiny_model("llama")
    before = logit_lens(unlearned, ITEMS)
    with torch.no_grad():
        unlearned.model.lm_head.weight.zero_()
        unlearned.model.model.norm.weight.mul_(-3.0)
    own = logit_lens(unlearned, ITEMS)
    fixed = logit_lens(unlearned, ITEMS, decoder=original)
    assert torch.equal(fixed.log_prob, before.log_prob)
    assert torch.equal(fixed.rank, before.rank)
    assert not torch.allclose(own.log_prob, before.log_prob, atol=0.1)
    # A constant output puts every target in the middle, never first.
    assert set(own.rank.flatten().tolist()) == {49.0}


def test_a_frozen_decoder_reads_like_its_model() -> None:
    model = tiny_model("gemma2")
    frozen = model.decoder.frozen()
    before = logit_lens(model, ITEMS)
    patch = WeightPatch.between({"model.norm.weight": torch.zeros(32)}, {"model.norm.weight": torch.ones(32)})
    with Intervention(Spec("edit", intent="removal"), weights=patch).applied(model) as view:
        assert torch.equal(logit_lens(view, ITEMS, decoder=frozen).log_prob, before.log_prob)
        assert not torch.equal(logit_lens(view, ITEMS).log_prob, before.log_prob)


def test_an_edit_of_the_last_block_leaves_earlier_layers_bit_equal() -> None:
    model = tiny_model("llama")
    before = logit_lens(model, ITEMS)
    zero = {(2, n): torch.zeros(model.d_model) for n in range(model.d_mlp)}
    with Intervention(Spec("edit", intent="removal"), weights=model.value_patch(zero)).applied(model) as view:
        after = logit_lens(view, ITEMS)
    assert torch.equal(after.log_prob[:2], before.log_prob[:2])
    assert not torch.equal(after.log_prob[2], before.log_prob[2])


def test_edits_of_a_view_are_seen_and_logit_edits_are_not() -> None:
    model = shared_model("llama")
    plain = logit_lens(model, ITEMS)

    def double(activation: Tensor, hook: HookContext) -> Tensor:
        return activation + activation.roll(1, -1)

    def flat(logits: Tensor, request: object) -> Tensor:
        return torch.zeros_like(logits)

    edited = Intervention(Spec("edit", intent="suppression"), edits={"blocks.1.hook_resid_post": double})
    hidden = Intervention(Spec("hide", intent="suppression"), logits=flat)
    with edited.applied(model) as view:
        found = logit_lens(view, ITEMS)
    assert torch.equal(found.log_prob[0], plain.log_prob[0])
    assert not torch.allclose(found.log_prob[1], plain.log_prob[1])
    with hidden.applied(model) as view:
        assert torch.equal(logit_lens(view, ITEMS).log_prob, plain.log_prob)


def test_rank_counts_the_tokens_ahead_and_half_of_the_ties() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.W_E[40:45] = model.W_E[40]
    batch = model.tokenize("t50 t51")
    found = logit_lens(model, batch, targets=torch.tensor([42]), layers=[2])
    logits = model.logits(batch)[0, -1].detach()
    assert found.rank.item() == int((logits > logits[42]).sum()) + 2.0


def test_sites_and_layers_can_be_chosen() -> None:
    model = shared_model("gpt2")
    everything = logit_lens(model, ITEMS)
    some = logit_lens(model, ITEMS, layers=[-1, 0])
    assert torch.equal(some.log_prob, everything.log_prob[[2, 0]])
    assert some.sites == ("blocks.2.hook_resid_post", "blocks.0.hook_resid_post")
    # The stream that leaves one block enters the next.
    entering = logit_lens(model, ITEMS, site="resid_pre")
    assert torch.equal(entering.log_prob[1:], everything.log_prob[:2])
    assert logit_lens(model, ITEMS, site="mlp_out").sites[1] == "blocks.1.hook_mlp_out"


def test_logits_exist_for_one_layer_of_one_batch_at_one_position() -> None:
    # A vocabulary that dwarfs everything else in the model.
    model = tiny_model("llama", vocab_size=5000)
    items = [Item("t5 t6 t7 t8 t9 t10 t11", "t12")] * 12
    with LargestTensor() as seen:
        logit_lens(model, items, batch_size=4)
    assert seen.numel <= 4 * 5000
    with LargestTensor() as seen, torch.no_grad():
        model.logits(model.tokenize([item.prompt for item in items[:4]]))
    assert seen.numel == 4 * 8 * 5000


def test_the_floor_reads_other_rows_targets() -> None:
    model = shared_model("llama")
    floor = lens_floor(model, ITEMS, permutations=25, seed=1)
    assert floor.log_prob.shape == floor.rank.shape == (3, 25, len(ITEMS))
    assert floor.sites == logit_lens(model, ITEMS).sites
    batch = model.tokenize([item.prompt for item in ITEMS])
    targets = logit_lens(model, ITEMS).targets
    # By hand: what each row says of each target.
    columns = [logit_lens(model, batch, targets=target.repeat(len(ITEMS))).log_prob for target in targets]
    table = torch.stack(columns, -1)
    for layer in range(3):
        for permutation in floor.log_prob[layer]:
            used = (table[layer] - permutation[:, None]).abs().argmin(-1)
            assert sorted(used.tolist()) == list(range(len(ITEMS)))
            torch.testing.assert_close(table[layer].gather(-1, used[:, None])[:, 0], permutation, rtol=0, atol=1e-4)
    again = lens_floor(model, ITEMS, permutations=25, seed=1)
    assert torch.equal(again.log_prob, floor.log_prob)
    assert not torch.equal(lens_floor(model, ITEMS, permutations=25).log_prob, floor.log_prob)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_model_knows_nothing(seed: int) -> None:
    model = tiny_model("llama", seed=seed)
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 99, (60, 4), generator=rng)
    items = [Item(" ".join(f"t{i}" for i in row[:3].tolist()), f"t{int(row[3])}") for row in ids]
    found = logit_lens(model, items).log_prob.mean(-1)
    floor = lens_floor(model, items, permutations=100).log_prob.mean(-1)
    for layer in range(model.n_layers):
        share = float((floor[layer] >= found[layer]).float().mean())
        assert 0.005 < share < 0.995


def test_constant_answers_are_all_floor() -> None:
    items = [Item(f"t{i} t{i + 1}", "t60") for i in range(5, 15)]
    floor, found = lens_floor(shared_model("llama"), items), logit_lens(shared_model("llama"), items)
    assert torch.equal(floor.rank, found.rank[:, None].expand_as(floor.rank))


def test_reading_changes_nothing() -> None:
    model = tiny_model("gpt2")
    before = bits(model)
    first = logit_lens(model, ITEMS)
    assert torch.equal(first.log_prob, logit_lens(model, ITEMS).log_prob)
    assert_same_bits(model, before)
    assert not first.log_prob.requires_grad


def test_half_precision_residuals_are_read_by_a_float_decoder() -> None:
    exact, rough = tiny_model("llama"), tiny_model("llama", dtype=torch.bfloat16)
    found = logit_lens(rough, ITEMS, decoder=exact)
    torch.testing.assert_close(found.log_prob, logit_lens(exact, ITEMS).log_prob, rtol=0, atol=0.5)


def test_errors() -> None:
    model = shared_model("llama")
    with pytest.raises(VestigeError, match="at least one row"):
        logit_lens(model, [])
    with pytest.raises(VestigeError, match=r"row 1 has no answer, so the lens has no target; give targets="):
        logit_lens(model, [ITEMS[0], Item("t5", "")])
    with pytest.raises(VestigeError, match=r"targets are 2 token ids, got torch.int64 of shape \(1,\)"):
        logit_lens(model, ITEMS[:2], targets=torch.tensor([4]))
    with pytest.raises(VestigeError, match="outside the decoder's vocabulary of 99 tokens"):
        logit_lens(model, ITEMS[:1], targets=torch.tensor([99]))
    with pytest.raises(VestigeError, match="the decoder has d_model 64, the model 32"):
        logit_lens(model, ITEMS, decoder=tiny_model("llama", hidden_size=64))
    with pytest.raises(VestigeError, match=r"no site 'blocks.3.hook_resid_post'"):
        logit_lens(model, ITEMS, layers=[3])
    with pytest.raises(VestigeError, match="at least 20 permutations of at least 2 rows, got 19 of 5"):
        lens_floor(model, ITEMS, permutations=19)
    with pytest.raises(VestigeError, match="got 20 of 1"):
        lens_floor(model, ITEMS[:1])
    bare = HookedModel(model.model, model.tokenizer, default_prepend_bos=False)
    with pytest.raises(VestigeError, match="row 0 has no prompt token"):
        logit_lens(bare, [Item("", "t5 t6")])


def test_a_diverged_model_is_refused_instead_of_ranked_first() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(VestigeError, match=r"the lens at 'blocks.1.hook_resid_post' gives NaN"):
        logit_lens(model, ITEMS)


def test_tokens_without_answers_take_targets() -> None:
    model = shared_model("llama")
    batch = model.tokenize(["t5 t6", "t7"])
    assert isinstance(batch, TokenBatch)
    assert logit_lens(model, batch, targets=torch.tensor([8, 9])).targets.tolist() == [8, 9]
