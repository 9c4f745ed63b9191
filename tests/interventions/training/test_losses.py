"""Losses against values worked out by hand, their gradients, and what must not change them: shifts and padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked.errors import VestigeError
from interventions.training.gradient_ascent import gradient_ascent_loss
from interventions.training.gradient_difference import gradient_difference_loss
from interventions.training.idk_dpo import idk_dpo_loss
from interventions.training.idk_finetune import idk_nll_loss
from interventions.training.losses import AnswerNLL, answer_nll, cross_entropy, kl_retain, predicting
from interventions.training.npo import npo_loss

CURRENT = torch.tensor([[2, 1, 0, -1], [0, 1, 3, 0], [1, 1, 1, 1]], dtype=torch.float64)
ORIGINAL = torch.tensor([[3, 1, 0, -1], [0, 2, 3, 0], [1, 1, 1, 2]], dtype=torch.float64)
TARGETS, IDK_TARGETS = (0, 1, 3), (1, 2, 0)
TO_6_DIGITS = 1e-6


def one_row(logits: Tensor, targets: tuple[int, ...] = TARGETS) -> tuple[Tensor, Tensor, Tensor]:
    """A BOS token, then the targets; row t of `logits` predicts target t."""
    last = torch.zeros(1, logits.shape[-1], dtype=logits.dtype)
    ids = torch.tensor([[0, *targets]])
    return torch.cat([logits, last])[None], ids, torch.tensor([[False] + [True] * len(targets)])


def nll_of(logits: Tensor, targets: tuple[int, ...] = TARGETS) -> AnswerNLL:
    return answer_nll(*one_row(logits, targets))


def kl_of(logits: Tensor, reference: Tensor) -> Tensor:
    return kl_retain(logits[None], reference[None], torch.ones(1, len(logits), dtype=torch.bool))


def idk_dpo_of(logits: Tensor, reference: Tensor = ORIGINAL, *, scale: str = "2/beta", beta: float = 0.1) -> Tensor:
    return idk_dpo_loss(
        nll_of(logits, IDK_TARGETS),
        nll_of(logits),
        reference_idk=nll_of(reference, IDK_TARGETS),
        reference_forget=nll_of(reference),
        beta=beta,
        scale=scale,  # type: ignore[arg-type]
    )


# Every loss as a function of the current and the original logits of the fixture.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda a, _: cross_entropy(nll_of(a)),
    "cross_entropy_token": lambda a, _: cross_entropy(nll_of(a), reduction="token"),
    "gradient_ascent": lambda a, _: gradient_ascent_loss(nll_of(a)),
    "gradient_difference": lambda a, _: gradient_difference_loss(nll_of(a), nll_of(a, IDK_TARGETS), gamma=0.5),
    "npo": lambda a, a0: npo_loss(nll_of(a), nll_of(a0)),
    "npo_sharp": lambda a, a0: npo_loss(nll_of(a), nll_of(a0), beta=1.0),
    "idk_nll": lambda a, _: idk_nll_loss(nll_of(a, IDK_TARGETS), nll_of(a)),
    "idk_dpo": idk_dpo_of,
    "idk_dpo_plain": lambda a, a0: idk_dpo_of(a, a0, scale="1"),
    "kl_retain": kl_of,
}


def test_token_nll_sums_and_means_of_the_fixture() -> None:
    for logits, tokens in [(CURRENT, (0.440190, 2.210998, 1.386294)), (ORIGINAL, (0.185182, 1.383529, 0.743668))]:
        for t, expected in enumerate(tokens):
            single = answer_nll(logits[None, t : t + 1].repeat(1, 2, 1), *prompted(TARGETS[t]))
            assert single.total.item() == pytest.approx(expected, abs=TO_6_DIGITS)
    current, original = nll_of(CURRENT), nll_of(ORIGINAL)
    assert current.count.tolist() == [3]
    assert current.total.item() == pytest.approx(4.037482, abs=TO_6_DIGITS)
    assert current.mean.item() == pytest.approx(1.345827, abs=TO_6_DIGITS)
    assert original.total.item() == pytest.approx(2.312379, abs=TO_6_DIGITS)
    assert original.mean.item() == pytest.approx(0.770793, abs=TO_6_DIGITS)
    assert nll_of(CURRENT, IDK_TARGETS).total.item() == pytest.approx(3.037482, abs=TO_6_DIGITS)
    assert nll_of(ORIGINAL, IDK_TARGETS).total.item() == pytest.approx(4.312379, abs=TO_6_DIGITS)


def prompted(target: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([[0, target]]), torch.tensor([[False, True]])


def test_reference_values_of_the_losses() -> None:
    forget, same = nll_of(CURRENT), nll_of(CURRENT)
    assert cross_entropy(forget).item() == pytest.approx(1.345827, abs=TO_6_DIGITS)
    assert gradient_ascent_loss(forget).item() == pytest.approx(-1.345827, abs=TO_6_DIGITS)
    assert gradient_difference_loss(forget, same).item() == 0
    assert gradient_difference_loss(forget, same, gamma=0.5, alpha=2.0).item() == pytest.approx(
        1.5 * 1.345827, abs=TO_6_DIGITS
    )
    assert npo_loss(forget, nll_of(ORIGINAL)).item() == pytest.approx(12.212149, abs=TO_6_DIGITS)
    assert npo_loss(forget, nll_of(ORIGINAL), beta=1.0).item() == pytest.approx(0.327899, abs=TO_6_DIGITS)
    assert idk_dpo_of(CURRENT).item() == pytest.approx(11.087105, abs=TO_6_DIGITS)
    assert idk_dpo_of(CURRENT, scale="1").item() == pytest.approx(0.554355, abs=TO_6_DIGITS)
    assert idk_nll_loss(nll_of(CURRENT, IDK_TARGETS)).item() == pytest.approx(3.037482 / 3, abs=TO_6_DIGITS)
    with_retain = idk_nll_loss(nll_of(CURRENT, IDK_TARGETS), nll_of(CURRENT))
    assert with_retain.item() == pytest.approx(3.037482 / 3 + 1.345827, abs=TO_6_DIGITS)
    assert kl_of(CURRENT, ORIGINAL).item() == pytest.approx(0.094038, abs=TO_6_DIGITS)
    assert kl_of(ORIGINAL, CURRENT).item() == pytest.approx(0.090464, abs=TO_6_DIGITS)
    per_token = [kl_of(CURRENT[t : t + 1], ORIGINAL[t : t + 1]).item() for t in range(3)]
    assert per_token == pytest.approx([0.085960, 0.078161, 0.117993], abs=TO_6_DIGITS)


def two_rows_of_unequal_length() -> AnswerNLL:
    logits, ids, answer = one_row(CURRENT)
    short = answer.clone()
    short[0, 2:] = False
    return answer_nll(logits.repeat(2, 1, 1), ids.repeat(2, 1), torch.cat([answer, short]))


def test_token_reduction_weighs_long_answers_more() -> None:
    nll = two_rows_of_unequal_length()
    assert nll.count.tolist() == [3, 1]
    assert cross_entropy(nll).item() == pytest.approx((1.345827 + 0.440190) / 2, abs=TO_6_DIGITS)
    assert cross_entropy(nll, reduction="token").item() == pytest.approx((4.037482 + 0.440190) / 4, abs=TO_6_DIGITS)
    assert gradient_ascent_loss(nll, reduction="token").item() == -cross_entropy(nll, reduction="token").item()


def test_token_reduction_is_the_loss_of_hugging_face(rng: torch.Generator) -> None:
    logits = torch.randn(3, 6, 11, generator=rng, dtype=torch.float64)
    ids = torch.randint(11, (3, 6), generator=rng)
    answer = torch.tensor([[False] * k + [True] * (6 - k) for k in (1, 3, 5)])
    labels = ids.masked_fill(~answer, -100)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    got = cross_entropy(answer_nll(logits, ids, answer), reduction="token")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str, rng: torch.Generator) -> None:
    random = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    for start in (CURRENT, ORIGINAL, torch.zeros_like(CURRENT), 5 * random):
        logits = start.clone().requires_grad_()
        assert gradcheck(lambda a: LOSSES[name](a, ORIGINAL), (logits,))


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_added_to_a_position_changes_nothing(name: str) -> None:
    """Catches raw-logit NPO and KL, which look right at the start of training."""
    shift = torch.tensor([[3.0], [-7.0], [40.0]], dtype=torch.float64)
    loss = LOSSES[name](CURRENT, ORIGINAL)
    torch.testing.assert_close(LOSSES[name](CURRENT + shift, ORIGINAL), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(LOSSES[name](CURRENT, ORIGINAL + shift), loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_flows_into_the_reference(name: str) -> None:
    logits, reference = CURRENT.clone().requires_grad_(), ORIGINAL.clone().requires_grad_()
    LOSSES[name](logits, reference).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
    assert reference.grad is None


def padded(logits: Tensor, ids: Tensor, answer: Tensor, *, side: str, extra: int) -> tuple[Tensor, Tensor, Tensor]:
    """Put `extra` positions of NaN logits, which some attention kernels do leave there, on one side."""
    width = (extra, 0) if side == "left" else (0, extra)
    pad = torch.nn.functional.pad
    return pad(logits, (0, 0, *width), value=math.nan), pad(ids, width, value=3), pad(answer, width, value=False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 7])
def test_padding_changes_neither_value_nor_gradient(side: str, extra: int, rng: torch.Generator) -> None:
    plain = torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)
    ids = torch.randint(6, (2, 5), generator=rng)
    answer = torch.tensor([[False, False, True, True, True], [False, True, True, False, False]])
    real = torch.ones(2, 5, dtype=torch.bool)

    def values(logits: Tensor, ids: Tensor, answer: Tensor, real: Tensor) -> list[Tensor]:
        nll = answer_nll(logits, ids, answer)
        reference = AnswerNLL(nll.total.detach() * 0.7, nll.count)
        prompts = predicting(answer)
        return [
            nll.total,
            cross_entropy(nll),
            npo_loss(nll, reference),
            kl_retain(logits, logits.detach() ** 2, real),
            kl_retain(logits, logits.detach() ** 2, prompts),
        ]

    logits = plain.clone().requires_grad_()
    wide_logits, wide_ids, wide_answer = padded(logits, ids, answer, side=side, extra=extra)
    wide_real = padded(logits, ids, real, side=side, extra=extra)[2]
    expected, got = values(plain, ids, answer, real), values(wide_logits, wide_ids, wide_answer, wide_real)
    for want, have in zip(expected, got, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-13, atol=1e-13)

    bare = plain.clone().requires_grad_()
    torch.stack([v.sum() for v in values(bare, ids, answer, real)]).sum().backward()
    torch.stack([v.sum() for v in got]).sum().backward()
    torch.testing.assert_close(logits.grad, bare.grad, rtol=1e-12, atol=1e-13)


def test_a_row_scores_the_same_alone_and_in_a_batch(rng: torch.Generator) -> None:
    logits = torch.randn(4, 6, 9, generator=rng, dtype=torch.float64)
    ids, answer = torch.randint(9, (4, 6), generator=rng), torch.rand(4, 6, generator=rng) < 0.5
    answer[:, 0], answer[:, 3] = False, True
    together = answer_nll(logits, ids, answer)
    for row in range(4):
        alone = answer_nll(logits[row : row + 1], ids[row : row + 1], answer[row : row + 1])
        torch.testing.assert_close(together[row : row + 1].total, alone.total, rtol=1e-13, atol=0)
    picked = together[torch.tensor([3, 0])]
    assert picked.total.tolist() == [together.total[3].item(), together.total[0].item()]
    assert picked.count.tolist() == [together.count[3].item(), together.count[0].item()]


def test_preference_losses_average_over_rows() -> None:
    totals = [nll_of(CURRENT).total, nll_of(ORIGINAL).total, 2 * nll_of(CURRENT).total]
    rows = AnswerNLL(torch.cat(totals), torch.tensor([3, 3, 3]))
    start = nll_of(ORIGINAL)[torch.tensor([0, 0, 0])]
    alone = [(rows[i : i + 1], start[i : i + 1]) for i in range(3)]
    npo = torch.stack([npo_loss(row, first) for row, first in alone]).mean()
    dpo = torch.stack([idk_dpo_loss(first, row, reference_idk=row, reference_forget=first) for row, first in alone])
    torch.testing.assert_close(npo_loss(rows, start), npo)
    torch.testing.assert_close(idk_dpo_loss(start, rows, reference_idk=rows, reference_forget=start), dpo.mean())


def test_start_values() -> None:
    start = nll_of(ORIGINAL)
    for beta in (0.1, 1.0):
        assert npo_loss(start, start, beta=beta).item() == pytest.approx(2 / beta * math.log(2), abs=1e-12)
        assert idk_dpo_of(ORIGINAL, beta=beta).item() == pytest.approx(2 / beta * math.log(2), abs=1e-12)
    assert npo_loss(nll_of(ORIGINAL + 3), start).item() == pytest.approx(13.862944, abs=TO_6_DIGITS)
    assert kl_of(ORIGINAL + 3, ORIGINAL).item() == pytest.approx(0, abs=1e-15)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    logits = at.clone().requires_grad_()
    return torch.autograd.grad(loss(logits), logits)[0]


def test_gradient_ascent_pulls_by_one_hot_minus_probability() -> None:
    grad = gradient(lambda a: gradient_ascent_loss(nll_of(a)), CURRENT)
    assert (3 * grad[0]).tolist() == pytest.approx([0.356086, -0.236883, -0.087144, -0.032059], abs=TO_6_DIGITS)


@pytest.mark.parametrize(("beta", "weight"), [(0.1, 0.913958), (1.0, 0.302430)])
def test_npo_is_gradient_ascent_on_sums_with_a_weight(beta: float, weight: float) -> None:
    ascent = gradient(lambda a: -nll_of(a).total.mean(), CURRENT)
    npo = gradient(lambda a: npo_loss(nll_of(a), nll_of(ORIGINAL), beta=beta), CURRENT)
    torch.testing.assert_close(npo, weight * ascent, rtol=0, atol=1e-6)


def test_npo_starts_as_gradient_ascent_on_sums_and_ends_with_no_pull() -> None:
    ascent = gradient(lambda a: -nll_of(a).total.mean(), ORIGINAL)
    start = gradient(lambda a: npo_loss(nll_of(a), nll_of(ORIGINAL)), ORIGINAL)
    torch.testing.assert_close(start, ascent, rtol=1e-12, atol=0)
    forgotten = ORIGINAL.clone()
    forgotten[range(3), list(TARGETS)] -= 400
    assert gradient(lambda a: -nll_of(a).total.mean(), forgotten).abs().max() > 0.2
    assert gradient(lambda a: npo_loss(nll_of(a), nll_of(ORIGINAL)), forgotten).abs().max() < 1e-40


def test_npo_with_a_small_beta_is_gradient_ascent_on_sums() -> None:
    ascent = gradient(lambda a: -nll_of(a).total.mean(), CURRENT)
    npo = gradient(lambda a: npo_loss(nll_of(a), nll_of(ORIGINAL), beta=1e-9), CURRENT)
    torch.testing.assert_close(npo, ascent, rtol=1e-8, atol=1e-8)


def test_npo_uses_sums_so_that_long_answers_saturate() -> None:
    """Each token lost 0.5 nats: a row of 40 tokens is nearly done, a row of one has hardly begun."""
    reference = AnswerNLL(torch.tensor([40.0, 1.0]), torch.tensor([40, 1]))
    total = (reference.total + 0.5 * reference.count).requires_grad_()
    npo_loss(AnswerNLL(total, reference.count), reference, beta=1.0).backward()
    assert total.grad is not None
    assert total.grad[0].abs() < 1e-8
    assert total.grad[1].abs() > 0.3


def test_idk_dpo_trades_the_answer_for_the_refusal() -> None:
    descent = gradient(idk_dpo_of, ORIGINAL)
    expected = gradient(lambda a: nll_of(a, IDK_TARGETS).total.mean() - nll_of(a).total.mean(), ORIGINAL)
    torch.testing.assert_close(descent, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(idk_dpo_of, CURRENT), 20 * gradient(lambda a: idk_dpo_of(a, scale="1"), CURRENT)
    )


def test_kl_is_never_negative_and_zero_only_for_equal_distributions(rng: torch.Generator) -> None:
    for scale in (1e-3, 1.0, 30.0):
        logits, reference = scale * torch.randn(2, 50, 9, generator=rng, dtype=torch.float64)
        assert kl_of(logits, reference).item() > 0
        assert kl_of(logits, logits).item() == pytest.approx(0, abs=1e-14)


def test_predicting_marks_the_position_before_each_answer_token() -> None:
    answer = torch.tensor([[False, False, True, True], [False, True, False, False]])
    assert predicting(answer).tolist() == [[False, True, True, False], [True, False, False, False]]


def test_half_precision_logits_are_scored_in_float32() -> None:
    nll = nll_of(CURRENT.bfloat16())
    assert nll.total.dtype == torch.float32
    assert nll.total.item() == pytest.approx(4.037482, abs=TO_6_DIGITS)
    assert kl_of(CURRENT.half(), ORIGINAL.half()).item() == pytest.approx(0.094038, abs=TO_6_DIGITS)


def test_detached_values_have_no_graph() -> None:
    nll = nll_of(CURRENT.clone().requires_grad_())
    assert nll.total.requires_grad
    assert not nll.detach().total.requires_grad


def test_inputs_are_left_as_they_were() -> None:
    logits, ids, answer = one_row(CURRENT)
    before = logits.clone(), ids.clone(), answer.clone()
    first, second = answer_nll(logits, ids, answer), answer_nll(logits, ids, answer)
    kl_retain(logits, logits * 2, answer)
    assert torch.equal(first.total, second.total)
    assert all(torch.equal(a, b) for a, b in zip((logits, ids, answer), before, strict=True))


def test_an_empty_answer_names_its_row() -> None:
    logits, ids, answer = (x.repeat(3, *[1] * (x.ndim - 1)) for x in one_row(CURRENT))
    answer[1] = False
    with pytest.raises(VestigeError, match="`answer` marks nothing in row 1 of 3"):
        answer_nll(logits, ids, answer)
    with pytest.raises(VestigeError, match="`mask` marks nothing in row 1 of 3"):
        kl_retain(logits, logits, answer)


def test_what_cannot_be_scored_is_refused() -> None:
    logits, ids, answer = one_row(CURRENT)
    first = answer.clone()
    first[0, 0] = True
    with pytest.raises(VestigeError, match="row 0 marks position 0"):
        answer_nll(logits, ids, first)
    with pytest.raises(VestigeError, match=r"must be in 0\.\.3, got -100"):
        answer_nll(logits, torch.where(answer, -100, ids), answer)
    with pytest.raises(VestigeError, match="empty batch"):
        answer_nll(logits[:0], ids[:0], answer[:0])
    nll = nll_of(CURRENT)
    with pytest.raises(VestigeError, match=r"beta must be a finite number above 0, got 0\.0"):
        npo_loss(nll, nll, beta=0.0)
    with pytest.raises(VestigeError, match=r"it has \[1\] per row, the model in training \[3\]"):
        npo_loss(nll, AnswerNLL(nll.total, torch.tensor([1])))
    two = two_rows_of_unequal_length()
    with pytest.raises(VestigeError, match="got 1 refusals for 2 rows"):
        idk_dpo_loss(nll, two, reference_idk=nll, reference_forget=two)


@pytest.fixture
def untyped(request: pytest.FixtureRequest) -> None:
    """Skip where annotations are checked at run time: there, jaxtyping refuses the call before we can."""
    if request.config.getoption("--jaxtyping-packages"):
        pytest.skip("jaxtyping raises first")


@pytest.mark.usefixtures("untyped")
def test_wrong_shapes_and_names_are_refused() -> None:
    logits, ids, answer = one_row(CURRENT)
    with pytest.raises(VestigeError, match=r"ids \[1, 3\] and answer mask \[1, 4\]"):
        answer_nll(logits, ids[:, :3], answer)
    with pytest.raises(VestigeError, match=r"got \[4, 4\] and \[1, 4\]"):
        answer_nll(logits[0], ids, answer)
    with pytest.raises(VestigeError, match=r"boolean mask, got torch\.int64"):
        answer_nll(logits, ids, answer.long())
    with pytest.raises(VestigeError, match="must have one shape"):
        kl_retain(logits, logits[:, :2], answer)
    with pytest.raises(VestigeError, match="'mean' or 'token', got 'sum'"):
        cross_entropy(nll_of(CURRENT), reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="'2/beta' or '1', got '2'"):
        idk_dpo_of(CURRENT, scale="2")
