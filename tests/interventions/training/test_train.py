from __future__ import annotations

from dataclasses import replace
from math import inf, log, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, LowRankDelta, Spec, UnlearnData, VestigeError
from hooked.weights import parameters_of, values_of
from interventions import Minibatch, cross_entropy, forget_nll, gradient_ascent, npo, retain_nll, train
from interventions.training.descent import DivergedError
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.tiny import FAMILIES, shared_model, tiny_model


def learn(model: HookedModel, batch: Minibatch) -> Tensor:
    """The plainest loss: teach the forget answers."""
    return cross_entropy(forget_nll(model, batch))


class TestTrain(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        trained = train(model, data, learn, steps=3, lr=1e-2)
        return Intervention(
            Spec("train", "removal", ("forget",), "arXiv:0000.00000", trained.summary), weights=trained.patch
        )


@pytest.fixture(scope="module")
def data() -> UnlearnData:
    return UnlearnData(make_items(6, low=3, high=40, seed=1), make_items(9, low=40, high=99, seed=2))


@pytest.mark.parametrize(
    ("cooldown", "rates"), [(0.0, [1.0] * 4), (0.5, [1.0, 1.0, 1.0, 0.5]), (1.0, [1.0, 0.75, 0.5, 0.25])]
)
def test_training_does_what_a_plain_loop_does(data: UnlearnData, cooldown: float, rates: list[float]) -> None:
    model, oracle = tiny_model("gpt2", dtype=torch.float64), tiny_model("gpt2", dtype=torch.float64)
    settings: dict[str, Any] = {"lr": 1e-2, "batch_size": 6, "weight_decay": 0.1, "max_grad_norm": 0.5}
    trained = train(model, data, learn, steps=4, cooldown=cooldown, **settings)
    optimizer = torch.optim.AdamW(oracle.model.parameters(), lr=1e-2, weight_decay=0.1)
    batch = oracle.tokenize([i.prompt for i in data.forget], answers=[i.answer for i in data.forget])
    for step in range(4):
        logits = oracle.logits(batch)[:, :-1].log_softmax(-1)
        nll = -logits.gather(-1, batch.ids[:, 1:, None])[..., 0]
        answer = batch.answer[:, 1:]
        loss = ((nll * answer).sum(-1) / answer.sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(oracle.model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 1e-2 * rates[step]
        optimizer.step()
        assert trained.descent.losses[step] == pytest.approx(loss.item(), rel=1e-9)
    with Intervention(Spec("train", "removal"), weights=trained.patch).applied(model):
        for name, parameter in model.state().items():
            assert torch.allclose(parameter, oracle.state()[name], atol=1e-9), name
    assert trained.descent.losses[-1] < trained.descent.losses[0]


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_and_narrow_models_train(family: str, dtype: torch.dtype, data: UnlearnData) -> None:
    model = tiny_model(family, dtype=dtype, tie_word_embeddings=True)
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    trained = train(model, data, learn, steps=6, lr=3e-3)
    batch = model.tokenize([i.prompt for i in data.forget], answers=[i.answer for i in data.forget])
    assert all(delta.values.dtype == torch.float32 for delta in trained.patch.deltas.values())  # type: ignore[union-attr]
    with torch.no_grad():
        start = cross_entropy(forget_nll(model, Minibatch(batch, torch.arange(6), None)))
        with Intervention(Spec("train", "removal"), weights=trained.patch).applied(model) as view:
            assert view.W_E.data_ptr() == view.W_U.data_ptr()
            assert view.dtype == dtype
            end = cross_entropy(forget_nll(view, Minibatch(batch, torch.arange(6), None)))
    assert end < start - 0.5
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())


def test_updates_smaller_than_the_models_precision_are_kept(data: UnlearnData) -> None:
    trained = train(tiny_model("llama", dtype=torch.bfloat16), data, learn, steps=1, lr=1e-5)
    delta = trained.patch.deltas["model.layers.1.mlp.down_proj.weight"].values  # type: ignore[union-attr]
    # One step of Adam moves every weight by about the learning rate; at 0.3, bfloat16 has steps of 1e-3.
    assert (delta.abs() < 2e-5).all()
    assert (delta.abs() > 5e-6).double().mean() > 0.9


def test_dropout_stays_off_and_the_mode_of_the_model_as_it_was(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    wanted = train(model, data, learn, steps=3).descent.losses
    model.model.train()
    assert train(model, data, learn, steps=3).descent.losses == wanted
    assert model.model.training


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_trains(family: str, data: UnlearnData) -> None:
    trained = train(tiny_model(family), data, learn, steps=2, lr=1e-2)
    assert len(trained.descent.losses) == 2
    assert trained.patch.deltas


def test_what_is_prepared_is_part_of_the_patch_and_within_every_bound(data: UnlearnData) -> None:
    model, name = tiny_model("llama"), "model.layers.1.mlp.up_proj.weight"
    before = parameters_of(model.model)[name].detach().clone()
    inside = torch.zeros_like(before, dtype=torch.bool)
    inside[:, 0] = True
    seen: list[list[str]] = []

    def zero(chosen: Any) -> None:
        seen.append(list(chosen))
        for parameter in chosen.values():
            parameter.data.zero_()

    def after(**settings: Any) -> Tensor:
        patch = train(model, data, learn, steps=0, prepare=zero, **settings).patch
        with Intervention(Spec("prepared", "removal"), weights=patch).applied(model):
            return parameters_of(model.model)[name].detach().clone()

    assert after(parameters=lambda own: own == name).abs().max() < 1e-7
    assert torch.equal(after(mask={name: inside})[:, 1:], before[:, 1:])
    bounded = (after(parameters=lambda own: own == name, max_change=0.05) - before).abs()
    assert bounded.max().item() == pytest.approx(0.05, rel=1e-5)
    assert seen == [[name]] * 3
    with pytest.raises(VestigeError, match="which an adapter cannot"):
        after(lora=2)


def test_only_chosen_parameters_change(data: UnlearnData) -> None:
    model = tiny_model("llama")
    trained = train(
        model, data, learn, steps=3, lr=1e-2, weight_decay=0.5, parameters=lambda name: "layers.1.mlp" in name
    )
    assert set(trained.patch.deltas) == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}


def test_entries_outside_a_mask_stay_bit_equal_under_decay_and_momentum(data: UnlearnData) -> None:
    model, name = tiny_model("llama"), "model.layers.1.mlp.down_proj.weight"
    start = parameters_of(model.model)[name].detach().clone()
    mask = torch.zeros_like(start, dtype=torch.bool)
    mask[:, 7] = True
    trained = train(model, data, learn, steps=5, lr=1e-2, weight_decay=0.5, mask={name: mask})
    assert set(trained.patch.deltas) == {name}
    with Intervention(Spec("train", "removal"), weights=trained.patch).applied(model):
        end = parameters_of(model.model)[name].detach().clone()
    assert torch.equal(end[~mask], start[~mask])
    assert (end[mask] != start[mask]).all()


def test_a_tied_parameter_trains_by_either_of_its_names(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    for wanted in ("lm_head.weight", "transformer.wte.weight"):
        trained = train(model, data, learn, steps=1, lr=1e-2, parameters=wanted.__eq__)
        assert len(trained.patch.deltas) == 1
        with Intervention(Spec("train", "removal"), weights=trained.patch).applied(model) as view:
            assert view.W_E.data_ptr() == view.W_U.data_ptr()


def test_frozen_parameters_stay_out_unless_chosen(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(VestigeError, match="no parameter trains; choose some with parameters="):
        train(model, data, learn, steps=1)
    trained = train(model, data, learn, steps=1, parameters=lambda name: name.endswith("ln_f.weight"))
    assert list(trained.patch.deltas) == ["transformer.ln_f.weight"]
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_forget_and_retain_are_shuffled_on_their_own(data: UnlearnData) -> None:
    model = shared_model("gpt2")

    def order(data: UnlearnData, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        forgets, retains = [], []

        def look(current: HookedModel, batch: Minibatch) -> Tensor:
            forgets.append(batch.rows.tolist())
            assert batch.retain is not None
            retains.append(batch.retain.ids.sum(-1).tolist())
            return learn(current, batch)

        train(model, data, look, epochs=3, batch_size=4, seed=seed)
        return forgets, retains

    forgets, retains = order(data, 0)
    assert [len(rows) for rows in forgets] == [4, 2] * 3
    assert [len(rows) for rows in retains] == [4, 4, 1] * 2
    for epoch in range(3):
        assert sorted(forgets[2 * epoch] + forgets[2 * epoch + 1]) == list(range(6))
    assert len({str(forgets[2 * epoch]) for epoch in range(3)}) > 1
    assert order(data, 0) == (forgets, retains)
    assert order(data, 1)[0] != forgets
    twins = replace(data, retain=data.forget)
    of_items = [model.tokenize(item.prompt, answers=[item.answer]).ids.sum().item() for item in data.forget]
    rows, kept = order(twins, 0)
    assert [[of_items[row] for row in batch] for batch in rows] != kept
    fewer = replace(data, forget=data.forget[:5])
    assert order(fewer, 0)[1][:3] == retains[:3]


def test_the_loss_looks_up_what_was_computed_once_by_row(data: UnlearnData) -> None:
    model = shared_model("gpt2")
    silent = replace(data, forget=(replace(data.forget[0], answer=""), *data.forget))
    prompts = [item.prompt for item in data.forget]

    def look(current: HookedModel, batch: Minibatch) -> Tensor:
        for row, ids, mask in zip(batch.rows.tolist(), batch.forget.ids, batch.forget.prompt, strict=True):
            assert current.to_string(ids[mask]) == f"<bos> {prompts[row]}"
        return learn(current, batch)

    train(model, silent, look, steps=4, batch_size=3)


def test_it_stops_when_enough_is_forgotten(data: UnlearnData) -> None:
    model = tiny_model("llama")

    def forget(current: HookedModel, batch: Minibatch) -> Tensor:
        return -cross_entropy(forget_nll(current, batch))

    full = train(model, data, forget, steps=30, lr=3e-3, batch_size=6)
    assert full.descent.stopped == "all 30 steps were taken"
    assert full.descent.forget_probability is None
    short = train(model, data, forget, steps=30, lr=3e-3, batch_size=6, stop_fraction=0.5)
    taken = len(short.descent.losses)
    assert 0 < taken < 30
    assert short.descent.losses == full.descent.losses[:taken]
    assert short.descent.stopped.startswith(f"after {taken} steps the forget probability was ")
    rare = train(model, data, forget, steps=30, lr=3e-3, batch_size=6, stop_fraction=0.5, check_every=taken + 3)
    assert len(rare.descent.losses) == taken + 3
    nothing = train(model, data, forget, steps=0, stop_fraction=0.5)
    assert nothing.descent.losses == ()
    assert nothing.patch.deltas == {}


def test_a_loss_that_is_not_finite_stops_with_the_step_and_nothing_applied(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state().items()}

    factors = iter([1.0, 1.0, float("nan")])

    def breaks(current: HookedModel, batch: Minibatch) -> Tensor:
        return learn(current, batch) * next(factors)

    with pytest.raises(VestigeError, match="mine diverged at step 3 of 9: the loss is nan; nothing was applied"):
        train(model, data, breaks, steps=9, method="mine")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())


def test_a_weight_that_is_not_finite_after_the_last_step_is_caught(data: UnlearnData) -> None:
    def explodes(current: HookedModel, batch: Minibatch) -> Tensor:
        loss = learn(current, batch)
        # Its value is finite and its gradient is not.
        return loss + (loss - loss.detach()).clamp(min=0).sqrt()

    with pytest.raises(VestigeError, match="train diverged at step 1 of 1: the retain loss is nan"):
        train(shared_model("gpt2"), data, explodes, steps=1)
    with pytest.raises(VestigeError, match="train diverged at step 1: a weight is not finite"):
        train(shared_model("gpt2"), replace(data, retain=()), explodes, steps=1)


def test_a_retain_loss_above_its_bound_stops(data: UnlearnData) -> None:
    model = tiny_model("gpt2")

    def ruin(current: HookedModel, batch: Minibatch) -> Tensor:
        return -cross_entropy(retain_nll(current, batch))

    start = model.tokenize([i.prompt for i in data.retain], answers=[i.answer for i in data.retain])
    loss = float(cross_entropy(retain_nll(model, Minibatch(start, torch.arange(9), start))).detach())
    with pytest.raises(
        VestigeError, match=r"train diverged at step \d+ of 40: the retain loss is .* above the bound of"
    ):
        train(model, data, ruin, steps=40, lr=1e-2, retain_bound=loss + 1)
    with pytest.raises(VestigeError, match=f"above the bound of {loss + log(99) / 2:.3g};"):
        train(model, data, ruin, steps=200, lr=3e-2)
    with pytest.raises(VestigeError, match="retain_bound needs retain items"):
        train(model, replace(data, retain=()), learn, steps=1, retain_bound=3.0)


def test_errors_name_what_is_wrong(data: UnlearnData) -> None:
    model = shared_model("gpt2")
    name = "transformer.ln_f.weight"
    everything = {name: torch.ones(32, dtype=torch.bool)}
    for settings, message in (
        ({"batch_size": 0}, "batch_size is a whole number of at least 1, got 0"),
        ({"check_every": 0}, "check_every is a whole number of at least 1, got 0"),
        ({"steps": -1}, "steps is a whole number of at least 0, got -1"),
        ({"steps": 1.5}, "steps is a whole number of at least 0, got 1.5"),
        ({"epochs": nan}, "epochs is a finite number of at least 0, got nan"),
        ({"epochs": inf}, "epochs is a finite number of at least 0, got inf"),
        ({"weight_decay": -1.0}, "weight_decay is a finite number of at least 0, got -1"),
        ({"weight_decay": nan}, "weight_decay is a finite number of at least 0, got nan"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is a number above 0, or None, got 0"),
        ({"max_grad_norm": nan}, "max_grad_norm is a number above 0, or None, got nan"),
        ({"stop_fraction": nan}, "stop_fraction is a number between 0 and 1, or None, got nan"),
        ({"stop_fraction": 5.0}, "stop_fraction is a number between 0 and 1, or None, got 5.0"),
        ({"lr": 0.0}, "lr is a finite number above 0, got 0.0"),
        ({"parameters": lambda name: False}, "no parameter trains"),
        ({"mask": {"nope": torch.ones(1, dtype=torch.bool)}}, "mask names 'nope', and the model has no such parameter"),
        ({"mask": {name: torch.ones(32)}}, f"the mask of '{name}' is torch.float32 of shape .32,., needed bool"),
        ({"mask": {name: torch.ones(3, dtype=torch.bool)}}, r"of shape \(3,\), needed bool of shape \(32,\)"),
        ({"mask": everything, "parameters": lambda name: "wte" in name}, "which parameters= or layers= leaves out"),
    ):
        with pytest.raises(VestigeError, match=message):
            train(model, data, learn, **{"steps": 1, **settings})  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="does not depend on any parameter"):
        train(model, data, lambda current, batch: torch.tensor(1.0), steps=1)
    with pytest.raises(VestigeError, match="this loss needs retain items"):
        train(model, replace(data, retain=()), lambda m, b: cross_entropy(retain_nll(m, b)), steps=1)


def test_quantised_weights_are_refused(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    packed = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    model.model.get_submodule("transformer.h.0.mlp").register_parameter("packed", packed)
    with pytest.raises(VestigeError, match=r"stored as torch.uint8; load the model unquantised"):
        train(model, data, learn, steps=1)


def test_it_trains_under_no_grad_and_leaves_the_callers_gradients_alone(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    parameter = next(model.model.parameters())
    parameter.grad = torch.full_like(parameter, 3.0)
    with torch.no_grad():
        trained = train(model, data, learn, steps=2)
    assert trained.patch.deltas
    assert (parameter.grad == 3).all()


def test_a_view_trains_on_top_of_what_is_in_force(data: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    first = train(model, data, learn, steps=2, lr=1e-2, batch_size=6)
    twice = train(model, data, learn, steps=2, lr=1e-2, batch_size=6, seed=1)
    with Intervention(Spec("train", "removal"), weights=first.patch).applied(model) as view:
        second = train(view, data, learn, steps=2, lr=1e-2, batch_size=6, seed=1)
    assert second.descent.losses[0] < twice.descent.losses[0]


def test_the_bar_is_quiet_away_from_a_terminal(data: UnlearnData, capfd: pytest.CaptureFixture[str]) -> None:
    train(shared_model("gpt2"), data, learn, steps=2)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_bar_shows_steps_loss_and_time_left(
    data: UnlearnData, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hooked.progress._watched", lambda: True)
    train(shared_model("gpt2"), data, learn, steps=2, method="mine")
    shown = capfd.readouterr().err
    assert "mine: 100%" in shown
    assert "2/2 [00:00<00:00" in shown
    assert "loss" in shown
    train(shared_model("gpt2"), data, learn, steps=2, progress=False)
    assert capfd.readouterr().err == ""


def test_long_texts_are_cut_at_the_models_context(data: UnlearnData) -> None:
    model = shared_model("gpt2")
    long = " ".join(["t7"] * 100)
    documents = tuple(replace(item, prompt="", answer=long) for item in data.forget[:2])
    with pytest.warns(UserWarning, match=r"2 of 11 items are longer than the model's 64 positions, and train does not"):
        trained = train(model, replace(data, forget=documents), learn, steps=3, batch_size=1)
    assert len(trained.descent.losses) == 3
    asked = (replace(data.forget[0], prompt=long),)
    with (
        pytest.warns(UserWarning, match="1 of 10 items"),
        pytest.raises(VestigeError, match=r"the prompt 't7 t7.*fills the model's 64 positions, so no answer fits"),
    ):
        train(model, replace(data, forget=asked), learn, steps=1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_the_named_blocks_train(family: str, data: UnlearnData) -> None:
    model = tiny_model(family)
    trained = train(model, data, learn, steps=2, lr=1e-2, layers=[-1, 0])
    blocks = {name.split(".layers." if family == "llama" else ".h.")[1].split(".")[0] for name in trained.patch.deltas}
    assert blocks == {"0", str(model.n_layers - 1)}
    narrowed = train(model, data, learn, steps=2, lr=1e-2, layers=[0], parameters=lambda name: "mlp" in name)
    assert narrowed.patch.deltas
    assert all("mlp" in name for name in narrowed.patch.deltas)
    assert set(narrowed.patch.deltas) < set(trained.patch.deltas)
    assert narrowed.size == sum(p.numel() for n, p in parameters_of(model.model).items() if n in narrowed.patch.deltas)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_trains_low_rank_deltas_of_the_blocks_alone(family: str, data: UnlearnData) -> None:
    model = tiny_model(family)
    trained = train(model, data, learn, steps=5, lr=1e-2, lora=2)
    assert trained.descent.losses[-1] < trained.descent.losses[0]
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    assert trained.patch.deltas
    for name, delta in trained.patch.deltas.items():
        assert isinstance(delta, LowRankDelta)
        assert delta.left.shape[1] == delta.right.shape[0] == 2
        assert (delta.left @ delta.right).shape == before[name].shape
        assert "norm" not in name
    assert trained.size == trained.patch.nbytes // 4
    one = train(model, data, learn, steps=2, lr=1e-2, lora=2, layers=[1])
    assert set(one.patch.deltas) < set(trained.patch.deltas)
    name = model.weight_name("mlp.out", 1)
    single = train(model, data, learn, steps=2, lr=1e-2, lora=2, parameters=lambda parameter: parameter == name)
    assert set(single.patch.deltas) == {name}


@pytest.mark.parametrize("weight_decay", [0.0, 10.0])
def test_no_weight_changes_by_more_than_its_bound(data: UnlearnData, weight_decay: float) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    free, bounded = (
        train(model, data, learn, steps=6, lr=1e-2, max_change=bound, weight_decay=weight_decay)
        for bound in (None, 2e-3)
    )
    largest = [max(float(values_of(delta).abs().max()) for delta in t.patch.deltas.values()) for t in (free, bounded)]
    assert largest[0] > 1e-2
    assert largest[1] == pytest.approx(2e-3, rel=1e-9)
    assert bounded.descent.losses[-1] < bounded.descent.losses[0]


def test_an_adapter_learns_what_its_patch_says(data: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    seen: list[Tensor] = []

    def spy(current: HookedModel, batch: Minibatch) -> Tensor:
        seen.append(current.logits("t5 t6 t7").detach().clone())
        return learn(current, batch)

    first = train(model, data, spy, steps=3, lr=1e-2, lora=2, seed=5)
    again = train(model, data, spy, steps=4, lr=1e-2, lora=2, seed=5)
    assert len(again.descent.losses) == 4
    assert torch.equal(seen[0], model.logits("t5 t6 t7").detach())
    with torch.no_grad(), Intervention(Spec("train", "removal"), weights=first.patch).applied(model) as view:
        # The fourth loss of the second run is taken where the first one ended.
        assert torch.allclose(view.logits("t5 t6 t7"), seen[-1], atol=1e-5)
    other = train(model, data, learn, steps=1, lr=1e-2, lora=2, seed=6)
    assert other.descent.losses[0] == pytest.approx(first.descent.losses[0])


def test_the_scale_of_an_adapter_is_the_factor_on_what_it_adds(data: UnlearnData) -> None:
    """Where nothing but the factor differs, Adam moves the adapter alike and the model twice as far."""
    model = tiny_model("gpt2", dtype=torch.float64)
    name = model.weight_name("mlp.out", 1)
    one, two = (
        train(model, data, learn, steps=1, lora=2, lora_scale=scale, parameters=name.__eq__).patch.deltas[name]
        for scale in (1.0, 2.0)
    )
    torch.testing.assert_close(values_of(two), 2 * values_of(one), rtol=1e-4, atol=1e-9)
    assert values_of(one).abs().max() > 0


def test_settings_that_do_not_go_together_are_refused(data: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match=r"lora= trains adapters .*leave mask= and max_change= out"):
        train(model, data, learn, lora=2, max_change=1e-3)
    with pytest.raises(VestigeError, match=r"no projection of blocks \[0, 1, 2\] gets an adapter; choose some of"):
        train(model, data, learn, lora=2, parameters=lambda name: False)
    with pytest.raises(VestigeError, match="max_change is a finite number above 0, or None, got 0"):
        train(model, data, learn, max_change=0.0)
    with pytest.raises(VestigeError, match="rank is at least 1, got 0"):
        train(model, data, learn, lora=0)
    with pytest.raises(VestigeError, match=r"layers are some of 0 to 2 .* got 7"):
        train(model, data, learn, layers=[7])
    with pytest.raises(VestigeError, match="got none"):
        train(model, data, learn, layers=[])
    with pytest.raises(VestigeError, match="gradient_ascent has no setting 'learning_rate'; train takes lr, epochs"):
        gradient_ascent(model, data, learning_rate=1.0)  # type: ignore[call-arg]
    with pytest.raises(VestigeError, match="did you mean 'epochs'"):
        gradient_ascent(model, data, epoch=1)  # type: ignore[call-arg]


def test_a_method_records_what_it_trained_with(data: UnlearnData) -> None:
    made = gradient_ascent(shared_model("gpt2"), data, steps=2, lr=1e-3, layers=(0,), seed=3)
    settings = made.spec.settings
    assert {name: settings[name] for name in ("steps", "lr", "layers", "seed", "stop_fraction", "reduction")} == {
        "steps": 2,
        "lr": 1e-3,
        "layers": [0],
        "seed": 3,
        "stop_fraction": 0.05,
        "reduction": "mean",
    }
    assert settings["steps_taken"] == 2
    assert settings["trained_numbers"] > 0


def test_settings_nobody_chose_are_recorded_too(data: UnlearnData) -> None:
    made = gradient_ascent(shared_model("gpt2"), data, epochs=1.0)
    settings = made.spec.settings
    expected = {"lr": 1e-4, "epochs": 1.0, "batch_size": 16, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 0}
    assert {name: settings.get(name) for name in expected} == expected
    assert not settings.keys() & {"steps", "parameters_chosen", "masked", "progress"}
    name = "transformer.ln_f.weight"
    entries = torch.arange(32) < 5
    one = gradient_ascent(
        shared_model("gpt2"), data, steps=1, mask={name: entries}, parameters=lambda n: n.endswith("ln_f.weight")
    )
    assert one.spec.settings["masked"] is one.spec.settings["parameters_chosen"] is True
    assert one.spec.settings["steps"] == 1
    assert "epochs" not in one.spec.settings


def test_the_trained_numbers_are_those_of_the_mask_and_the_unmasked(data: UnlearnData) -> None:
    model, entries = shared_model("gpt2"), torch.arange(32) < 5
    trained = train(
        model, data, learn, steps=1, mask={"transformer.ln_f.weight": entries}, parameters=lambda n: "ln_f" in n
    )
    assert trained.size == 5 + 32


@pytest.mark.parametrize("lora", [None, 2])
def test_any_method_takes_a_mask_or_an_adapter_and_can_be_taken_back(data: UnlearnData, lora: int | None) -> None:
    model = tiny_model("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    name = "transformer.h.1.mlp.c_proj.weight"
    mask = torch.zeros(before[name].shape, dtype=torch.bool)
    mask[3] = True
    settings: dict[str, Any] = {"lora": lora} if lora else {"mask": {name: mask}}
    made = npo(model, data, steps=2, lr=1e-2, **settings)
    with made.applied(model):
        changed = {n for n, tensor in model.state().items() if not torch.equal(tensor, before[n])}
        assert changed == {name} if lora is None else name in changed
        if lora is None:
            assert torch.equal(model.state()[name][~mask], before[name][~mask])
            assert made.spec.settings["trained_numbers"] == int(mask.sum())
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state().items())


@pytest.mark.parametrize("settings", [{}, {"lora": 2}, {"max_change": 2e-3}])
def test_the_copy_can_be_watched_after_each_step(data: UnlearnData, settings: dict[str, Any]) -> None:
    model = tiny_model("gpt2")
    start = {name: tensor.clone() for name, tensor in parameters_of(model.model).items()}
    batch = model.tokenize([i.prompt for i in data.forget], answers=[i.answer for i in data.forget])
    seen: dict[int, float] = {}
    moved: list[float] = []

    def watch(step: int, current: HookedModel) -> None:
        assert current.model is not model.model
        with torch.no_grad():
            seen[step] = float(learn(current, Minibatch(batch, torch.arange(6), None)))
        if "lora" not in settings:
            moved.append(
                max(float((p - start[n]).detach().abs().max()) for n, p in parameters_of(current.model).items())
            )

    trained = train(model, data, learn, steps=3, lr=1e-2, batch_size=6, after_step=watch, **settings)
    # The loss before the next update is the one after this one.
    assert list(seen) == [1, 2, 3]
    assert [seen[1], seen[2]] == pytest.approx(trained.descent.losses[1:], rel=1e-4)
    if "max_change" in settings:
        assert max(moved) == pytest.approx(2e-3, rel=1e-3)
    plainly = train(model, data, learn, steps=3, lr=1e-2, batch_size=6, **settings)
    assert trained.descent.losses == plainly.descent.losses


def test_what_diverges_is_told_from_what_is_refused(data: UnlearnData) -> None:
    with pytest.raises(DivergedError, match="diverged at step 1 of 1: the loss is nan"):
        train(shared_model("gpt2"), data, lambda model, batch: learn(model, batch) * nan, steps=1)
    assert issubclass(DivergedError, VestigeError)
