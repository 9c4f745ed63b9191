"""Models that come from elsewhere: loaded from a folder or handed over, and refused if their ids mean other tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, VestigeError
from interventions.decoding import Checkpoint, Loaded, logit_offset
from tests.contracts import assert_close
from tests.interventions.decoding.made import applied_logits, random_patch
from tests.numerics import FLOAT32, error
from tests.tiny import byte_tokenizer, random_ids, shared_model, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model on disk."""
    path = tmp_path_factory.mktemp("small") / "model"
    small = tiny_model("gpt2", seed=3)
    small.model.save_pretrained(path)  # type: ignore[operator]
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def ids(rng: torch.Generator) -> Tensor:
    return random_ids(rng)


def test_a_checkpoint_is_loaded_in_the_targets_dtype(folder: Path) -> None:
    target = tiny_model("llama", dtype=torch.float64)
    built = Checkpoint(str(folder)).build(target)
    assert built.dtype == torch.float64
    assert torch.equal(built.W_E, tiny_model("gpt2", seed=3).W_E.double())


def test_an_intervention_with_a_checkpoint_is_saved_by_name(folder: Path, ids: Tensor, tmp_path: Path) -> None:
    model = shared_model("llama")
    made = logit_offset(str(folder), Checkpoint(str(folder)), weight=2.0)
    made.save(tmp_path / "saved")
    loaded = Intervention.load(tmp_path / "saved")
    assert loaded.spec.settings["unlearned"] == str(folder)
    assert torch.equal(applied_logits(loaded, model, ids), applied_logits(made, model, ids))


def test_an_intervention_with_a_loaded_model_says_that_it_cannot_be_saved(tmp_path: Path) -> None:
    made = logit_offset(shared_model("gpt2"), shared_model("gpt2"))
    with pytest.raises(VestigeError, match=r"others\.0\.model is a 'HookedModel' without a data form"):
        made.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_offset_is_the_difference_of_two_models(ids: Tensor) -> None:
    model, small = shared_model("llama"), tiny_model("gpt2", dtype=torch.float32)
    patched = Intervention(logit_offset(small, small).spec, weights=random_patch(small))
    with torch.no_grad(), patched.applied(tiny_model("gpt2")) as view:
        made = logit_offset(view, small, weight=0.7)
        wanted = model.logits(ids) + 0.7 * (view.logits(ids) - small.logits(ids))
        assert (applied_logits(made, model, ids) - wanted).abs().max() < 1e-5
        assert error(applied_logits(logit_offset(small, small), model, ids), model.logits(ids)) < FLOAT32


def test_other_vocabularies_are_refused(ids: Tensor) -> None:
    model = shared_model("llama")
    for wrong in (
        Loaded(HookedModel(tiny_model("gpt2", vocab_size=120).model)),
        Loaded(tiny_model("gpt2", vocab_size=90)),
    ):
        width = wrong.model.d_vocab
        with pytest.raises(VestigeError, match=rf"'GPT2LMHeadModel' has {width} ids, 'LlamaForCausalLM' 99; .* same"):
            applied_logits(logit_offset(wrong, wrong), model, ids)
    foreign = tiny_model("gpt2", tokenizer=byte_tokenizer())
    with pytest.raises(VestigeError, match=r"'.*' has id \w+ in 'GPT2LMHeadModel' and \w+ in 'LlamaForCausalLM'"):
        applied_logits(logit_offset(foreign, foreign), model, ids)
    same = tiny_model("gpt2", tokenizer=tiny_tokenizer())
    assert Loaded(same).build(model) is same


@pytest.mark.parametrize("widths", [(104, 99, 99), (99, 104, 104), (104, 99, 110), (104, 110, 110)])
def test_padded_embeddings_are_combined_over_the_ids_that_all_have(widths: tuple[int, int, int], ids: Tensor) -> None:
    target, unlearned, original = (
        tiny_model(family, seed=seed, dtype=torch.float64, vocab_size=width)
        for seed, (family, width) in enumerate(zip(("llama", "gpt2", "gpt2"), widths, strict=True))
    )
    with torch.no_grad():
        z, u, o = (model.logits(ids) for model in (target, unlearned, original))
    shared = min(widths)
    got = applied_logits(logit_offset(unlearned, original, weight=0.7), target, ids)
    assert got.shape == z.shape
    assert_close(got[..., :shared], z[..., :shared] + 0.7 * (u[..., :shared] - o[..., :shared]))
    # Padding ids stay as likely as the target has them.
    wide, narrow = (x.softmax(-1)[..., shared:].sum(-1) for x in (z, got))
    assert_close(narrow, wide)
    nothing = applied_logits(logit_offset(unlearned, original, weight=0.0), target, ids)
    assert torch.equal(nothing, z)
    with logit_offset(unlearned, original, weight=0.7, cutoff=0.1).applied(target) as view:
        cached, whole = (
            view.generate_tokens(["t5 t6", "t7"], max_new_tokens=4, use_cache=use) for use in (True, False)
        )
    assert cached == whole


def test_a_folder_that_is_none_is_named(ids: Tensor, tmp_path: Path) -> None:
    with pytest.raises(VestigeError, match="nowhere' is not a folder with a Hugging Face checkpoint"):
        applied_logits(logit_offset(str(tmp_path / "nowhere"), shared_model("gpt2")), shared_model("llama"), ids)


def test_a_cutoff_of_an_offset_is_checked() -> None:
    with pytest.raises(VestigeError, match="a cutoff is a fraction above 0 and at most 1, got 2"):
        logit_offset("a", "b", cutoff=2)


def test_a_weight_of_an_offset_is_a_number() -> None:
    with pytest.raises(VestigeError, match="weight is a finite number, got inf"):
        logit_offset("a", "b", weight=float("inf"))
