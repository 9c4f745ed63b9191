"""Planted concepts are found first, absent ones are not reported, and the p-values mean what they say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from hooked import HookedModel, Intervention, Spec, VestigeError
from probes import find_concept_vectors
from probes.lexicon import lexicon_weights
from probes.scores import CoherenceScore, LexiconScore, adjusted, distinct_tokens, null_scores, p_values
from tests.probes.conftest import assert_same_bits, bits
from tests.tiny import shared_model, tiny_model

LEXICON = ["t10", "t31", "t66", "t90"]
IDS = [int(word[1:]) for word in LEXICON]
PLACES = ((0, 7), (2, 40))


def planted(family: str, *, sign: int = 1, size: float = 1.0) -> tuple[HookedModel, Intervention]:
    """A random model, and an intervention that makes two of its neurons write the lexicon."""
    # With more dimensions than tokens a vector can promote any set of tokens and nothing else.
    width = "n_embd" if family == "gpt2" else "hidden_size"
    model = tiny_model(family, **{width: 128})
    wanted = torch.zeros(model.d_vocab)
    wanted[IDS] = 1.0
    toward = torch.linalg.lstsq(model.W_U.T, wanted).solution
    rows = dict.fromkeys(PLACES, sign * size * toward)
    return model, Intervention(Spec("plant", intent="attack"), weights=model.value_patch(rows))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_planted_vectors_are_found_first_and_alone_are_significant(family: str) -> None:
    model, plant = planted(family)
    with plant.applied(model) as view:
        found = find_concept_vectors(view, lexicon=LEXICON, top=3, k=4)
        certain = find_concept_vectors(view, lexicon=LEXICON, alpha=0.05)
    assert {(v.layer, v.neuron) for v in found[:2]} == set(PLACES)
    assert found[0].score == pytest.approx(found[1].score)
    assert found[1].score > found[2].score
    assert set(found[0].top_tokens) == set(LEXICON)
    assert set(found[0].top_ids) == set(IDS)
    assert {(v.layer, v.neuron) for v in certain} == set(PLACES)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_absent_concept_is_not_reported(seed: int) -> None:
    model = tiny_model("llama", seed=seed)
    assert find_concept_vectors(model, lexicon=LEXICON, alpha=0.05) == ()
    # Asked for regardless of p, the best of 144 neurons still look like the best of 144 random directions.
    best = find_concept_vectors(model, lexicon=LEXICON, top=1)[0]
    assert best.p_value > 0.01 / (model.n_layers * model.d_mlp)
    assert best.p_adjusted > 0.05


@pytest.mark.parametrize(("adjust", "least"), [("bh", 144 / 501), ("bonferroni", 144 / 501), ("none", 1 / 501)])
def test_the_least_p_is_that_of_a_lone_vector_beyond_all_random_directions(adjust: str, least: float) -> None:
    model, plant = planted("llama")
    with plant.applied(model) as view:
        found = find_concept_vectors(view, lexicon=LEXICON, null_draws=500, adjust=adjust)  # type: ignore[arg-type]
    assert model.n_layers * model.d_mlp == 144
    assert [v.p_least for v in found] == [pytest.approx(least)] * len(found)
    assert found[0].p_value == pytest.approx(1 / 501)
    # Two were planted, and one false among two or more is less than one false alone.
    assert found[0].p_adjusted <= least * (0.51 if adjust == "bh" else 1.01)


@pytest.mark.parametrize("words", [LEXICON, None])
@pytest.mark.parametrize("ends", ["top", "bottom"])
def test_p_values_are_uniform_under_the_null(words: list[str] | None, ends: str) -> None:
    # The value vectors of this model are isotropic, which is what the null assumes.
    model = tiny_model("llama", intermediate_size=400)
    found = find_concept_vectors(model, lexicon=words, top=10_000, ends=ends, null_draws=4000)  # type: ignore[arg-type]
    assert len(found) == 3 * 400
    assert kstest([v.p_value for v in found], "uniform").pvalue > 0.01


def test_a_smaller_end_is_found_only_where_it_is_looked_for() -> None:
    model, plant = planted("llama", sign=-1)
    with plant.applied(model) as view:
        top = find_concept_vectors(view, lexicon=LEXICON, alpha=0.05)
        bottom = find_concept_vectors(view, lexicon=LEXICON, alpha=0.05, ends="bottom", k=4)
        both = find_concept_vectors(view, lexicon=LEXICON, alpha=0.05, ends="both", k=4)
    assert top == ()
    assert {(v.layer, v.neuron, v.sign) for v in bottom} == {(*at, -1) for at in PLACES}
    assert set(bottom[0].top_tokens) == set(LEXICON)
    assert [(v.layer, v.neuron, v.score) for v in both] == [(v.layer, v.neuron, v.score) for v in bottom]
    assert both[0].p_adjusted >= bottom[0].p_adjusted


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_norm_of_a_vector_does_not_matter(size: float) -> None:
    scores = []
    for factor in (1.0, size):
        model, plant = planted("llama", size=factor)
        with plant.applied(model) as view:
            scores.append(find_concept_vectors(view, lexicon=LEXICON, top=2))
    assert [v.score for v in scores[0]] == pytest.approx([v.score for v in scores[1]])
    assert [v.p_value for v in scores[0]] == [v.p_value for v in scores[1]]


def test_without_lexicon_the_coherent_vector_comes_first() -> None:
    model = tiny_model("gpt2")
    # Two tokens are two percent of 99; give twenty of them one meaning, so that the top of one vector is coherent.
    with torch.no_grad():
        model.W_E[20:40] = model.W_E[20] + 0.3 * model.W_E[40:60]
    zero = torch.zeros(model.d_model)
    patch = model.value_patch({(1, 3): model.W_E[20], (1, 4): zero})
    plant = Intervention(Spec("plant", intent="attack"), weights=patch)
    with plant.applied(model) as view:
        found = find_concept_vectors(view, top=1, k=15)
        everything = find_concept_vectors(view, top=10_000)
    assert {20 <= i < 40 for i in found[0].top_ids} == {True}
    assert found[0].score > 0.8
    # A zero vector has no tokens and is never returned.
    assert (1, 4) not in {(v.layer, v.neuron) for v in everything}
    assert len(everything) == model.n_layers * model.d_mlp - 1


def test_a_seed_text_finds_what_its_words_would() -> None:
    model, plant = planted("llama")
    text = " ".join(LEXICON * 4 + [f"t{i}" for i in range(3, 99, 9)])
    background = " ".join(f"t{i}" for i in range(3, 99)) + " " + " ".join(f"t{i}" for i in range(3, 99, 9))
    with plant.applied(model) as view:
        found = find_concept_vectors(view, seed_text=text, background=background, top=2)
        plain = find_concept_vectors(view, seed_text=text, top=2)
    assert {(v.layer, v.neuron) for v in found} == {(v.layer, v.neuron) for v in plain} == set(PLACES)


def test_layers_narrow_the_search_and_negative_ones_count_from_the_end() -> None:
    model, plant = planted("llama")
    with plant.applied(model) as view:
        last = find_concept_vectors(view, lexicon=LEXICON, layers=[-1], top=2)
        assert last == find_concept_vectors(view, lexicon=LEXICON, layers=[2, -1], top=2)
    assert (last[0].layer, last[0].neuron) == (2, 40)
    assert last[1].layer == 2


def test_a_search_repeats_and_changes_nothing() -> None:
    model = tiny_model("gpt2")
    before = bits(model)
    first = find_concept_vectors(model, lexicon=LEXICON, ends="both")
    assert first == find_concept_vectors(model, lexicon=LEXICON, ends="both")
    assert first != find_concept_vectors(model, lexicon=LEXICON, ends="both", seed=1)
    assert_same_bits(model, before)


def test_half_precision_finds_the_same() -> None:
    model, plant = planted("llama")
    with plant.applied(model) as view:
        exact = find_concept_vectors(view, lexicon=LEXICON, top=2)
    model.model.bfloat16()
    with plant.applied(model) as view:
        rough = find_concept_vectors(view, lexicon=LEXICON, top=2)
    assert {(v.layer, v.neuron) for v in rough} == {(v.layer, v.neuron) for v in exact} == set(PLACES)


def test_lexicon_score_is_the_mean_surprise_of_the_ranks(rng: torch.Generator) -> None:
    W_U = torch.randn(12, 40, generator=rng)
    weights = torch.zeros(40, dtype=torch.float64)
    weights[torch.tensor([4, 9, 30])] = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    vectors = torch.randn(300, 12, generator=rng)
    logits = vectors @ W_U
    outside = logits[:, weights == 0]
    slow = [
        sum(-float(weights[i]) * math.log((int((row > one[i]).sum()) + 0.5) / 38) for i in (4, 9, 30))
        for row, one in zip(outside, logits, strict=True)
    ]
    torch.testing.assert_close(LexiconScore(W_U, weights)(vectors), torch.tensor(slow, dtype=torch.float64))


def test_lexicon_score_at_its_ends() -> None:
    W_U = torch.eye(20)
    weights = torch.zeros(20, dtype=torch.float64)
    weights[:2] = 0.5
    best, worst = torch.zeros(20), torch.zeros(20)
    best[:2], worst[:2] = torch.tensor([3.0, 1.0]), -1.0
    score = LexiconScore(W_U, weights)(torch.stack([best, worst, torch.zeros(20)]))
    n = torch.tensor(18.0, dtype=torch.float64)
    expected = [torch.log((n + 1) / 0.5), torch.log((n + 1) / (n + 0.5)), torch.log((n + 1) / (n / 2 + 0.5))]
    torch.testing.assert_close(score, torch.stack(expected))


def test_coherence_score_is_the_mean_pairwise_cosine(rng: torch.Generator) -> None:
    W_U, W_E = torch.randn(6, 30, generator=rng), torch.randn(30, 6, generator=rng)
    vectors = torch.randn(5, 6, generator=rng)
    unit = torch.nn.functional.normalize(W_E.double(), dim=-1)
    slow = []
    for top in (vectors @ W_U).topk(4).indices:
        cosines = unit[top] @ unit[top].T
        slow.append((cosines.sum() - cosines.trace()) / 12)
    torch.testing.assert_close(CoherenceScore(W_U, W_E, k=4)(vectors), torch.stack(slow))
    assert CoherenceScore(W_U, W_E, k=4)(torch.zeros(1, 6)).tolist() == [-1.0]


def test_tokens_that_coincide_are_left_out(rng: torch.Generator) -> None:
    W_E = torch.randn(3000, 16, generator=rng)
    W_E[1500:1600] = 5.0 * W_E[0] + 0.01 * W_E[1500:1600]
    found = distinct_tokens(W_E)
    lost = set(range(3000)) - set(found.tolist())
    assert {0, *range(1500, 1600)} <= lost
    assert len(lost) < 110
    assert distinct_tokens(torch.eye(5)).tolist() == [0, 1, 2, 3, 4]


def test_a_heap_of_untrained_tokens_does_not_lead_the_unsupervised_list() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.W_E[60:99] = model.W_E[60]
        model.W_E[20:40] = model.W_E[20] + 0.3 * model.W_E[40:60]
    rows = {(1, 3): model.W_E[20], (0, 4): model.W_E[60]}
    plant = Intervention(Spec("plant", intent="attack"), weights=model.value_patch(rows))
    with plant.applied(model) as view:
        found = find_concept_vectors(view, top=5, k=15)
        fooled = CoherenceScore(view.W_U, view.W_E, 15)(torch.stack([model.W_E[20], model.W_E[60]]))
    assert {20 <= i < 40 for vector in found for i in vector.top_ids} == {True}
    # With the heap in, the vector that points at it would have won.
    assert float(fooled[1]) > 0.999 > max(float(fooled[0]), found[0].score)


def test_a_vocabulary_of_one_heap_is_refused() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.W_E[:] = model.W_E[0]
    with pytest.raises(VestigeError, match="99 of 99 token embeddings coincide"):
        find_concept_vectors(model)


def test_null_scores_are_sorted_seeded_and_chance_is_one_nat(rng: torch.Generator) -> None:
    weights = torch.zeros(500, dtype=torch.float64)
    weights[:25] = 1 / 25
    score = LexiconScore(torch.randn(64, 500, generator=rng), weights)
    null = null_scores(score, 64, draws=1000, seed=3)
    assert torch.equal(null, null.sort().values)
    assert torch.equal(null, null_scores(score, 64, draws=1000, seed=3))
    assert float(null.mean()) == pytest.approx(1.0, abs=0.05)


def test_p_values_count_ties_as_hits_and_are_never_zero() -> None:
    null = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert p_values(torch.tensor([0.0, 2.0, 2.5, 9.0]), null).tolist() == pytest.approx([1.0, 0.8, 0.4, 0.2])


def test_adjustments_by_hand() -> None:
    p = torch.tensor([0.01, 0.04, 0.03, 0.5])
    assert adjusted(p, method="none").tolist() == p.tolist()
    assert adjusted(p, method="bonferroni").tolist() == pytest.approx([0.04, 0.16, 0.12, 1.0])
    assert adjusted(p, method="bh").tolist() == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_the_lexicon_weighs_tokens() -> None:
    weights = lexicon_weights(shared_model(), LEXICON)
    assert weights[IDS].tolist() == pytest.approx([1 / 4] * 4)
    assert float(weights.sum()) == pytest.approx(1.0)


def test_a_diverged_model_is_refused_instead_of_ranked_first() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.value_vectors(1)[5, 0] = torch.nan
    with pytest.raises(VestigeError, match="value vectors of layer 1 hold NaN"):
        find_concept_vectors(model, lexicon=LEXICON)
    assert len(find_concept_vectors(model, lexicon=LEXICON, layers=[0, 2])) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lexicon": ["t5"], "seed_text": "t5"}, "a lexicon or a seed text, not both"),
        ({"background": "t5"}, "give seed_text too"),
        ({"lexicon": []}, "at least one word"),
        ({"lexicon": ["t5"], "layers": [3]}, "layers of a 3-layer model are 0 to 2, got 3"),
        ({"lexicon": ["t5"], "layers": []}, "got an empty list"),
        ({"lexicon": ["t5"], "top": 0}, "at least 1, got 0"),
        ({"lexicon": ["t5"], "ends": "left"}, "'top', 'bottom' or 'both', got 'left'"),
        ({"lexicon": ["t5"], "adjust": "fdr"}, "'bh', 'bonferroni' or 'none', got 'fdr'"),
        ({"lexicon": ["t5"], "alpha": 0.0}, r"alpha lies in \(0, 1\], got 0.0"),
        ({"lexicon": ["t5"], "null_draws": 0}, "at least 1, got 10 and 0"),
        ({"lexicon": ["t5"], "k": 100}, "k is 1 to d_vocab = 99, got 100"),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        find_concept_vectors(shared_model(), **arguments)  # type: ignore[arg-type]
