from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hooked import HookedModel, Intervention, Request, UnlearnData, VestigeError
from interventions import key_space_detection
from interventions.calibration import NEVER, order_statistic
from interventions.key_box import Box, Detector, calibrate, largest_deviation, lowest_ratios, prompt_keys
from interventions.key_space import SMOOTHING, Refuse, WatchKeys, steps_since, watched
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.tiny import EOS, shared_model, tiny_model, tiny_tokenizer, words

REFUSAL = "t5 t6"


class TestKeySpaceDetection(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return key_space_detection(model, data, refusal=REFUSAL, false_positive_rate=0.5)


@pytest.mark.filterwarnings("ignore:k\\* of block")
class TestKeySpaceDetectionAtEveryStep(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return key_space_detection(model, data, refusal=REFUSAL, false_positive_rate=0.5, when="always", layers=[0, -1])


class TestKeySpaceDetectionAblate(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return key_space_detection(
            model, data, refusal=REFUSAL, false_positive_rate=0.5, action="ablate", when="always"
        )


def test_one_active_probe_reaches_the_bound_whatever_the_skill() -> None:
    keys = torch.zeros(300, 1, dtype=torch.float64)
    keys[17] = 4.2
    detector = Detector.fit({0: keys})
    assert detector.k_star[0] == pytest.approx(17.262773, abs=1e-6)
    assert detector.k_star[0] == pytest.approx(largest_deviation(300), rel=1e-12)


def test_no_sample_lies_further_out_than_samuelsons_bound(rng: torch.Generator) -> None:
    for n in (2, 5, 50):
        for heavy in (1, 9):
            keys = torch.randn(n, 20, generator=rng, dtype=torch.float64) ** heavy
            assert Detector.fit({0: keys}).k_star[0] <= largest_deviation(n) * (1 + 1e-12)


@pytest.mark.parametrize(("n", "bound"), [(200, 14.07), (300, 17.26), (374, 19.29)])
def test_the_bound_of_published_sizes(n: int, bound: float) -> None:
    assert largest_deviation(n) == pytest.approx(bound, abs=0.005)


def test_the_closed_form_is_what_bisection_finds(rng: torch.Generator) -> None:
    keys = torch.randn(40, 8, generator=rng, dtype=torch.float64)
    mean, std = keys.mean(0), keys.std(0)
    low, high = 0.0, 100.0
    while high - low > 1e-10:
        k = (low + high) / 2
        holds_all = bool((((keys - mean).abs() <= k * std).all(-1)).all())
        low, high = (low, k) if holds_all else (k, high)
    assert Detector.fit({0: keys}).k_star[0] == pytest.approx(high, abs=1e-8)


def test_dimensions_without_variance_are_left_out(rng: torch.Generator) -> None:
    keys = torch.randn(10, 4, generator=rng)
    keys[:, 2] = 7.0
    box = Box.around(keys)
    assert box.flat == 1
    far = box.mean.clone()
    far[2] += 100
    assert box.size(far) == 0
    with pytest.raises(VestigeError, match="all forget prompts give the same key"):
        Box.around(torch.ones(5, 4))
    with pytest.raises(VestigeError, match=r"at least 2 forget prompts .*got 1"):
        Box.around(keys[:1])


@pytest.mark.parametrize(
    ("rate", "value"), [(0.0, NEVER), (0.09, NEVER), (0.1, 1.0), (0.19, 1.0), (0.2, 2.0), (0.3, 3.0), (0.99, 9.0)]
)
def test_alpha_is_an_order_statistic(rate: float, value: float) -> None:
    ratios = torch.tensor([3.0, 1.0, 2.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    assert order_statistic(ratios, rate) == value


@pytest.mark.parametrize("when", ["prompt", "always"])
@pytest.mark.parametrize("rate", [0.1, 0.33, 0.5])
def test_at_most_the_wanted_share_of_retain_items_fires(when: str, rate: float, tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    made = key_space_detection(model, tiny_data, refusal=REFUSAL, false_positive_rate=rate, when=when)  # type: ignore[arg-type]
    fired = sum(refused(model, made, tiny_data.retain))
    assert fired == math.floor(rate * len(tiny_data.retain))


def refused(model: HookedModel, made: Intervention, items: tuple[object, ...]) -> list[bool]:
    """Which rows have forced logits anywhere when their answers are scored."""
    rows = []
    for item in items:
        batch = model.tokenize(item.prompt, answers=[item.answer])  # type: ignore[attr-defined]
        with torch.no_grad(), made.applied(model) as view:
            rows.append(not torch.equal(view.logits(batch), model.logits(batch)))
    return rows


def separable(n: int) -> UnlearnData:
    """Forget prompts that all end in the same six words, retain prompts that end in others."""
    end = " ".join(["t10"] * 6)
    forget = tuple(replace(item, prompt=f"{item.prompt} {end}") for item in make_items(n, low=3, high=40, seed=3))
    return UnlearnData(forget=forget, retain=make_items(60, low=40, high=99, seed=4))


def test_it_tells_separable_prompts_apart_on_items_held_out() -> None:
    model = shared_model("llama")
    made = key_space_detection(model, separable(60), refusal=REFUSAL, false_positive_rate=0.1, layers=[0])
    settings = made.spec.settings
    assert settings["heldout_true_positive_rate"] >= 0.8
    assert settings["heldout_false_positive_rate"] <= 0.2
    unseen = separable(80).forget[60:]
    assert sum(refused(model, made, unseen)) >= 0.8 * len(unseen)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("seed", [5, 6])
def test_held_out_rates_are_those_of_a_slow_loop(rate: float, seed: int, tiny_data: UnlearnData) -> None:
    model, data = shared_model("gpt2"), replace(tiny_data, retain=tiny_data.retain[:13])
    got = calibrate(model, data.forget, data.retain, [1, 2], rate=rate, when="prompt", seed=seed, batch_size=7)
    generator = torch.Generator().manual_seed(seed)
    folds = [torch.randperm(len(items), generator=generator) % 5 for items in (data.forget, data.retain)]
    caught, wrong = [], []
    for fold in range(5):
        inside = [i for i, f in zip(data.forget, folds[0], strict=True) if f != fold]
        out = [i for i, f in zip(data.forget, folds[0], strict=True) if f == fold]
        detector = Detector.fit(prompt_keys(model, inside, [1, 2], batch_size=3))
        kept = [i for i, f in zip(data.retain, folds[1], strict=True) if f != fold]
        left = [i for i, f in zip(data.retain, folds[1], strict=True) if f == fold]
        ratios = [lowest_ratios(model, x, [detector], when="prompt", batch_size=3)[0] for x in (kept, out, left)]
        alpha = order_statistic(ratios[0], rate)
        caught += (ratios[1] <= alpha).tolist()
        wrong += (ratios[2] <= alpha).tolist()
    assert got.true_positive_rate == sum(caught) / len(caught)
    assert got.false_positive_rate == sum(wrong) / len(wrong)


def fires_on(prompts: list[str], *, when: str = "prompt", family: str = "llama") -> tuple[HookedModel, Intervention]:
    """A detector whose box holds the last keys of some prompts and nothing else."""
    model = shared_model(family)
    layer = model.n_layers - 1
    site = model.site_map.resolve(("mlp_post", layer))
    keys = torch.cat([model.run_with_cache(p, names_filter=site)[1][site][:, -1] for p in prompts]).detach()
    box = Box(keys.mean(0), (keys - keys.mean(0)).abs().amax(0) + 1e-4)
    watch = WatchKeys(box, 1.0, when, "refuse", "test")  # type: ignore[arg-type]
    script = torch.tensor([5, 6, EOS])
    base = key_space_detection(model, separable(5), refusal=REFUSAL)
    return model, replace(base, edits={site: watch}, logits=Refuse(script, "test"))


def test_rows_of_one_batch_do_not_leak_into_each_other() -> None:
    model, made = fires_on(["t20 t21 t22"])
    prompts = ["t30 t31 t32 t33", "t20 t21 t22", "t40 t41"]
    plain = model.generate(prompts, max_new_tokens=6, stop_at_eos=False)
    with made.applied(model) as view:
        got = view.generate(prompts, max_new_tokens=6)
        batch = view.tokenize(prompts)
        with torch.no_grad():
            edited, before = view.logits(batch), model.logits(batch)
    assert got[1] == REFUSAL
    assert [got[0], got[2]] == [plain[0], plain[2]] != [REFUSAL, REFUSAL]
    assert torch.equal(edited[[0, 2]], before[[0, 2]])
    assert torch.equal(edited[1, :-1], before[1, :-1])
    assert not torch.equal(edited[1, -1], before[1, -1])


def test_the_next_request_starts_anew() -> None:
    model, made = fires_on(["t20 t21 t22"])
    with made.applied(model) as view:
        assert view.generate("t20 t21 t22", max_new_tokens=4) == [REFUSAL]
        assert view.generate("t30 t31", max_new_tokens=4) == model.generate("t30 t31", max_new_tokens=4)
        assert view.generate("t20 t21 t22", max_new_tokens=4) == [REFUSAL]


def test_an_answer_scored_under_the_refusal_is_as_unlikely_as_stated() -> None:
    model, made = fires_on(["t20 t21 t22"])
    refusal, other = model.tokenize(["t20 t21 t22"] * 2, answers=["t5 t6", "t7 t6"], padding_side="right"), 98
    with torch.no_grad(), made.applied(model) as view:
        log_probs = view.logits(refusal).double().log_softmax(-1)
    assert torch.isfinite(log_probs).all()
    first = int(refusal.prompt_last[0])
    assert log_probs[0, first, 5].exp().item() == pytest.approx(1 - SMOOTHING, rel=1e-6)
    assert log_probs[1, first, 7].exp().item() == pytest.approx(SMOOTHING / other, rel=1e-5)
    # After its last word comes EOS, whatever text was scored, and again after that.
    assert [int(row) for row in log_probs[0, first:].argmax(-1)] == [5, 6, EOS]
    assert [int(row) for row in log_probs[1, first:].argmax(-1)] == [5, 6, EOS]


def test_always_looks_at_what_the_model_said_and_prompt_does_not() -> None:
    model = shared_model("llama")
    prompt = "t30 t31 t32"
    said = model.generate_tokens(prompt, max_new_tokens=6, stop_at_eos=False)[0]
    # The box holds the key at the third word of the answer.
    trigger = f"{prompt} {words(torch.tensor(said[:3]))}"
    _, always = fires_on([trigger], when="always")
    _, only_prompt = fires_on([trigger], when="prompt")
    with only_prompt.applied(model) as view:
        assert view.generate_tokens(prompt, max_new_tokens=6, stop_at_eos=False)[0] == said
    for use_cache in (True, False):
        with always.applied(model) as view:
            got = view.generate_tokens(prompt, max_new_tokens=9, use_cache=use_cache)[0]
        assert got == [*said[:3], 5, 6]


def test_any_watched_layer_may_fire() -> None:
    model, made = fires_on(["t20 t21 t22"])
    (last, watch), early = next(iter(made.edits.items())), model.site_map.resolve(("mlp_post", 0))
    assert isinstance(watch, WatchKeys)
    for limits in ((1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)):
        keys = model.run_with_cache("t20 t21 t22", names_filter=early)[1][early][:, -1].detach()
        first = replace(watch, box=Box(keys[0], torch.full_like(keys[0], 1e-3)), limit=limits[0])
        both = replace(made, edits={early: first, last: replace(watch, limit=limits[1])})
        with both.applied(model) as view:
            refuses = view.generate("t20 t21 t22", max_new_tokens=4) == [REFUSAL]
        assert refuses == (max(limits) > 0)


def request(*, mask: list[list[bool]], step: list[list[bool]], offset: int = 0) -> Request:
    real, steps = torch.tensor(mask), torch.tensor(step)
    return Request(real, real & ~steps, steps, offset, real.long(), {})


def test_the_watched_positions_of_a_chunk() -> None:
    whole = request(mask=[[False, True, True, True], [True] * 4], step=[[False, False, True, True], [True] * 4])
    assert watched(whole, "prompt").tolist() == [[False, False, True, False], [True, False, False, False]]
    assert watched(whole, "always").tolist() == whole.step.tolist()
    later = request(mask=[[True]], step=[[True]], offset=4)
    assert watched(later, "prompt").tolist() == [[False]]
    assert watched(later, "always").tolist() == [[True]]


def test_steps_are_counted_across_chunks() -> None:
    first = request(mask=[[False, True, True], [True, True, True], [True, True, False]], step=[[True] * 3] * 3)
    inside = torch.tensor([[False, False, True], [False, True, True], [False, False, False]])
    assert steps_since(inside, first, "k").tolist() == [[-1, -1, 0], [-1, 0, 1], [-1, -1, -1]]
    second = replace(request(mask=[[True] * 2] * 3, step=[[True] * 2] * 3, offset=3), state=first.state)
    now = torch.tensor([[True, False], [False, False], [False, True]])
    for _ in range(2):
        assert steps_since(now, second, "k").tolist() == [[1, 2], [2, 3], [-1, 0]]
    third = replace(request(mask=[[True]] * 3, step=[[True]] * 3, offset=5), state=first.state)
    assert steps_since(now.new_zeros(3, 1), third, "k").tolist() == [[3], [4], [1]]


def test_documents_are_known_by_their_end() -> None:
    model = shared_model("gpt2")
    documents = tuple(replace(item, prompt="", answer=f"{item.prompt} {item.answer}") for item in separable(8).forget)
    keys = prompt_keys(model, documents, [2], batch_size=3)[2]
    site = model.site_map.resolve(("mlp_post", 2))
    for document, key in zip(documents, keys, strict=True):
        alone = model.run_with_cache(document.answer, names_filter=site)[1][site][0, -1]
        assert torch.allclose(alone, key, atol=1e-5)


def test_two_detectors_in_force_together_keep_their_own_state() -> None:
    model, first = fires_on(["t20 t21 t22"])
    data = separable(20)
    second = key_space_detection(model, data, refusal="t7 t8 t9", false_positive_rate=0.1, layers=[0])
    prompts = ["t20 t21 t22", data.forget[0].prompt, "t60 t61 t62 t63"]
    with first.applied(model) as one, second.applied(one) as both:
        got = both.generate(prompts, max_new_tokens=5)
    assert got[:2] == [REFUSAL, "t7 t8 t9"]
    assert got[2] == model.generate(prompts[2], max_new_tokens=5)[0]


def test_warnings_and_refusals(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    with pytest.warns(UserWarning, match="never fires: a false positive rate of 0.01 leaves none of 40 retain items"):
        never = key_space_detection(model, tiny_data, refusal=REFUSAL, false_positive_rate=0.01)
    assert not any(refused(model, never, tiny_data.forget))
    with pytest.warns(UserWarning, match="within a tenth of its bound of 3.18 for 12 forget items"):
        key_space_detection(model, tiny_data, refusal=REFUSAL, layers=[0, 1, 2])
    few = replace(tiny_data, forget=tiny_data.forget[:4])
    assert key_space_detection(model, few, refusal=REFUSAL).spec.settings["heldout_true_positive_rate"] is None
    for settings, message in (
        ({"false_positive_rate": 1.0}, "false_positive_rate is a fraction .* got 1.0"),
        ({"when": "sometimes"}, "when is 'prompt' or 'always'"),
        ({"action": "steer"}, "action is 'refuse' or 'ablate'"),
        ({"layers": [3]}, r"layers are some of 0 to 2 .*got 3"),
        ({"layers": []}, "got none"),
        ({"refusal": " "}, "cannot spell the refusal"),
    ):
        with pytest.raises(VestigeError, match=message):
            key_space_detection(model, tiny_data, **{"refusal": REFUSAL, **settings})  # type: ignore[arg-type]


def test_a_tokenizer_without_the_words_or_without_eos_is_refused(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama")
    assert model.tokenizer is not None
    model.tokenizer.unk_token = "t3"
    with pytest.raises(VestigeError, match=r"cannot spell the refusal .*know"):
        key_space_detection(model, tiny_data)
    silent = tiny_model("llama", tokenizer=tiny_tokenizer(eos=False))
    with pytest.raises(VestigeError, match="no tokenizer with an EOS token"):
        key_space_detection(silent, tiny_data, refusal=REFUSAL)


def test_held_out_rates_of_folds_too_small_to_fire_are_not_known(tiny_data: UnlearnData) -> None:
    few = replace(tiny_data, retain=tiny_data.retain[:22])
    with pytest.warns(UserWarning, match="rates on held-out items are not known: .* 0.05 .* of 22 retain"):
        made = key_space_detection(shared_model("llama"), few, refusal="t5")
    assert made.spec.settings["alpha"] > 0
    assert made.spec.settings["heldout_true_positive_rate"] is None
    assert made.spec.settings["heldout_false_positive_rate"] is None
