"""Cells: theorems of identity, which positions are whose, padding, and the control beside the effect."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, VestigeError
from tests.tiny import BOS, shared_model, tiny_model
from tests.vestige.intrinsic.conftest import ITEMS
from tests.vestige.intrinsic.test_patching import Noise, noisy, patched
from tests.vestige.intrinsic.test_spans import bytes_model
from vestige.intrinsic.cells import COMPONENTS, CellFalls, Tracing, sites_of
from vestige.intrinsic.depth import depth
from vestige.intrinsic.positions import POSITIONS, columns_of
from vestige.intrinsic.spans import answer_spans
from vestige.intrinsic.where import Where, where
from vestige.located import located
from vestige.result import SubjectInfo
from vestige.subjects import Source, opened

BLOCK, ANSWER = COMPONENTS.index("block"), POSITIONS.index("answer")


@cache
def named() -> tuple[Item, ...]:
    """Questions of equal length about six subjects, with what the original says to them as their answers."""
    model = shared_model("llama")
    prompts = [f"t3 t{n} t5 t6 t{n + 1} t8" for n in range(40, 46)]
    said = list(prompts)
    for _ in range(2):
        best = model.logits(said)[:, -1, 3:].argmax(-1) + 3
        said = [f"{text} t{int(token)}" for text, token in zip(said, best, strict=True)]
    return tuple(
        Item(prompt, text.removeprefix(f"{prompt} "), subject=" ".join(prompt.split()[1:4]))
        for prompt, text in zip(prompts, said, strict=True)
    )


def traced(
    source: Source, original: HookedModel, items: tuple[Item, ...] | None = None, *, batch_size: int = 32
) -> CellFalls:
    """Read and patch one subject as the audit does."""
    tracing = Tracing(original, named() if items is None else items, batch_size=batch_size)
    with opened(SubjectInfo("x", "unlearned"), source, original=original) as subject:
        states = tracing.read(subject)
    assert states is not None
    return tracing.falls(states)


@pytest.fixture(scope="module")
def falls(original: HookedModel, retrained: HookedModel, unlearned: HookedModel) -> dict[str, CellFalls]:
    return {
        "original": traced(original, original),
        "anchor": traced(retrained, original),
        "other": traced(unlearned, original),
    }


def mapped(anchor: CellFalls, subject: CellFalls, control: CellFalls | None = None) -> Where:
    found = where(anchor, subject, control=control)
    assert isinstance(found, Where)
    return found


def test_positions_of_a_question() -> None:
    model = bytes_model()
    items = [Item("is Ada B. of", "x", subject="Ada B."), Item("Q: A and A?", "yz", subject="A"), Item("who?", "x")]
    spans = answer_spans(model, items)
    said = [
        {
            name: model.to_string([ids[c] for c in columns])
            for name, columns in zip(POSITIONS, own, strict=True)
            if columns
        }
        for own, ids in zip(columns_of(model, items, spans), spans.ids, strict=True)
    ]
    # One token per character; the answer follows a space, which is where it is predicted if the space is not its own.
    assert [s["answer"] for s in said] == [
        model.to_string([i[p] for p in o]) for i, o in zip(spans.ids, spans.places, strict=True)
    ]
    assert (said[0]["first"], said[0]["between"], said[0]["last"]) == ("A", "da B", ".")
    assert said[0]["rest"].startswith("is ")
    # Both mentions; a name of one token has no first.
    assert said[1]["last"] == "AA"
    assert not {"first", "between"} & set(said[1])
    assert set(said[2]) == {"rest", "answer"}


def test_every_column_before_the_last_place_has_one_name_and_bos_none(original: HookedModel) -> None:
    items = (*named(), Item("", "t7 t8 t9"), Item("t9 t8", "t7", subject="t8"))
    spans = answer_spans(original, items)
    for columns, ids, places in zip(columns_of(original, items, spans), spans.ids, spans.places, strict=True):
        flat = sorted(column for own in columns for column in own)
        assert flat == list(range(flat[0], places[-1] + 1))
        assert columns[ANSWER] == places
        # BOS is patched only where the answer is predicted from it.
        assert ids[0] == BOS
        assert (flat[0] == 0) == (places[0] == 0)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox", "granite"])
def test_a_models_own_cells_change_nothing(family: str) -> None:
    model = tiny_model(family)
    found = traced(model, model, named()[:2], batch_size=1)
    assert found.shape == (3, model.n_layers, len(POSITIONS), 2)
    assert not found.any()
    assert len({site for row in sites_of(model) for site in row}) == 3 * model.n_layers


def test_the_ends_of_the_scale(falls: dict[str, CellFalls]) -> None:
    mine, anchor = mapped(falls["anchor"], falls["original"]), mapped(falls["anchor"], falls["anchor"])
    assert not anchor.shares.any()
    assert not anchor.clear.any()
    # The original keeps all that its cells carry, and the strongest block output all there is.
    assert mine.shares[BLOCK, :, ANSWER].max() == 1
    carried = np.where(falls["anchor"] > 0.05, falls["anchor"], 0).mean(-1)
    assert mine.shares == pytest.approx(carried / mine.whole)
    assert mine.shares[0].max() > 0
    assert (mine.low <= mine.shares).all()
    assert (mine.shares <= mine.high).all()


def test_block_outputs_where_the_answer_is_predicted_are_the_depth_score(
    falls: dict[str, CellFalls], original: HookedModel, retrained: HookedModel, unlearned: HookedModel
) -> None:
    spans = answer_spans(original, named())
    d1, d2 = (patched(model, original, spans).view for model in (retrained, unlearned))
    assert falls["anchor"][BLOCK, :, ANSWER] == pytest.approx(d1, abs=1e-5)
    mine, other = (mapped(falls["anchor"], falls[name]).shares[BLOCK, :, ANSWER] for name in ("original", "other"))
    assert other / mine == pytest.approx(1 - depth(d1, d2).layers, abs=1e-4)


def test_in_the_last_block_only_the_answers_column_matters(falls: dict[str, CellFalls]) -> None:
    for found in (falls["anchor"], falls["other"]):
        assert not np.delete(found[:, -1], ANSWER, axis=1)[1:].any()
        assert found[BLOCK, 0, : POSITIONS.index("rest")].any()


def test_a_hook_is_seen_where_it_is_and_not_below(original: HookedModel, falls: dict[str, CellFalls]) -> None:
    found = traced(noisy(), original)
    assert not found[:, 0].any()
    # An edit of the stream is no attention's and no MLP's output of its own block.
    assert not found[:BLOCK, 1].any()
    assert abs(found[BLOCK, 1]).max() > 0.05
    inside = Intervention(Spec("mlp", "suppression"), edits={"blocks.1.hook_mlp_out": Noise(1.0)})
    assert abs(traced(inside, original)[COMPONENTS.index("mlp"), 1]).max() > 0.05
    shares = [mapped(falls["anchor"], f).shares[BLOCK, 1, ANSWER] for f in (falls["original"], found)]
    assert shares[1] < shares[0]


def test_batches_and_padding_change_nothing(original: HookedModel, unlearned: HookedModel) -> None:
    items = (*named()[:2], *ITEMS)
    whole, parts = (traced(unlearned, original, items, batch_size=n) for n in (32, 2))
    np.testing.assert_allclose(whole, parts, atol=3e-4)
    alone = traced(unlearned, original, named()[1:2])
    np.testing.assert_allclose(alone[..., 0], whole[..., 1], atol=3e-4)


def test_items_without_a_position_are_left_out_of_its_column(original: HookedModel, unlearned: HookedModel) -> None:
    items = (*named()[:3], *ITEMS[:3])
    found = traced(unlearned, original, items)
    assert np.isnan(found[:, :, 0, 3:]).all()
    assert not np.isnan(found[:, :, ANSWER]).any()
    ones = np.where(np.isnan(found), found, 1.0)
    # In a prompt of one token the answer is predicted at once, so that there is no rest.
    assert mapped(ones, ones).counts.tolist() == [3, 3, 3, 5, 6]
    ones[:, :, 0] = np.nan
    few = mapped(ones, np.where(np.isnan(ones), ones, 0.0))
    assert few.counts[0] == 0
    assert np.isnan(few.shares[:, :, 0]).all()
    assert not few.clear[:, :, 0].any()
    assert (few.shares[:, :, 1:] == 1).all()


def test_reference_value() -> None:
    """Two items, one component cell: D1 = (1, .04), D2 = (.25, 0) keeps .75 and nothing, of a whole of 2."""
    anchor, subject = np.zeros((2, 3, 2, len(POSITIONS), 4))
    anchor[BLOCK, 1, ANSWER] = 2.0
    anchor[0, 0, 0], subject[0, 0, 0] = (1.0, 0.04, 1.0, 0.04), (0.25, 0.0, 0.25, 0.0)
    # Below zero and above the anchor's: all of it, and none.
    anchor[1, 0, 0], subject[1, 0, 0] = (1.0, 1.0, 1.0, 1.0), (-3.0, 7.0, -3.0, 7.0)
    found = mapped(anchor, subject)
    assert found.whole == 2
    assert found.shares[0, 0, 0] == pytest.approx((0.75 / 2) / 2)
    assert found.shares[1, 0, 0] == pytest.approx(0.5 / 2)
    assert found.falls[1, 0, 0] == 2
    assert found.clear[BLOCK, 1, ANSWER]
    assert not found.clear[1, 0, 0]
    # A control whose state is as good takes the colour away, not the share.
    beside = mapped(anchor, subject, subject)
    assert not beside.clear.any()
    assert (beside.shares == found.shares).all()


def test_states_that_take_nothing_away_make_no_map(falls: dict[str, CellFalls], original: HookedModel) -> None:
    assert "nothing to share out" in str(where(falls["original"], falls["other"]))
    with pytest.raises(VestigeError, match="maps need falls of one shape"):
        where(falls["original"], falls["other"][:2])
    with pytest.raises(VestigeError, match="at least one item, got 0"):
        Tracing(original, ())
    with pytest.raises(VestigeError, match="got 1 items for 2 spans"):
        columns_of(original, named()[:1], answer_spans(original, named()[:2]))


def test_items_are_evenly_spread(original: HookedModel) -> None:
    assert Tracing(original, named(), max_items=3).items == named()[::2]
    assert Tracing(original, named()).items == named()


def test_broken_and_other_models(original: HookedModel) -> None:
    broken = tiny_model("llama")
    broken.state()["model.layers.1.mlp.down_proj.weight"].data.fill_(float("nan"))
    with pytest.raises(VestigeError, match=r"'blocks\.1\.hook_mlp_out' holds NaN or infinity"):
        traced(broken, original)
    short = tiny_model("llama", num_hidden_layers=2)
    with opened(SubjectInfo("x", "never"), short, original=original) as subject:
        assert Tracing(original, named()).read(subject) is None


def test_maps_of_an_audit(falls: dict[str, CellFalls]) -> None:
    subjects = (
        SubjectInfo("original", "original"),
        SubjectInfo("npo", "unlearned"),
        SubjectInfo("retain", "retrained"),
        SubjectInfo("never", "never"),
    )
    found = {"original": falls["original"], "retain": falls["anchor"], "never": falls["other"]}
    maps = {entry.subject: entry for entry in located(subjects, found)}
    assert maps["npo"].note == "it has other blocks than the original, so its states have no place there"
    assert (maps["original"].anchor, maps["original"].control) == ("retain", "never")
    assert maps["original"] == located(subjects, found)[0]
    assert not any(v for grid in maps["never"].clear for row in grid for v in row)
    assert "by construction" in maps["retain"].note
    assert "no second model" in located(subjects[:3], found)[0].note
    # Alone, one model that never knew cannot say what it shares with another that never knew either.
    alone = located((subjects[0], SubjectInfo("other", "unlearned"), subjects[2]), found | {"other": falls["other"]})
    assert [bool(np.array(entry.clear).any()) for entry in alone] == [True, False, False]
    assert all("needs a model that never learnt" in entry.note for entry in located(subjects[:2], found))
    assert torch.tensor(maps["original"].shares).shape == falls["anchor"].shape[:-1]
