"""The cache as a mapping from site to activation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, VestigeError


def test_the_cache_is_indexed_as_in_transformer_lens(model: HookedModel, ids: Tensor) -> None:
    """Peers 1.1."""
    _, cache = model.run_with_cache(ids)
    last = cache["blocks.2.hook_resid_post"]
    for key in ("resid_post.2", ("resid_post", 2), ("resid_post", -1), "blocks.2.hook_out", "model.layers.2.output"):
        assert cache[key] is last
        assert key in cache
    assert cache["post", 1, "mlp"] is cache["mlp_post", 1]
    assert list(cache) == list(model.sites)
    assert len(cache) == 39
    assert "39 sites" in repr(cache)


def test_a_site_that_was_not_recorded_is_an_error_that_lists_what_was(model: HookedModel, ids: Tensor) -> None:
    _, cache = model.run_with_cache(ids, names_filter=["resid_post.0", "z.1"])
    with pytest.raises(VestigeError, match=r"'blocks.1.hook_resid_post' was not recorded; recorded sites are blocks.0"):
        cache["resid_post", 1]
    with pytest.raises(VestigeError, match="did you mean"):
        cache["blocks.0.hook_resid_pos"]
    assert ("resid_post", 1) not in cache
    assert "nonsense" not in cache
    assert 7 not in cache


def test_one_kind_of_site_stacks_over_layers(model: HookedModel, ids: Tensor) -> None:
    _, cache = model.run_with_cache(ids)
    stacked = cache.stack("resid_post")
    assert stacked.shape == (3, 2, 7, 32)
    assert torch.equal(stacked[1], cache["resid_post", 1])


def test_the_batch_axis_goes_only_from_a_single_prompt(model: HookedModel, ids: Tensor) -> None:
    _, cache = model.run_with_cache(ids[:1], remove_batch_dim=True)
    assert cache["resid_post", 0].shape == (7, 32)
    assert cache["z", 0].shape == (7, 4, 8)
    with pytest.raises(VestigeError, match="has 2 rows"):
        model.run_with_cache(ids, remove_batch_dim=True)


def test_iterating_over_the_cache_gives_the_order_that_was_asked_for(model: HookedModel, ids: Tensor) -> None:
    wanted = ["blocks.2.hook_resid_post", "hook_embed", "blocks.0.attn.hook_z"]
    assert list(model.run_with_cache(ids, names_filter=wanted)[1]) == wanted
