"""Subjects: their names, what they are opened as, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hooked import HookedModel, Intervention, Spec, VestigeError
from interventions import ablate_vectors
from tests.tiny import shared_model, tiny_hugging_face, tiny_model, tiny_tokenizer
from tests.vestige.facts import fingerprint, saved_model
from vestige.result import SubjectInfo
from vestige.subjects import Source, describe, opened


def named(*sources: Source) -> list[str]:
    taken: set[str] = set()
    return [describe(source, "unlearned", taken=taken)[0].name for source in sources]


def zeroing(model: HookedModel) -> Intervention:
    return ablate_vectors(model, [(0, 1)], mode="zero")


def test_names_come_from_the_method_the_folder_or_the_model_and_are_unique(tmp_path: Path) -> None:
    model = shared_model("gpt2")
    edit = zeroing(model)
    edit.save(tmp_path / "saved")
    folder = saved_model(tmp_path / "tuned")
    names = named(edit, tmp_path / "saved", str(folder), folder, model, edit)
    assert names == ["ablate_vectors", "ablate_vectors-2", "tuned", "tuned-2", "GPT2LMHeadModel", "ablate_vectors-3"]


def test_a_suffix_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    first, second = saved_model(tmp_path / "a" / "m"), saved_model(tmp_path / "m-2")
    assert named(second, first, first) == ["m-2", "m", "m-3"]


def test_info_carries_claim_and_source(tmp_path: Path) -> None:
    edit = zeroing(shared_model("gpt2"))
    edit.save(tmp_path / "saved")
    info, source = describe(tmp_path / "saved", "unlearned", taken=set())
    assert isinstance(source, Intervention)
    assert (info.kind, info.intent) == ("unlearned", "removal")
    assert edit.spec.source in info.source
    assert str(tmp_path / "saved") in info.source


def test_a_folder_with_neither_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(VestigeError, match=r"config\.json.*intervention\.json"):
            describe(place, "unlearned", taken=set())


def test_an_open_intervention_shows_the_view_and_the_bare_weights_and_restores_them() -> None:
    model = tiny_model("gpt2")
    before = fingerprint(model)
    info = SubjectInfo("x", "unlearned")
    with opened(info, zeroing(model), original=model) as subject:
        assert not subject.model.value_vectors(0)[1].any()
        assert not subject.raw.value_vectors(0)[1].any()
        assert subject.raw is not subject.model
    assert fingerprint(model) == before
    with pytest.raises(RuntimeError, match="stop"), opened(info, zeroing(model), original=model):
        raise RuntimeError("stop")
    assert fingerprint(model) == before


def test_bare_weights_are_without_edits() -> None:
    model = shared_model("gpt2")
    quiet = Intervention(Spec("quiet", "suppression"), edits={"blocks.1.hook_mlp_out": lambda acts, hook: acts * 0})
    batch = model.tokenize(["t5 t6 t7"])
    with opened(SubjectInfo("x", "unlearned"), quiet, original=model) as subject, torch.no_grad():
        assert torch.equal(subject.raw.logits(batch), model.logits(batch))
        assert not torch.equal(subject.model.logits(batch), model.logits(batch))


def test_a_view_given_as_a_model_has_its_own_bare_weights() -> None:
    model = shared_model("gpt2")
    with (
        zeroing(model).applied(model) as view,
        opened(SubjectInfo("x", "unlearned"), view, original=model) as subject,
    ):
        assert subject.model is view
        assert subject.raw is view.raw


def test_a_folder_is_loaded_in_the_originals_dtype(tmp_path: Path) -> None:
    folder, original = saved_model(tmp_path / "m"), tiny_model("gpt2", dtype=torch.bfloat16)
    with opened(SubjectInfo("m", "unlearned"), folder, original=original) as subject:
        assert subject.model.dtype == torch.bfloat16
        assert subject.raw is subject.model


def test_a_folder_without_tokenizer_is_asked_in_the_originals_tokens(tmp_path: Path) -> None:
    folder, original = saved_model(tmp_path / "m", tokenizer=False), shared_model("gpt2")
    with opened(SubjectInfo("m", "unlearned"), folder, original=original) as subject:
        assert subject.model.tokenizer is original.tokenizer


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"vocab_size": 100}, "a vocabulary of 100, the original one of 99"), ({"n_embd": 16}, "a residual stream of 16")],
)
def test_models_of_another_vocabulary_or_width_are_refused(changes: dict[str, int], reason: str) -> None:
    other = tiny_model("gpt2", **changes)
    with (
        pytest.raises(VestigeError, match=reason),
        opened(SubjectInfo("x", "never"), other, original=shared_model("gpt2")),
    ):
        pass


def test_another_tokenizer_of_the_same_size_is_refused_and_another_padding_token_is_not() -> None:
    original, info = shared_model("gpt2"), SubjectInfo("x", "never")
    with opened(info, HookedModel(tiny_hugging_face("gpt2"), tiny_tokenizer(pad=False)), original=original):
        pass
    swapped = tiny_tokenizer()
    core = swapped.backend_tokenizer
    words = core.get_vocab()
    words["t7"], words["t8"] = words["t8"], words["t7"]
    core.model = type(core.model)(words, unk_token="t3")
    with (
        pytest.raises(VestigeError, match="other tokens than the original's"),
        opened(info, HookedModel(tiny_hugging_face("gpt2"), swapped), original=original),
    ):
        pass
