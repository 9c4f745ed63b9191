"""The shapes benchmark decides on numbers alone, and every shape can fail."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.shapes import runs
from benchmarks.shapes.claims import Shape, Term, above, alike, below, both, near, rising, some
from benchmarks.shapes.exceptions import REASONS
from benchmarks.shapes.page import KINDS, SHAPES, counts, decided
from benchmarks.shapes.runs import ASKED, EDITS, LENSES, METHODS, MILD, SWEEP, TAUGHT
from benchmarks.shapes.terms import agreement, faithful, faster, log_p, middle, robust, uds, value
from benchmarks.shapes.untested import UNTESTED
from hooked import VestigeError


def number(x: float) -> Term:
    return Term("x", lambda n: x)


def test_comparisons_need_their_margins_and_fail_where_nothing_was_measured() -> None:
    low, high, missing = number(0.2), number(0.3), number(nan)
    assert rising(low, high, by=0.05).holds({})
    assert not rising(low, high, by=0.15).holds({})
    assert not rising(high, low, by=0.0).holds({})
    assert above(0.1, low, high).holds({})
    assert not above(0.25, low, high).holds({})
    assert below(0.4, low, high).holds({})
    assert not below(0.25, low, high).holds({})
    assert near(0.25, low, high, within=0.06).holds({})
    assert not near(0.25, low, high, within=0.04).holds({})
    assert alike(low, high, within=0.11).holds({})
    assert not alike(low, high, within=0.05).holds({})
    assert not both(above(0.1, low), above(0.25, low)).holds({})
    assert some("one", "ab", lambda s: above(0.25, high if s == "a" else low)).holds({})
    assert not some("one", "ab", lambda s: above(0.35, high)).holds({})
    for claim in (rising(low, missing, by=-9), above(-9, missing), below(9, missing), near(0, missing, within=9)):
        assert not claim.holds({})
    assert not alike(low, missing, within=9).holds({})


def test_terms_read_what_was_measured() -> None:
    numbers = {"a": {"depth_leak": 0.25, "forget_quality": 1e-3}, "b": {"depth_leak": 0.5}}
    assert uds("a").read(numbers) == 0.75
    assert log_p("a").read(numbers) == pytest.approx(-3)
    assert middle("m", [uds("a"), uds("b")]).read(numbers) == pytest.approx(0.625)
    missing = [value("c", "x"), uds("c"), log_p("b"), middle("m", [uds("a"), uds("c")])]
    assert all(term.read(numbers) != term.read(numbers) for term in missing)
    numbers["c"] = {"depth_leak": 0.9}
    assert agreement("rank", uds, lambda s: value(s, "depth_leak"), "abc").read(numbers) == pytest.approx(-1)


def test_faithfulness_is_asked_of_the_pool_alone_and_turned_where_high_means_forgotten() -> None:
    pool = {"knows": {"m": 0.9}, "knows, int4": {"m": 0.4}, "ignorant": {"m": 0.5}, "ignorant, int4": {"m": 0.1}}
    assert faithful("m").read({**pool, "original": {"m": -9.0}}) == pytest.approx(0.75)
    assert faithful("m", forgotten=True).read(pool) == pytest.approx(0.25)
    pool["ignorant"] = {}
    assert faithful("m").read(pool) != faithful("m").read(pool)


def test_robustness_compares_with_the_retrained_model() -> None:
    numbers = {
        "npo": {"m": 0.0},
        "npo, relearned": {"m": 0.4},
        "npo, rounded": {"m": 0.0},
        "retain": {"m": 0.0},
        "retrained, relearned": {"m": 0.1},
    }
    assert robust("m", ["npo"], "relearned").read(numbers) == pytest.approx(1 - 0.3 / 0.52)
    assert robust("m", ["npo"], "rounded").read(numbers) == pytest.approx(1)
    numbers["npo, rounded"]["m"] = 0.4
    assert robust("m", ["npo"], "rounded").read(numbers) == pytest.approx(1 - 0.4 / 0.42)


def test_a_speed_up_is_read_off_the_curves_and_not_off_the_rates() -> None:
    def curve(*scores: float) -> dict[str, float]:
        steps = {f"relearning:forget {k}": s for k, s in zip((0, 5, 10), scores, strict=True)}
        return {**steps, "relearning:forget at 0.01": 0.0, "relearning:retain 5": 9.0}

    numbers = {"original": curve(1, 1, 1), "never": curve(0, 0.1, 0.9), "npo": curve(0, 0.8, 1)}
    assert faster("npo").read(numbers) == pytest.approx(2)
    assert faster("never").read(numbers) == pytest.approx(1)


def test_every_shape_can_fail_and_no_two_are_the_same() -> None:
    assert not [shape.says for shape in SHAPES if shape.claim.holds({})]
    assert len({shape.says for shape in SHAPES}) == len(SHAPES)
    assert all(section and says and why for section, says, why in UNTESTED)
    assert not [start for start in REASONS if sum(s.says.startswith(start) for s in SHAPES) != 1]


def test_a_seed_decides_each_shape_by_itself() -> None:
    assert [row["holds"] for row in decided({7: {}})] == [{"7": False}] * len(SHAPES)
    assert set(KINDS) == {shape.kind for shape in SHAPES}
    claim = above(0.5, value("a", "x"))
    assert Shape("1", "specification", "s", claim).kind == "own"
    assert Shape("1", "paper", "s", claim).kind == "published"
    assert Shape("1", "paper", "s", claim, given=True).kind == "given"


ATTACKED = (
    *ASKED,
    *LENSES,
    "rephrasing",
    "quantisation",
    "quantisation:int8",
    "direction_ablation",
    "in_context_reintroduction",
    "in_context_reintroduction 5",
    *(f"{name}{step}" for name in TAUGHT for step in ("", " 0", " 5", " 20", " at 0.0001", " at 0.001", " at 0.01")),
)
MADE = (*METHODS, *MILD, *SWEEP, *EDITS)
Made = dict[str, dict[str, float]]


def model(left: float, attacked: float, **more: float) -> dict[str, float]:
    """A subject's numbers: what it says when plainly asked, and what it says under every attack."""
    inside = {"depth_leak": left, "lens_depth_leak": left, "probe_leak": left, "right_part": left, "truth_ratio": 0.5}
    behaviour = {"plain": left, "forget_probability": left, "forget_rouge": left, "model_utility": 0.9}
    alike = {"forget_quality": 1e-9, "priv_leak": -90.0, "membership_min_k": 0.5, "stripped": 0.9}
    starts = {f"{name} 0": left for name in TAUGHT}
    return {**inside, **behaviour, **alike, **dict.fromkeys(ATTACKED, attacked), **starts, **more}


def seed(**theirs: float) -> Made:
    """A seed whose made models are all the same; the original knows, and the others never did."""
    ends = {"original": model(0.9, 0.95), "retain": model(0.0, 0.05), "never": model(0.0, 0.05)}
    ends["retain"]["forget_quality"] = 1.0
    return {**ends, **{name: model(**{"left": 0.02, "attacked": 0.9, **theirs}) for name in MADE}}


def holds(start: str, numbers: Made) -> bool:
    (shape,) = [shape for shape in SHAPES if shape.says.startswith(start)]
    return shape.claim.holds(numbers)


@pytest.mark.parametrize(
    "start",
    [
        "RMU: five steps",
        "taught half of the facts",
        "benign relearning, on kept facts alone",
        "4 bits bring ascent",
        "4 bits bring NPO",
        "ablating one direction brings RMU",
        "ablating one direction brings refusals",
        "clues betray",
        "deleted facts come back",
        "no defence covers",
        "rephrasing alone",
        "the lens attack recovers what RMU hides",
    ],
)
def test_what_an_attack_brings_back_had_been_forgotten_and_is_more_than_the_control_has(start: str) -> None:
    assert holds(start, seed())
    assert not holds(start, seed(left=0.9, attacked=0.95))
    assert not holds(start, seed(left=0.3, attacked=0.3))
    unfair = seed()
    unfair["never"] = model(0.0, 0.9)
    assert not holds(start, unfair)


@pytest.mark.parametrize("start", ["NPO is taught", "IDK-NLL is taught", "evading the gate"])
def test_sooner_and_more_are_said_of_what_had_been_forgotten(start: str) -> None:
    sooner = seed(**{"relearning:forget 5": 0.9})
    assert holds(start, sooner)
    assert not holds(start, seed(left=0.9, attacked=0.99))
    assert not holds(start, seed(left=0.02, attacked=0.02))


@pytest.mark.parametrize("start", ["8 bits bring little back", "4 bits bring nothing of ablated rows"])
def test_nothing_comes_back_only_of_a_model_that_had_forgotten_and_works(start: str) -> None:
    assert holds(start, seed(attacked=0.02))
    assert not holds(start, seed(left=0.9, attacked=0.9))
    assert not holds(start, seed(attacked=0.02, model_utility=0.0))
    assert not holds(start, seed(attacked=0.2))


def test_ablated_rows_are_relearned_at_all() -> None:
    start, slow = "ablated rows are relearned", {"relearning:forget 5": 0.05, "relearning:forget 20": 0.9}
    numbers = seed(**slow)
    numbers["never"] |= {"relearning:forget 20": 0.9}
    assert holds(start, numbers)
    assert not holds(start, {**numbers, "rows zeroed": model(0.9, 0.95)})
    assert not holds(start, {**numbers, "rows zeroed": model(0.02, 0.02)})
    assert not holds(start, {**numbers, "rows zeroed": model(0.02, 0.9, **slow, model_utility=0.0)})


def test_a_rate_that_spoils_the_control_as_well_says_nothing_of_the_model() -> None:
    start, spoilt = "one learning rate", {"relearning:forget at 0.01": 0.1}
    numbers = seed(**spoilt, model_utility=0.0)
    assert holds(start, numbers)
    assert not holds(start, seed(**spoilt))
    numbers["never"] |= {"relearning:forget at 0.001": 0.9}
    assert not holds(start, numbers)


def test_facts_bring_back_more_than_kept_facts_beyond_what_they_teach_the_control() -> None:
    start, kept = "benign relearning recovers less", {"relearning:retain 5": 0.2}
    assert holds(start, seed(**kept))
    assert not holds(start, seed(left=0.9, **kept))
    taught = seed(**kept)
    taught["never"]["relearning:forget 5"] = 0.8
    assert not holds(start, taught)


def test_a_high_rate_is_compared_with_a_low_one_that_rounding_brings_back() -> None:
    start, numbers = "a high rate is brought back less", seed()
    numbers["npo"]["quantisation"] = 0.1
    numbers["npo/mild"]["rung"] = 2
    assert holds(start, numbers)
    # No lower than the other rate.
    numbers["npo/mild"]["rung"] = runs.RATES.index("lr=3e-4")
    assert not holds(start, numbers)
    numbers["npo/mild"] = model(0.02, 0.02, rung=2)
    numbers["npo"]["quantisation"] = 0.019
    assert not holds(start, numbers)


def test_context_helps_those_who_are_said_to_be_no_further_behind() -> None:
    start, numbers = "with the facts in the prompt, which help", seed()
    numbers["never"] = model(0.0, 0.9)
    assert holds(start, numbers)
    assert not holds(start, {name: {**one, "in_context_reintroduction 5": 0.02} for name, one in numbers.items()})


# Of models that no method made, or true of the original and the retrained model by themselves.
OF_NO_METHOD = (
    "forget quality: the original is a decade below",
    "truth ratio: the retrained model is above",
    "membership: the",
    "PrivLeak of the original",
    "s_mia",
    "UDS is 0 for the original",
    "a composite with one zero",
    "UDS of the bare weights",
    "hooks: UDS",
    "edits of weights have suppression index 0",
    "relearning on the facts themselves",
    "soft prompts make",
    "the original loses by rounding",
)


@pytest.mark.parametrize("theirs", [{"left": 0.9, "attacked": 0.95}, {"left": 0.89, "attacked": 0.9}])
def test_nothing_comes_out_of_methods_that_did_nothing(theirs: dict[str, float]) -> None:
    numbers = seed(**theirs)
    for name in MADE:
        if name not in ("npo", "retain"):
            numbers[name] |= {"depth_leak": 0.85, "priv_leak": -95.0, "forget_quality": 1e-10, "truth_ratio": 0.4}
    numbers["npo"] |= {"depth_leak": 0.7, "forget_quality": 1e-7, "lens_depth_leak": 0.95}
    found = [shape.says for shape in SHAPES if shape.claim.holds(numbers)]
    assert not [says for says in found if not says.startswith(OF_NO_METHOD)]


@pytest.mark.parametrize(
    ("left", "chosen"), [((0.9, 0.6, 0.2, 0.0), (2, 3, 4)), ((0.1,), (0, 1, 2)), ((1.0,) * 9, (8, 8, 8))]
)
def test_a_method_stands_on_the_first_rung_that_forgets_half(
    left: tuple[float, ...], chosen: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep is that rung and the two above, as far as the ladder goes."""

    class On:
        def __init__(self, rung: int) -> None:
            self.rung = rung

        def applied(self, model: object) -> AbstractContextManager[object]:
            return nullcontext(left[self.rung])

    one: Any = SimpleNamespace(task=SimpleNamespace(original=1.0), data=SimpleNamespace(forget=()))
    monkeypatch.setattr(runs, "_on", lambda seed, folder, name, rung: On(rung))
    monkeypatch.setattr(runs, "answer_probability", lambda model, items: torch.tensor([model]))
    made: list[Any] = [runs._stepped(one, Path(), f"npo/{rung}") for rung in runs.RUNGS]
    assert tuple(on.rung for on in made) == chosen


def test_parts_of_other_settings_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("methods", "sweep", "edits", "pool", "states", "rungs", *(name.replace(":", "-") for name in TAUGHT)):
        (tmp_path / "seed-9").mkdir(exist_ok=True)
        (tmp_path / "seed-9" / f"{part}.json").write_text(f'{{"{part}": {{"m": 1.0}}}}')
    nine: Any = SimpleNamespace(number=9)
    with pytest.raises(VestigeError, match=r"seed-9' was made with other settings; remove it"):
        runs.numbers_of(nine, tmp_path)
    for part in (tmp_path / "seed-9").iterdir():
        part.rename(tmp_path / part.name)
    runs.check_settings(tmp_path / "seed-9" / "settings.json")
    for part in tmp_path.glob("*.json"):
        part.rename(tmp_path / "seed-9" / part.name)
    assert runs.numbers_of(nine, tmp_path)["sweep"] == {"m": 1.0}
    monkeypatch.setattr(runs, "SETTINGS", (*runs.SETTINGS, 1))
    with pytest.raises(VestigeError, match="other settings"):
        runs.numbers_of(nine, tmp_path)


def test_shapes_are_counted_on_every_seed_on_three_and_on_each() -> None:
    seeds = (2, 3, 4, 7)
    held = [(1, 1, 1, 1), (1, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)]
    shapes = [
        {"kind": kind, "holds": {str(seed): bool(one) for seed, one in zip(seeds, row, strict=True)}}
        for kind in KINDS
        for row in held
    ]
    for found in counts({"shapes": shapes, "seeds": seeds}).values():
        assert (found.every, found.three, found.n) == (1, 2, 4)
        assert found.seeds == {2: 2, 3: 1, 4: 2, 7: 3}
