"""What instruments are worth, on made-up records whose truth is known."""

from __future__ import annotations

import json
import time
from functools import partial
from inspect import signature
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hooked import VestigeError
from vestige.calibrate import FIT, HELD, _here, calibrate, to_json
from vestige.calibration.audits import VERSION, WEIGHTS, record_path
from vestige.calibration.evaluate import HIDDEN, Calibration, evaluated
from vestige.calibration.page import draw, page
from vestige.cli import calibrate as command_line
from vestige.commands.calibrate import print_summary

N = 10


def record(world: int, concept: str, *, blind: float = 0.0) -> dict[str, Any]:
    """A task: one check sees the knowledge with noise, one is a coin, and one attack sees all of it."""
    rng = np.random.default_rng([world, *map(ord, concept)])
    subjects: list[dict[str, Any]] = []

    def add(name: str, knows: bool | None, state: str, level: float) -> None:
        shares = {
            "depth_leak": float(level + rng.normal(0, 0.25)),
            "lens_leak": float(rng.random()),
            "probe_leak": None,
            "attack:relearning": float(level * (rng.random() >= blind) + rng.normal(0, 0.02)),
        }
        shares[WEIGHTS] = float(rng.random())
        subjects.append({"name": name, "knows": knows, "state": state, "utility": 0.9, "shares": shares})

    for n in range(N):
        add(HIDDEN[n] if n < len(HIDDEN) else f"knows {n}", True, "member", 1.0)
        add(f"does not {n}", False, "member", 0.0)
    tampered = {"retrained": (0, 0.1, 0), "never": (0, 0.1, 0), "npo": (0.8, 0.9, 0.8)}
    for name, levels in tampered.items():
        for state, level in zip(("before", "relearned", "quantised"), levels, strict=True):
            add(name, None, state, level)
    about = {"version": VERSION, "max_items": 64, "world": world, "concept": concept, "suite": "quick"}
    return {**about, "subjects": subjects}


@pytest.fixture(scope="module")
def found() -> Calibration:
    return evaluated([record(1, "a"), record(1, "b"), record(2, "a")], [record(3, "a"), record(4, "b")], suite="quick")


def test_instruments_are_worth_what_they_were_made_to_be(found: Calibration) -> None:
    worths = {worth.name: worth for worth in found.worths}
    fitted = [f"{what} ({kind})" for what in ("score", "score squared", "probability") for kind in ("checks", "quick")]
    assert list(worths) == [*fitted, "depth_leak", "lens_leak", "attack:relearning", WEIGHTS]
    for kind in ("checks", "quick"):
        for what in ("score squared", "probability"):
            assert worths[f"score ({kind})"].faithfulness == worths[f"{what} ({kind})"].faithfulness
    auc = {name: worth.faithfulness.auc for name, worth in worths.items() if worth.faithfulness}
    assert auc["attack:relearning"] == 1
    assert auc["score (quick)"] == 1
    assert auc["depth_leak"] > 0.9
    assert 0.2 < auc["lens_leak"] < 0.8
    assert 0.2 < auc[WEIGHTS] < 0.8
    assert all(worth.n == 4 * N for worth in worths.values())
    moved = worths["attack:relearning"].robustness
    assert moved is not None
    # Both models move by a tenth, and rounding moves nothing.
    assert moved.relearning > 0.6
    assert moved.quantisation > 0.9
    assert moved.both == pytest.approx(
        2 * moved.relearning * moved.quantisation / (moved.relearning + moved.quantisation)
    )
    assert moved.n == 2
    control = worths["attack:relearning"].control
    assert control is not None
    assert control.relearning > 0.6
    # The one that never knew is none of the models that were made to forget.
    assert (moved.n, control.n) == (2, 2)
    assert (worths[WEIGHTS].robustness, worths[WEIGHTS].control) == (None, None)


def test_models_that_were_made_to_forget_are_read_in_every_state_beside_the_control(found: Calibration) -> None:
    retrained, never, npo = found.forgetting
    assert [one.name for one in found.forgetting] == ["retrained", "never", "npo"]
    for one, levels in ((retrained, (0, 0.1, 0)), (never, (0, 0.1, 0)), (npo, (0.8, 0.9, 0.8))):
        for state, level in zip(("before", "relearned", "quantised"), levels, strict=True):
            assert one.scores[state] == pytest.approx([level**0.5] * 2, abs=0.2)
    assert max(retrained.probabilities["before"]) < 0.1
    assert min(npo.probabilities["before"]) > 0.9


def test_the_control_is_never_listened_to(found: Calibration) -> None:
    assert all(WEIGHTS not in score.instruments for score in found.scores.values())


def _with(task: dict[str, Any], name: str, **changed: Any) -> dict[str, Any]:
    """A task with other values for one of the models that are tampered with."""
    level = changed.pop("level", None)
    subjects = [
        s if s["name"] != name else s | changed | ({} if level is None else {"shares": s["shares"] | level})
        for s in task["subjects"]
    ]
    return task | {"subjects": subjects}


def test_robustness_as_published_counts_models_that_work_and_are_called_forgotten() -> None:
    fit, name = [record(1, "a"), record(2, "a")], "attack:relearning"

    def forgotten(*held: dict[str, Any]) -> int:
        worth = next(w for w in evaluated(fit, held, suite="quick").worths if w.name == name)
        assert worth.robustness is not None
        assert worth.robustness.n == len(held)
        return 0 if worth.forgotten is None else worth.forgotten.n

    # NPO is at .8 in this pool, and so it is called forgotten by nobody.
    assert forgotten(record(3, "a"), record(4, "a")) == 0
    gone = _with(record(3, "a"), "npo", level={name: 0.1})
    assert forgotten(gone, record(4, "a")) == 1
    assert forgotten(_with(gone, "npo", utility=0.79), record(4, "a")) == 0
    assert forgotten(_with(gone, "npo", utility=None), record(4, "a")) == 0


def test_the_score_with_attacks_is_right_and_sure_and_counts_its_errors(found: Calibration) -> None:
    claims = found.claims["quick"]
    assert (claims.false_alarms.hits, claims.missed.hits, claims.missed_hidden.hits) == (0, 0, 0)
    assert (claims.false_alarms.n, claims.missed.n, claims.missed_hidden.n) == (2 * N, 2 * N, 2 * len(HIDDEN))
    assert claims.false_alarms.high > 0.1
    assert claims.error < 0.1
    assert len(claims.stated) == 4 * N
    # The coin is hardly listened to.
    weights = dict(zip(found.scores["quick"].instruments, found.scores["quick"].weights, strict=True))
    assert weights["attack:relearning"] > 3 * weights["lens_leak"]
    assert found.pool["does not 1"] == 5


def test_an_instrument_that_was_good_in_the_pool_and_fails_elsewhere_is_seen_to_fail() -> None:
    """Errors on the held-out models are counted, whatever the fit promised."""
    broken = evaluated([record(1, "a"), record(2, "a")], [record(3, "a", blind=1.0)], suite="quick")
    assert broken.claims["quick"].missed.hits > 0
    worth = next(w for w in broken.worths if w.name == "attack:relearning")
    assert worth.faithfulness is not None
    assert worth.faithfulness.auc < 0.8


def test_the_command_line_has_the_worlds_of_the_library() -> None:
    defaults = {name: one.default for name, one in signature(command_line).parameters.items()}
    assert (defaults["fit"], defaults["held"]) == tuple(",".join(map(str, worlds)) for worlds in (FIT, HELD))
    assert set(FIT).isdisjoint(HELD)


def test_fitting_and_evaluating_share_no_world() -> None:
    with pytest.raises(VestigeError, match="world 3 is both fitted on and evaluated on"):
        evaluated([record(1, "a"), record(3, "a")], [record(3, "b")], suite="quick")
    with pytest.raises(VestigeError, match=r"needs two worlds to fit on.*got 1 and 1$"):
        evaluated([record(1, "a"), record(1, "b")], [record(3, "b")], suite="quick")


def test_the_page_and_the_picture_hold_the_numbers(found: Calibration, tmp_path: Path) -> None:
    text = page(found, {"command": "vestige calibrate --out here", "commit": "abc"})
    assert "| score (quick) | 1.000 [" in text
    assert "`vestige calibrate --out here`, commit abc" in text
    assert "1:a, 1:b, 2:a" in text
    assert f"| quick | 0 of {2 * N} [0.000," in text
    draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    values = to_json(found)
    assert values["instruments"][1]["faithfulness_auc"] == 1
    assert values["claims"]["quick"]["false_alarms"] == {
        "hits": 0,
        "n": 2 * N,
        "interval": [0.0, found.claims["quick"].false_alarms.high],
    }
    assert values["scores"]["checks"]["instruments"] == ["depth_leak", "lens_leak"]
    # What is missing changes what is said of the held-out models; of a score that never had it there is no row.
    assert set(values["lacking"]["training"]) == {"quick"}
    assert values["lacking"]["what is written"] == {}
    without = values["lacking"]["training"]["quick"]
    assert without["calibration_error"] != values["claims"]["quick"]["calibration_error"]
    assert f"| training | quick | {without['false_alarms']['hits']} of {2 * N} [" in text


def test_a_calibration_goes_on_from_the_records_that_are_there(tmp_path: Path) -> None:
    """All records are there, so that nothing is trained; the command line writes the page."""
    for world in (1, 2, 3):
        path = record_path(world, 0, tmp_path, suite="quick", tamper=world == 3)
        path.write_text(json.dumps(record(world, "a")))
    found = calibrate(tmp_path, fit=(1, 2), held=(3,), concepts=1, progress=False)
    assert found.fitted_on == ("1:a", "2:a")
    assert found.held_out == ("3:a",)
    assert sorted(path.name[:4] for path in tmp_path.iterdir()) == ["task"] * 3


@pytest.mark.parametrize("other", [{"version": VERSION - 1}, {"max_items": 8}])
def test_records_of_another_pool_are_not_mixed_in(other: dict[str, int], tmp_path: Path) -> None:
    for world in (1, 2, 3):
        path = record_path(world, 0, tmp_path, suite="quick", tamper=world == 3)
        path.write_text(json.dumps(record(world, "a") | (other if world == 2 else {})))
    with pytest.raises(VestigeError, match=r"task-2-0-quick.json' was made from another pool .*remove it"):
        calibrate(tmp_path, fit=(1, 2), held=(3,), concepts=1, progress=False)


def test_an_instrument_that_was_measured_on_one_kind_calls_nothing_forgotten() -> None:
    fit = [record(1, "a"), record(2, "a")]
    for subject in (s for task in fit for s in task["subjects"] if s["knows"]):
        subject["shares"]["attack:relearning"] = None
    worths = {w.name: w for w in evaluated(fit, [record(3, "a")], suite="quick").worths}
    assert worths["attack:relearning"].forgotten is None
    assert worths["attack:relearning"].robustness is not None


def test_the_summary_names_every_instrument(found: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(found)
    out = capsys.readouterr().out
    assert all(worth.name in out for worth in found.worths)
    robustness = next(w.robustness for w in found.worths if w.name == "attack:relearning")
    assert robustness is not None
    assert f"{robustness.both:.3f}" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": (1,), "held": (1,)}, "worlds of their own: world 1 is in both"),
        ({"held": ()}, "^held needs a world, and each world once; got"),
        ({"fit": (1,)}, "two worlds or more, since one is left out"),
        ({"fit": (1, 1)}, "each world once"),
        ({"concepts": 11}, "concepts is 1 to 10, got 11"),
        ({"engine": "dask"}, "engine is one of local, ray, got 'dask'"),
        ({"suite": "slow"}, "suite"),
    ],
)
def test_settings_are_checked_before_anything_is_trained(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(VestigeError, match=message):
        calibrate(tmp_path, **settings)
    assert not any(tmp_path.iterdir())


def test_who_stops_a_calibration_waits_for_no_task() -> None:
    running = _here(2, [partial(time.sleep, 0), partial(time.sleep, 600)])
    next(running)
    assert active_children()
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 60
    assert not [child for child in active_children() if child.name.startswith("SpawnProcess")]
