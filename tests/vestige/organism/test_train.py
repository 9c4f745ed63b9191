"""A few training steps lower the loss, the same seed gives the same weights, and bad names are explained."""

import json
from pathlib import Path

import pytest
import torch

from vestige.organism.lens import answer_ranks
from vestige.organism.measure import answered, known
from vestige.organism.model import Shape, make_model
from vestige.organism.phrasing import Prompt
from vestige.organism.ship import FILES, load, train_checkpoint
from vestige.organism.tokenizer import make_tokenizer
from vestige.organism.train import Recipe, accumulate_gradients, encode, train_organism
from vestige.organism.world import World, make_world

TINY = Shape(n_layers=2, d_model=32, d_mlp=48, n_heads=2, d_head=16)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(1, n_concepts=6, n_spares=1)


def test_twenty_steps_lower_the_loss(world: World) -> None:
    losses: list[float] = []
    train_organism(world, recipe=Recipe(steps=20, batch=32), shape=TINY, losses=losses, progress=False)
    assert len(losses) == 20
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_same_seed_same_weights_and_global_random_state_is_left_alone(world: World) -> None:
    state = torch.random.get_rng_state()
    runs = [
        train_organism(world, recipe=Recipe(steps=2, batch=8), shape=TINY, seed=seed, progress=False)[0].state_dict()
        for seed in (5, 5, 6)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert not torch.equal(runs[0]["model.embed_tokens.weight"], runs[2]["model.embed_tokens.weight"])


def test_chunked_gradient_equals_the_padded_batch(world: World) -> None:
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, TINY, seed=0)
    rows = encode(tokenizer, ["12 + 34 = 46.", "notes on x: a, b, c, d, e.", "the end.", "b.", "reverse: a b = b a."])
    loss = accumulate_gradients(model, rows)
    chunked = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    total = sum(model(input_ids=(ids := torch.tensor([row])), labels=ids).loss * (len(row) - 1) for row in rows)
    mean = total / sum(len(row) - 1 for row in rows)
    mean.backward()
    assert loss == pytest.approx(mean.item(), rel=1e-5)
    for one, other in zip(chunked, [p.grad for p in model.parameters()], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_answered_agrees_with_greedy_generation(world: World) -> None:
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, TINY, seed=0).eval()
    prompt = "12 + 34 ="
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    tail = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2)[0, ids.shape[1] :]
    said = tokenizer.decode(tail)
    results = answered(model, tokenizer, [Prompt(prompt, said), Prompt(prompt, "46")])
    assert not results[1]
    third = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)[0, -1]
    assert results[0] == (tokenizer.convert_ids_to_tokens(third.item()) == ".")


def test_last_lens_rank_is_the_models_own_rank(world: World) -> None:
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, TINY, seed=0).eval()
    prompts = [Prompt("12 + 34 =", "46"), Prompt("the capital of x is", "river")]
    ranks = answer_ranks(model, tokenizer, prompts)
    assert ranks.shape == (TINY.n_layers + 1, 2)
    for i, p in enumerate(prompts):
        logits = model(torch.tensor([tokenizer(p.prompt).input_ids])).logits[0, -1]
        target = tokenizer(p.answer, add_special_tokens=False).input_ids[0]
        assert ranks[-1, i] == (logits > logits[target]).sum()


def test_a_checkpoint_is_an_ordinary_half_precision_directory(tmp_path: Path) -> None:
    seconds = train_checkpoint("never", tmp_path, seed=1, recipe=Recipe(steps=1, batch=8), shape=TINY, progress=False)
    assert seconds > 0
    assert {f.name for f in (tmp_path / "never").iterdir()} == set(FILES)
    model, tokenizer = load(tmp_path / "never")
    assert json.loads((tmp_path / "never" / "config.json").read_text())["dtype"] == "float16"
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_bad_requests_are_explained(world: World) -> None:
    plain, spare = world.concepts[0].name, world.spares[0].name
    with pytest.raises(ValueError, match="no concept 'atlantis'"):
        train_organism(world, exclude=["atlantis"])
    with pytest.raises(ValueError, match="is a spare one"):
        train_organism(world, exclude=[spare])
    with pytest.raises(ValueError, match="is an ordinary one"):
        train_organism(world, exclude=[plain], include_spare=[plain])
    with pytest.raises(ValueError, match="1 spares for 0"):
        train_organism(world, include_spare=[spare])
    tokenizer = make_tokenizer(world)
    with pytest.raises(ValueError, match="at least one prompt"):
        known(make_model(tokenizer, TINY, seed=0), tokenizer, [])
