from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, LowRankDelta, UnlearnData, VestigeError
from hooked.adapter import adapted
from hooked.weights import parameters_of, values_of
from interventions.batches import encode
from interventions.training.fila import adapters_of, begin, fila, fisher, importance
from interventions.training.gradient_ascent import gradient_ascent_loss
from interventions.training.loku import ihl_loss, loku
from interventions.training.losses import answer_nll, cross_entropy
from tests.contracts import InterventionContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "lora": 4, "progress": False}
TO_6_DIGITS = 5e-7
CURRENT = torch.tensor([[2, 1, 0, -1], [0, 1, 3, 0], [1, 1, 1, 1]], dtype=torch.float64)
TARGETS = (0, 1, 3)


class TestLoKU(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return loku(model, data, **FAST)


class TestLoKUWithoutFisher(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return loku(model, data, fisher=False, retain_weight=0.0, **FAST)


def ihl_of(logits: Tensor, targets: tuple[int, ...] = TARGETS, **settings: Any) -> Tensor:
    """Score one row whose logits at position t predict targets[t]."""
    row = torch.cat([logits, torch.zeros_like(logits[:1])])[None]
    ids = torch.tensor([[0, *targets]])
    answer = torch.tensor([[False] + [True] * len(targets)])
    return ihl_loss(row, ids, answer, **settings)


def test_reference_values_of_the_hinge() -> None:
    alone = [ihl_of(CURRENT[t : t + 1], (TARGETS[t],)).item() for t in range(3)]
    assert alone == pytest.approx([1.407031, 0.299815, 1.0], abs=TO_6_DIGITS)
    assert ihl_of(CURRENT).item() == pytest.approx(0.902282, abs=TO_6_DIGITS)
    logits = CURRENT[:1].clone().requires_grad_()
    (grad,) = torch.autograd.grad(ihl_of(logits, (0,)), logits)
    assert grad[0].tolist() == pytest.approx([0.381821, -0.333302, -0.035470, -0.013049], abs=TO_6_DIGITS)


def test_the_gradient_is_the_closed_form(rng: torch.Generator) -> None:
    logits = torch.randn(1, 7, generator=rng, dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(ihl_of(logits, (3,)), logits)
    p = logits.detach()[0].softmax(-1)
    m = int(p.where(torch.arange(7) != 3, 0.0).argmax())
    closed = -p * (p[3] - p[m])
    closed[3], closed[m] = p[3] * (1 + p[m] - p[3]), -p[m] * (1 + p[3] - p[m])
    torch.testing.assert_close(grad[0], closed)
    assert gradcheck(lambda a: ihl_of(a, (3,)), (logits,))


def test_the_hinge_is_bounded_and_lets_go_where_gradient_ascent_does_not() -> None:
    for scale, value in ((80.0, 2.0), (-80.0, 0.0)):
        assert ihl_of(torch.tensor([[scale, 0.0, -50.0]], dtype=torch.float64), (0,)).item() == pytest.approx(value)
    logits = torch.tensor([[-30.0, 0.0, 5.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(ihl_of(logits, (0,)), logits)
    assert abs(grad[0, 0].item()) < 1e-12
    row, ids, answer = torch.cat([logits, logits])[None], torch.tensor([[1, 0]]), torch.tensor([[False, True]])
    (ascent,) = torch.autograd.grad(gradient_ascent_loss(answer_nll(row, ids, answer)), logits)
    assert ascent[0, 0].item() == pytest.approx(1)


def test_logits_that_look_like_probabilities_are_still_logits() -> None:
    inside = torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64)
    p = inside.softmax(-1)[0]
    assert ihl_of(inside, (0,)).item() == pytest.approx(float(1 + p[0] - p[1]))
    torch.testing.assert_close(ihl_of(CURRENT + 7), ihl_of(CURRENT))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_for_nothing(side: str, rng: torch.Generator) -> None:
    logits = torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)
    ids = torch.randint(6, (2, 5), generator=rng)
    answer = torch.tensor([[False, False, True, True, True], [False, True, False, False, False]])
    width = (4, 0) if side == "left" else (0, 4)
    pad = torch.nn.functional.pad
    wide = (pad(logits, (0, 0, *width), value=float("nan")), pad(ids, width), pad(answer, width))
    rows = [ihl_loss(logits[i : i + 1], ids[i : i + 1], answer[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(ihl_loss(*wide), (3 * rows[0] + rows[1]) / 4)
    torch.testing.assert_close(ihl_loss(*wide, reduction="mean"), (rows[0] + rows[1]) / 2)


def test_reference_values_of_fila() -> None:
    weight = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    right, left = fila(weight, torch.tensor([[4.0, 0.0], [9.0, 0.0]]).double(), rank=1, scale=2.0)
    assert right.abs()[0].tolist() == pytest.approx([1.732051, 0], abs=TO_6_DIGITS)
    assert left.abs()[:, 0].tolist() == pytest.approx([0.866021, 0], abs=TO_6_DIGITS)
    base = weight - 2 * left @ right
    assert base.flatten().tolist() == pytest.approx([1.5e-5, 0, 0, 1], abs=TO_6_DIGITS)
    right, _ = fila(weight, torch.tensor([[1.0, 0.0], [100.0, 0.0]]).double(), rank=1, scale=2.0)
    assert right.abs().argmax().item() == 1


def test_importance_is_a_ratio_of_informations() -> None:
    one = torch.tensor([[4.0, 1.0]])
    assert importance(one, torch.tensor([[2.0, 0.0]])).tolist()[0] == pytest.approx([2.0, 1e5], rel=1e-4)


def test_no_other_adapter_of_that_rank_comes_closer(rng: torch.Generator) -> None:
    """Eckart and Young, in the norm that counts rows by rho."""
    weight, needed = (torch.randn(9, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    rho = needed.square().sum(-1).sqrt()[:, None]

    def miss(adapter: Tensor) -> float:
        return float((rho * (weight - adapter)).norm())

    right, left = fila(weight, needed.square(), rank=2, scale=2.0)
    best = miss(2 * left @ right)
    wanted = torch.linalg.svdvals(rho * weight)[2:].norm().item()
    assert best == pytest.approx(wanted, rel=1e-4)
    for _ in range(20):
        other = left + 0.05 * torch.randn(left.shape, generator=rng, dtype=torch.float64)
        assert miss(2 * other @ right) > best


def test_the_randomised_decomposition_is_seeded_and_close(rng: torch.Generator) -> None:
    spectrum = torch.diag(0.5 ** torch.arange(20, dtype=torch.float64))
    basis = torch.linalg.qr(torch.randn(30, 20, generator=rng, dtype=torch.float64)).Q
    weight, needed = basis @ spectrum, torch.ones(30, 20, dtype=torch.float64)
    exact = fila(weight, needed, rank=3)
    state = torch.get_rng_state()
    drawn = [fila(weight, needed, rank=3, exact_up_to=4, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0][0], drawn[1][0])
    for right, left in drawn:
        torch.testing.assert_close(left @ right, exact[1] @ exact[0], atol=1e-6, rtol=0)


def test_fisher_information_is_the_mean_of_squared_batch_gradients(tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    name = model.weight_name("mlp.in", 1)
    weight = parameters_of(model.model)[name]
    items = tiny_data.forget[:5]
    got = fisher(model, {name: weight}, items, batch_size=2)[name]
    total, tokens = torch.zeros_like(weight), 0
    for start in (0, 2, 4):
        batch = encode(model, items[start : start + 2])
        nll = answer_nll(model.logits(batch), batch.ids, batch.answer)
        (grad,) = torch.autograd.grad(cross_entropy(nll, reduction="token"), weight)
        total += int(nll.count.sum()) * grad.square()
        tokens += int(nll.count.sum())
    torch.testing.assert_close(got, total / tokens)
    assert weight.requires_grad
    assert weight.grad is None


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_function_is_the_same_at_step_0_and_the_base_is_shifted(family: str, tiny_data: UnlearnData) -> None:
    model = tiny_model(family)
    student, _ = adapted(model, layers=[0, 2], rank=4, scale=2.0, seed=0)
    shift = begin(student, tiny_data.forget, tiny_data.retain)
    prompts = [item.prompt for item in tiny_data.forget[:4]]
    with torch.no_grad():
        assert (student.logits(prompts) - model.logits(prompts)).abs().max() < 1e-4
    originals = parameters_of(model.model)
    layers = adapters_of(student)
    assert set(shift) == set(layers)
    for name, layer in layers.items():
        base = layer.base_layer.weight
        assert not base.requires_grad
        # Dropping the adapter leaves this, not W.
        assert (base - originals[name]).abs().max() > 1e-3
        torch.testing.assert_close(base - values_of(shift[name]), originals[name], atol=1e-6, rtol=0)
        adapter = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        added = adapter.T if layer.fan_in_fan_out else adapter
        torch.testing.assert_close(added, -values_of(shift[name]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_patch_is_the_whole_change(family: str, tiny_data: UnlearnData) -> None:
    model = shared_model(family)
    still = loku(model, tiny_data, lora=4, steps=0)
    assert still.weights is not None
    assert all(isinstance(delta, LowRankDelta) for delta in still.weights.deltas.values())
    assert max(float(values_of(delta).abs().max()) for delta in still.weights.deltas.values()) < 1e-6
    moved = loku(model, tiny_data, lora=4, steps=1, lr=1e-3)
    assert moved.weights is not None
    assert {delta.left.shape[1] for delta in moved.weights.deltas.values() if isinstance(delta, LowRankDelta)} == {8}
    assert moved.spec.settings["first_loss"] == pytest.approx(first_loss(model, tiny_data), rel=1e-4)


def first_loss(model: HookedModel, data: UnlearnData) -> float:
    """The loss of the original on the first minibatch, as the descent reports it without an adapter's shift."""
    made = loku(model, data, fisher=False, lora=4, steps=1)
    return float(made.spec.settings["first_loss"])


def test_the_view_of_another_intervention_can_be_taught(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    first = loku(model, tiny_data, **FAST)
    with first.applied(model) as view:
        second = loku(view, tiny_data, **FAST)
        before = view.logits("t5 t6")
        with second.applied(view) as both:
            assert (both.logits("t5 t6") - before).abs().max() > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forget_answers_go_and_go_sooner_with_fisher_information(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    same: dict[str, Any] = {"lora": 4, "lr": 5e-3, "epochs": 30, "batch_size": 6, "seed": seed, "progress": False}
    informed, plain = loku(knowing, task, **same), loku(knowing, task, fisher=False, **same)
    with informed.applied(knowing) as view:
        left = probability(view, task.forget)
        assert left < 0.1
        assert probability(view, task.retain) > 0.8
    with plain.applied(knowing) as view:
        assert probability(view, task.forget) > 2 * left
        assert probability(view, task.retain) > 0.8


def test_what_is_refused(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match=r"loku trains adapters .* leave mask= out"):
        loku(model, task, mask={})
    for informed in (True, False):
        with pytest.raises(VestigeError, match=r"loku trains adapters .* leave max_change= out"):
            loku(model, task, fisher=informed, max_change=1e-3)
    assert loku(model, task, parameters=None, mask=None, max_change=None, lora=2, steps=1).weights is not None
    with pytest.raises(VestigeError, match="give their rank with lora="):
        loku(model, task, lora=None)
    with pytest.raises(VestigeError, match="is 1 to 32, got 33"):
        loku(model, task, lora=33)
    with pytest.raises(VestigeError, match="scale of an adapter is above 0, got 0"):
        loku(model, task, lora_scale=0.0, lora=2)
    with pytest.raises(VestigeError, match="loku has no setting 'stepz'; did you mean 'steps'"):
        loku(model, task, stepz=3)  # type: ignore[call-arg]
    with pytest.raises(VestigeError, match="'mean' or 'token', got 'sum'"):
        ihl_of(CURRENT, reduction="sum")
    nothing, last = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[False, False, True]])
    for ids, answer, message in (
        (torch.zeros(1, 3).long(), nothing, "`answer` marks nothing in row 0"),
        (torch.zeros(1, 3).long(), ~nothing, "row 0 marks position 0 as answer"),
        (torch.full((1, 3), -100), last, "answer token ids must be in 0..3, got -100"),
        (torch.zeros(1, 3).long(), last.long(), "answer must be a boolean mask"),
    ):
        with pytest.raises(VestigeError, match=message):
            ihl_loss(CURRENT[None], ids, answer)
