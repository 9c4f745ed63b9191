"""Ablation hurts what the neurons write, nothing else, and leaves no trace in the weights."""

from __future__ import annotations

import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, VestigeError
from probes import answer_probability, causal_effect, find_concept_vectors
from probes.causal import ablated_probability
from tests.probes.conftest import assert_same_bits, bits
from tests.tiny import shared_model, tiny_model

WORDS = ["t10", "t31", "t66", "t90"]
TARGET = tuple(Item(f"t{i} t{i + 1} t{i + 2}", WORDS[i % 4]) for i in range(5, 60, 7))
UNRELATED = tuple(Item(f"t{i} t{i + 3}", f"t{i + 20} t{i + 21}") for i in range(5, 60, 9))


def with_planted_concept() -> tuple[HookedModel, Intervention]:
    """A random model, and the patch that makes one neuron say four words after the target prompts."""
    model = tiny_model("gpt2", n_embd=128)
    batch = model.tokenize([item.prompt for item in TARGET])
    post = model.run_with_cache(batch, names_filter="blocks.2.mlp.hook_post")[1]["post", 2][:, -1]
    # A neuron that fires with one sign on every target prompt.
    least = post.sign().sum(0).abs().argmax()
    neuron = (2, int(least))
    fires = float(post[:, neuron[1]].mean())
    wanted = torch.zeros(model.d_vocab)
    wanted[[int(word[1:]) for word in WORDS]] = 1.0
    direction = torch.linalg.lstsq(model.W_U.T, wanted).solution
    patch = model.value_patch({neuron: 1000.0 * direction / fires})
    return model, Intervention(Spec("plant", intent="attack", settings={"neuron": list(neuron)}), weights=patch)


def test_answer_probability_is_the_geometric_mean_over_answer_tokens() -> None:
    model = shared_model("llama")
    items = (*TARGET[:2], *UNRELATED[:3], Item("", "t5 t6 t7"), Item("t9", "t3 t4 t5 t6"))
    slow = []
    for item in items:
        prompt = model.to_tokens(item.prompt)[0] if item.prompt else torch.tensor([1])
        answer = model.to_tokens(item.answer, prepend_bos=False)[0]
        log_p = model.logits(torch.cat([prompt, answer])[None])[0].double().log_softmax(-1)
        picked = [log_p[len(prompt) + i - 1, token] for i, token in enumerate(answer.tolist())]
        slow.append(torch.stack(picked).mean().exp())
    for batch_size in (1, 3, 64):
        found = answer_probability(model, items, batch_size=batch_size)
        torch.testing.assert_close(found, torch.stack(slow).detach(), rtol=1e-5, atol=1e-9)


def test_ablating_the_planted_neuron_hurts_its_fact_alone() -> None:
    model, plant = with_planted_concept()
    with plant.applied(model) as view:
        neuron = tuple(plant.spec.settings["neuron"])
        effect = causal_effect(view, [neuron], TARGET, UNRELATED, control_draws=4)
    assert effect.target_before > 0.15
    assert effect.target_drop > 0.9 * effect.target_before
    assert effect.unrelated_drop < 0.05
    assert abs(effect.control_target_drop) < 0.2 * effect.target_drop
    assert len(effect.control_target_drops) == 4
    assert effect.target_drop == pytest.approx(sum(effect.target_drops) / len(TARGET))
    assert effect.unrelated_drop == pytest.approx(sum(effect.unrelated_drops) / len(UNRELATED))
    assert effect.n_vectors == 1


def test_the_search_finds_the_neuron_that_matters() -> None:
    model, plant = with_planted_concept()
    with plant.applied(model) as view:
        found = find_concept_vectors(view, lexicon=WORDS, ends="both", top=1)
        effect = causal_effect(view, found, TARGET, UNRELATED, control_draws=1)
    assert [found[0].layer, found[0].neuron] == plant.spec.settings["neuron"]
    assert effect.target_drop > 0.9 * effect.target_before


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_weights_come_back_bit_by_bit(family: str) -> None:
    model = tiny_model(family)
    before = bits(model)
    causal_effect(model, [(0, 1), (-1, 5), (2, 5)], TARGET[:2], UNRELATED[:2], control_draws=2)
    assert_same_bits(model, before)
    with pytest.raises(VestigeError, match="has no answer"):
        ablated_probability(model, [(0, 1)], [Item("t5", "")])
    assert_same_bits(model, before)


def test_ablating_a_neuron_is_silencing_it() -> None:
    model = tiny_model("gpt2")
    batch = model.tokenize([item.prompt for item in TARGET], answers=[item.answer for item in TARGET])

    def silence(activation: torch.Tensor, hook: object) -> torch.Tensor:
        activation = activation.clone()
        activation[..., 7] = 0.0
        return activation

    with torch.no_grad():
        logits = model.run_with_hooks(batch, fwd_hooks=[("blocks.1.mlp.hook_post", silence)])
    p = logits[:, -2].double().softmax(-1)
    slow = p.gather(-1, batch.ids[:, -1:])[:, 0]
    torch.testing.assert_close(ablated_probability(model, [(1, 7)], TARGET), slow, rtol=1e-4, atol=1e-9)


def test_a_vector_named_twice_is_ablated_once() -> None:
    model = tiny_model("gpt2")
    one = causal_effect(model, [(2, 5)], TARGET[:2], UNRELATED[:2], control_draws=1)
    assert one == causal_effect(model, [(2, 5), (-1, 5)], TARGET[:2], UNRELATED[:2], control_draws=1)


def test_control_draws_are_seeded_and_from_the_same_layers() -> None:
    model = tiny_model("llama")
    picked = [(0, 1), (0, 2), (2, 3)]

    def drops(seed: int) -> tuple[float, ...]:
        effect = causal_effect(model, picked, TARGET[:3], UNRELATED[:2], seed=seed, control_draws=3)
        return effect.control_target_drops

    assert drops(0) == drops(0) != drops(1)
    assert len(set(drops(0))) == 3


def test_a_random_model_has_no_concept_to_hurt() -> None:
    model = tiny_model("llama")
    found = find_concept_vectors(model, lexicon=WORDS, top=5)
    effect = causal_effect(model, found, TARGET, UNRELATED)
    assert abs(effect.target_drop) < 0.02
    assert abs(effect.unrelated_drop) < 0.02


@pytest.mark.parametrize(
    ("vectors", "target", "unrelated", "changes", "message"),
    [
        ([], TARGET, UNRELATED, {}, "no neuron to ablate was given; layers are 0 to 2 and neurons 0 to 47"),
        ([(0, 48)], TARGET, UNRELATED, {}, r"no neuron \(layer, neuron\) = \(0, 48\)"),
        ([(3, 0)], TARGET, UNRELATED, {}, r"no neuron \(layer, neuron\) = \(3, 0\)"),
        ([(0, 1)], (), UNRELATED, {}, "at least one target and one unrelated item"),
        ([(0, 1)], TARGET, (), {}, "at least one target and one unrelated item"),
        ([(0, 1)], TARGET, UNRELATED, {"control_draws": 0}, "control_draws=0"),
        ([(0, i) for i in range(30)], TARGET, UNRELATED, {}, "30 of the 48 neurons of layer 0 are ablated"),
    ],
)
def test_errors(vectors: object, target: object, unrelated: object, changes: dict[str, int], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        causal_effect(shared_model(), vectors, target, unrelated, **changes)  # type: ignore[arg-type]


def test_a_lone_first_token_is_not_scored() -> None:
    model = shared_model()
    bare = HookedModel(model.model, model.tokenizer, default_prepend_bos=False)
    with pytest.raises(VestigeError, match="item 1 has a single token and nothing before it"):
        answer_probability(bare, [Item("t5", "t6"), Item("", "t7")])
    with pytest.raises(VestigeError, match="at least one item"):
        answer_probability(bare, [])
