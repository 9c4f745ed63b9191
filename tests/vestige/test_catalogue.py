"""The table of methods says what the methods say of themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from probes import find_concept_vectors
from vestige import organism
from vestige.catalogue import METHODS
from vestige.cli import app
from vestige.methods import method, text_settings
from vestige.on_direction import fit_on_direction
from vestige.on_sae import fit_on_sae

SITE = "resid_post.2"


@pytest.fixture(scope="module")
def full() -> HookedModel:
    return HookedModel.from_pretrained(organism.organism_path("full"), dtype="float32")


@pytest.fixture(scope="module")
def data() -> UnlearnData:
    found = organism.organism_data()
    return replace(found, forget=found.forget[:6], retain=found.retain[:12], control=())


@pytest.fixture(scope="module")
def vectors(full: HookedModel, data: UnlearnData) -> Any:
    return find_concept_vectors(full, lexicon=organism.lexicon(data.concepts[0]), top=2)


@pytest.fixture(scope="module")
def sae() -> Any:
    from sae import load_sae

    return load_sae(str(organism.organism_sae(2)))


def briefly(name: str) -> dict[str, Any]:
    """Settings under which a method ends soon; what the table says does not depend on them."""
    known = text_settings(method(name))
    wanted = {"steps": 1, "progress": False, "stop_fraction": None, "allow_tied": True, "site": SITE}
    return {key: value for key, value in wanted.items() if key in known}


# A single step, or an SAE of the whole stream, may leave warnings of methods that find little to do.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_a_row_says_what_the_method_says(
    name: str, full: HookedModel, data: UnlearnData, vectors: Any, request: pytest.FixtureRequest
) -> None:
    row, function, settings = METHODS[name], method(name), briefly(name)
    made: Intervention
    if row.given == "sae":
        made = fit_on_sae(name, function, full, request.getfixturevalue("sae"), data, settings=settings, seed=0)
    elif row.given == "direction":
        made = fit_on_direction(name, function, full, data, site=SITE, settings=settings)
    elif row.given == "vectors":
        made = (
            function(full, vectors, **settings)
            if name == "ablate_vectors"
            else function(full, data, vectors, **settings)
        )
    else:
        made = function(full, data, **settings)
    spec = made.spec
    assert (spec.name, spec.intent, spec.needs, spec.source) == (name, row.intent, row.needs, row.paper)
    assert made.points == row.points


def test_the_command_prints_every_method_and_its_paper() -> None:
    done = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    for row in METHODS.values():
        line = next(line for line in done.output.splitlines() if line.startswith(f"{row.name} "))
        assert row.intent in line
        assert row.paper.partition("arXiv:")[2][:10] in line


def test_the_command_prints_json() -> None:
    done = CliRunner().invoke(app, ["methods", "--json"])
    rows = json.loads(done.output)
    assert [row["name"] for row in rows] == list(METHODS)
    npo = next(row for row in rows if row["name"] == "npo")
    assert npo["points"] == ["weights"]
    assert npo["needs"] == ["forget", "retain", "reference"]
    one = json.loads(CliRunner().invoke(app, ["methods", "npo", "--json"]).output)
    assert one["settings"]["beta"] == "a number (default 0.5)"
    assert one["settings"]["lora"] == "a whole number or null"
    assert one["settings"]["lr"] == "a number"
    assert one["defaults_of_train"]["lr"] == 0.0001
    assert "beta" not in one["defaults_of_train"]
    assert "mask" not in one["settings"]


@pytest.mark.parametrize("name", METHODS)
def test_the_command_explains_every_method(name: str) -> None:
    done = CliRunner().invoke(app, ["methods", name])
    assert done.exit_code == 0
    assert f"{name}: acts on " in done.output
    assert f"claims {METHODS[name].intent}" in done.output
    taken = done.output.partition("--set takes:")[2]
    assert all(f"  {key}=" in taken for key in text_settings(method(name)))


def test_a_direction_outside_the_stream_is_refused(full: HookedModel, data: UnlearnData) -> None:
    function = method("ablate_direction")
    with pytest.raises(VestigeError, match=r"width 128, and 'blocks.2.mlp.hook_post' is 384 wide; pass a site"):
        fit_on_direction("ablate_direction", function, full, data, site="blocks.2.mlp.hook_post", settings={})
    with pytest.raises(VestigeError, match="needs prompts to keep; give some with --retain"):
        fit_on_direction("steer", function, full, replace(data, retain=()), site=SITE, settings={})
