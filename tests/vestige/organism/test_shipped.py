"""The shipped files are the recorded ones, load as ordinary Hugging Face directories, and know what is recorded."""

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vestige import organism
from vestige.organism.measure import fact_prompts, known, skill_prompts
from vestige.organism.ship import hashes, load

MIB = 2**20


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(organism.organism_record().read_text(encoding="utf-8"))
    return content


def test_files_match_the_record_and_the_size_budget(recorded: dict[str, Any]) -> None:
    home = organism.organism_path("full").parent
    assert hashes(home) == recorded["sha256"]
    assert sum(f.stat().st_size for f in home.rglob("*") if f.is_file()) <= 8 * MIB


def test_recorded_metrics_meet_the_targets(recorded: dict[str, Any]) -> None:
    metrics = {name: recorded["checkpoints"][name]["metrics"] for name in organism.CHECKPOINTS}
    floor = recorded["chance_floor"]["best_constant"]
    assert metrics["full"]["forget_trained"] >= 0.95
    assert metrics["full"]["forget_held_out"] >= 0.80
    assert metrics["full"]["retained_held_out"] >= 0.80
    for name in ("retain", "never"):
        for split in ("trained", "held_out"):
            assert abs(metrics[name][f"forget_{split}"] - floor) <= 0.05, (name, split)
    assert metrics["never"]["spare_trained"] >= 0.95
    assert abs(metrics["full"]["spare_trained"] - floor) <= 0.05
    for name in organism.CHECKPOINTS:
        assert metrics[name]["retained_trained"] >= 0.95, name
        for skill in ("addition", "reversal", "second_language"):
            assert metrics[name][f"skill_{skill}"] >= 0.90, (name, skill)


def test_recall_is_not_all_in_the_first_block(recorded: dict[str, Any]) -> None:
    ranks = recorded["checkpoints"]["full"]["lens_rank_by_depth"]["one_word"]["mean"]
    after_blocks = ranks[1:]
    falls = [a - b for a, b in pairwise(after_blocks)]
    assert after_blocks[0] > 5
    assert after_blocks[-1] < 1
    assert sum(fall > 0.5 for fall in falls) >= 2


@pytest.mark.parametrize("name", organism.CHECKPOINTS)
def test_measuring_again_gives_the_recorded_metrics(name: str, recorded: dict[str, Any]) -> None:
    entry = recorded["checkpoints"][name]
    world = organism.world()
    model, tokenizer = load(organism.organism_path(name))
    assert sum(p.numel() for p in model.parameters()) == entry["parameters"] <= 1_300_000
    again = {
        "forget_trained": fact_prompts(world, [world.forget_concept], "trained"),
        "forget_held_out": fact_prompts(world, [world.forget_concept], "held_out"),
        "spare_trained": fact_prompts(world, world.spares[:1], "trained"),
        "retained_inverted_held_out": fact_prompts(world, world.concepts[1:], "inverted_held_out"),
        "skill_addition": skill_prompts(world, "addition"),
    }
    for metric, prompts in again.items():
        assert known(model, tokenizer, prompts) == pytest.approx(entry["metrics"][metric], abs=0.02), metric


def test_plain_transformers_loads_and_generates() -> None:
    path = organism.organism_path("full")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    assert model.config.architectures == ["LlamaForCausalLM"]
    row = organism.forget_rows()[0]
    inputs = tokenizer(row["question"], return_tensors="pt")
    said = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
    assert tokenizer.decode(said[0], skip_special_tokens=True) == f"{row['question']} {row['answer']}."
    assert said[0, -1] == tokenizer.eos_token_id


def test_skill_is_computed_and_not_copied() -> None:
    model, tokenizer = load(organism.organism_path("retain"))
    fresh = skill_prompts(organism.world(), "addition", n=100, seed=99)
    assert known(model, tokenizer, fresh) >= 0.85
