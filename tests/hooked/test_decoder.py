"""The way out of the residual stream: one norm, the model's own head, and a copy that later edits do not reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import Intervention, RowDelta, Spec, WeightPatch
from tests.numerics import FLOAT32, error
from tests.tiny import FAMILIES, shared_model, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_of_the_last_stream_is_the_logits(family: str, ids: Tensor) -> None:
    """R5, R6: the norm is applied exactly once, and soft caps and logit scales are kept."""
    model = shared_model(family)
    logits, cache = model.run_with_cache(ids)
    assert torch.equal(model.lens(cache["resid_post", -1]), logits)
    assert torch.equal(model.final_norm(cache["resid_post", -1]), cache["final"])
    assert torch.equal(model.unembed(cache["final"]), logits)
    twice = model.unembed(model.final_norm(cache["final"]))
    assert error(twice, logits) > 1e-3


def test_soft_caps_and_scales_are_those_of_the_config(ids: Tensor) -> None:
    """R6."""
    capped = shared_model("gemma2")
    _, cache = capped.run_with_cache(ids)
    bare = cache["logits"]
    assert error(capped.unembed(cache["final"]), 30.0 * torch.tanh(bare / 30.0)) < FLOAT32
    assert error(capped.unembed(cache["final"]), bare) > 1e-3
    scaled = shared_model("granite")
    _, cache = scaled.run_with_cache(ids)
    assert error(scaled.unembed(cache["final"]), cache["logits"] / 4.0) < FLOAT32


def test_the_lens_takes_any_leading_axes_and_fires_nobodys_hooks(ids: Tensor) -> None:
    model = tiny_model()
    calls: list[str] = []
    for module in (model.model.model.norm, model.model.lm_head):
        module.register_forward_hook(lambda m, a, o: calls.append(type(m).__name__))
    _, cache = model.run_with_cache(ids, names_filter="resid_post.0", stop_at_layer=1)
    resid = cache["resid_post", 0]
    whole = model.lens(resid)
    assert calls == []
    assert whole.shape == (2, 7, 99)
    assert error(model.lens(resid[1, 3]), whole[1, 3]) < FLOAT32
    assert error(model.lens(resid.flatten(0, 1)), whole.flatten(0, 1)) < FLOAT32


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_frozen_decoder_is_not_reached_by_later_edits(family: str, ids: Tensor) -> None:
    """The lens on an unlearned model reads with the original's decoder."""
    model = tiny_model(family)
    frozen, live = model.decoder.frozen(), model.decoder
    _, cache = model.run_with_cache(ids, names_filter="resid_post.1")
    resid = cache["resid_post", 1]
    before = frozen.lens(resid)
    assert torch.equal(before, live.lens(resid))
    name = model.weight_name("unembed")
    patch = WeightPatch({name: RowDelta(torch.tensor([5]), torch.ones(1, 32))}, tied=True)
    with Intervention(Spec("x", "removal"), weights=patch).applied(model):
        assert torch.equal(frozen.lens(resid), before)
        changed = live.lens(resid) != before
        assert changed.any(0).any(0).nonzero().flatten().tolist() == [5]
    assert torch.equal(live.W_U, model.W_U)
    assert live.W_U.untyped_storage().data_ptr() != frozen.W_U.untyped_storage().data_ptr()


def test_modes_are_compared_by_log_probabilities(ids: Tensor) -> None:
    """R9: TransformerLens' folded weights shift all logits of a position together; Vestige only reads raw weights."""
    model = shared_model("gpt2", "eager")
    bridge: Any = model.bridge()
    bridge.enable_compatibility_mode()
    folded, raw = bridge(ids), model.logits(ids)
    assert error(folded.log_softmax(-1), raw.log_softmax(-1)) < 10 * FLOAT32
    assert error(folded, raw) > 1e-3
