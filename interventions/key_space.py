"""Key Space Detection: recognise forget prompts by where their MLP keys lie, and refuse to answer them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, Intervention, Item, Request, Spec, UnlearnData, VestigeError
from hooked.sites import SiteLike
from interventions.batches import split_of

from .calibration import NEVER, check_rate
from .key_box import Box, Calibrated, Detector, When, calibrate, largest_deviation, watched_layers

Action = Literal["refuse", "ablate"]

SMOOTHING = 1e-6
_SATURATED = 0.9


@dataclass(frozen=True)
class WatchKeys:
    """Edit of `mlp.hook_post`: notes which keys lie in the box; with action `ablate` zeroes a row's keys from there on.

    Args:
        box: Fitted on forget prompts.
        limit: Size up to which the box holds a key; below 0 it never does.
        when: As in `key_space_detection`.
        action: As in `key_space_detection`.
        name: Where the note is kept in the state of a request; shared with `Refuse`.
    """

    box: Box
    limit: float
    when: When
    action: Action
    name: str

    def __call__(self, activation: Float[Tensor, "batch pos d_mlp"], /, hook: HookContext) -> Tensor:
        request = hook.request
        if request is None:
            raise VestigeError(
                "key_space_detection has to know which tokens are the prompt; run it through Intervention.applied"
            )
        inside = (self.box.size(activation) <= self.limit) & watched(request, self.when).to(activation.device)
        if self.action == "ablate":
            age = steps_since(inside, request, (self.name, hook.name))
            return activation.masked_fill((age >= 0)[..., None], 0.0)
        request.state.setdefault((self.name, request.offset), []).append(inside)
        return activation


@dataclass(frozen=True)
class Refuse:
    """Logit edit: from the step at which a row fired on, its logits spell the refusal and then EOS.

    Args:
        script: Token ids of the refusal, EOS last.
        name: As in `WatchKeys`.
    """

    script: Int[Tensor, " length"]
    name: str

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], request: Request, /) -> Tensor:
        noted: list[Tensor] = request.state[self.name, request.offset]
        inside = torch.stack([one.to(logits.device) for one in noted]).any(0)
        age = steps_since(inside, request, self.name)
        if not bool((age >= 0).any()):
            return logits
        token = self.script.to(logits.device)[age.clamp(min=0, max=len(self.script) - 1)]
        forced = torch.full_like(logits, log(SMOOTHING / (logits.shape[-1] - 1)))
        forced.scatter_(-1, token[..., None], log(1 - SMOOTHING))
        return torch.where((age >= 0)[..., None], forced, logits)


def watched(request: Request, when: When) -> Bool[Tensor, "batch pos"]:
    """Mark the positions of a chunk at which the detector looks."""
    if when == "always":
        return request.step
    if request.offset > 0:
        return torch.zeros_like(request.step)
    return request.step & (request.step.long().cumsum(-1) == 1)


def steps_since(inside: Bool[Tensor, "batch pos"], request: Request, key: Any) -> Int[Tensor, "batch pos"]:
    """Count the decoding steps since each row first fired: 0 where it fires, -1 before that and on padding.

    The state of the request carries the count from chunk to chunk, so a row that fired stays so to the end. A chunk is
    counted once, however often it is asked for: an intervention may be applied inside itself.
    """
    counted = (key, "steps since", request.offset)
    if counted in request.state:
        known: Tensor = request.state[counted]
        return known
    batch, width = inside.shape
    columns = torch.arange(width, device=inside.device)
    first = torch.where(inside, columns, width).amin(-1)
    carried: Tensor = request.state.get(key, torch.full((batch,), -1)).to(inside.device)
    start = torch.where(carried >= 0, -carried, first)
    request.state[key] = torch.where((carried >= 0) | (first < width), width - start, -1)
    age = torch.where(request.mask.to(inside.device), columns - start[:, None], -1).clamp(min=-1)
    request.state[counted] = age
    return age


def key_space_detection(
    model: HookedModel,
    data: UnlearnData,
    *,
    layers: Sequence[int] | None = None,
    false_positive_rate: float = 0.05,
    when: When = "prompt",
    action: Action = "refuse",
    refusal: str = "I don't know.",
    seed: int = 0,
    batch_size: int = 32,
) -> Intervention:
    """Refuse on every row whose MLP key at the last prompt token lies in a box around the keys of the forget prompts.

    The box is `max_dim |key - mean| / std <= alpha k*`, where `k*` is the largest such value among the forget prompts:
    the smallest box that holds them all, in closed form. `alpha` is the `floor(false_positive_rate * n)`-th smallest
    value of `size / k*` among the n retain items, so that at most that fraction of them is refused (barring ties). With
    several layers each item counts with its smallest value, and any layer may fire. The key of a document is that at
    its end.

    With action `refuse` the logits of a row that fired spell the refusal and then EOS, from the step at which it fired:
    the token has probability 1 - 1e-6 and all others an equal share of 1e-6, so log-probabilities stay finite and show
    nothing of what the model knows. Scoring a given text meets the same logits as decoding. All other rows stay
    bit-identical, and the decision is made anew in every request.

    Args:
        model: Any model with dense MLPs; not changed.
        data: Needs `forget` and `retain`.
        layers: Blocks whose keys are watched; the last one when not given (published).
        false_positive_rate: Largest fraction of retain items that may fire, in [0, 1).
        when: `prompt` looks at the last prompt token, `always` at every decoding step, so also at what the model said
            itself.
        action: `refuse`, or `ablate`, which zeroes a row's keys in a layer from the token on at which that layer fired.
        refusal: What is said instead of an answer.
        seed: Of the split into folds.
        batch_size: Items per forward pass while fitting.

    Returns:
        The intervention. Its `spec.settings` hold `alpha`; `k_star`, its bound and the number of dimensions without
        variance (left out of the box) per layer; and `heldout_true_positive_rate` and `heldout_false_positive_rate`: of
        boxes and alphas fitted on four fifths of the items, measured on the last fifth (None below five items of a
        split, and where four fifths of the retain items are too few for the rate).

    Raises:
        VestigeError: A split is missing, a setting is out of range, or the tokenizer cannot spell the refusal.

    Source:
        Li, Sun, Weng 2025, arXiv:2503.21730. Its release finds `k*` by bisection, sets alpha by hand, and keeps one
        flag for a batch of one. By Samuelson's inequality `k* <= (n - 1) / sqrt(n)`, and sparse keys reach it: then
        `k*` says how many prompts there were and nothing about the skill. Never compare it across n. Since alpha is
        calibrated, `k*` cancels as long as one layer is watched; with several it weighs them, and a warning says where
        it is within a tenth of its bound.
    """
    _check(false_positive_rate, when, action)
    forget = split_of(data, "forget", method="key_space_detection")
    retain = split_of(data, "retain", method="key_space_detection")
    chosen = watched_layers(model, layers)
    fitted = calibrate(
        model, forget, retain, chosen, rate=false_positive_rate, when=when, seed=seed, batch_size=batch_size
    )
    _warn(fitted, rate=false_positive_rate, n_forget=len(forget), n_retain=len(retain))
    detector, alpha = fitted.detector, fitted.alpha
    name = _name(detector)
    edits: dict[SiteLike, Edit] = {
        model.site_map.resolve(("mlp_post", layer)): WatchKeys(box, alpha * detector.k_star[layer], when, action, name)
        for layer, box in detector.boxes.items()
    }
    settings = {
        "layers": tuple(chosen),
        "false_positive_rate": false_positive_rate,
        "when": when,
        "action": action,
        "refusal": refusal,
        "seed": seed,
        "alpha": alpha,
        "k_star": tuple(detector.k_star.values()),
        "k_star_bound": largest_deviation(len(forget)),
        "dimensions_without_variance": tuple(box.flat for box in detector.boxes.values()),
        "heldout_true_positive_rate": fitted.true_positive_rate,
        "heldout_false_positive_rate": fitted.false_positive_rate,
    }
    spec = Spec(
        "key_space_detection", "suppression", ("forget", "retain"), "Li, Sun, Weng 2025, arXiv:2503.21730", settings
    )
    refuse = Refuse(_script(model, forget[0], refusal), name) if action == "refuse" else None
    return Intervention(spec, edits=edits, logits=refuse)


def _warn(fitted: Calibrated, *, rate: float, n_forget: int, n_retain: int) -> None:
    if fitted.alpha == NEVER:
        warnings.warn(
            f"key_space_detection never fires: a false positive rate of {rate} leaves none of {n_retain} retain items "
            "to calibrate on; raise the rate or give more retain items",
            UserWarning,
            stacklevel=3,
        )
    k_star, bound = fitted.detector.k_star, largest_deviation(n_forget)
    saturated = [layer for layer in k_star if k_star[layer] >= _SATURATED * bound]
    if saturated and len(k_star) > 1:
        warnings.warn(
            f"k* of block {saturated[0]} is within a tenth of its bound of {bound:.3g} for {n_forget} forget items, so "
            "it says how many items there were; give more items, or watch one layer, where it does not matter",
            UserWarning,
            stacklevel=3,
        )


def _check(rate: float, when: str, action: str) -> None:
    check_rate(rate)
    if when not in get_args(When):
        raise VestigeError(f"when is 'prompt' or 'always', got {when!r}")
    if action not in get_args(Action):
        raise VestigeError(f"action is 'refuse' or 'ablate', got {action!r}")


def _script(model: HookedModel, item: Item, refusal: str) -> Int[Tensor, " length"]:
    """Spell the refusal as it stands after a prompt, and end it."""
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise VestigeError("a refusal has to end, and there is no tokenizer with an EOS token; set tokenizer.eos_token")
    batch = model.tokenize([item.prompt], answers=[refusal]) if refusal.strip() else None
    ids = [] if batch is None else batch.ids[batch.answer].tolist()
    if not ids or tokenizer.unk_token_id in ids:
        raise VestigeError(
            f"the tokenizer cannot spell the refusal {refusal!r}; choose one in the words of its vocabulary"
        )
    return torch.tensor([*ids, tokenizer.eos_token_id])


def _name(detector: Detector) -> str:
    """Return a name that two different detectors in force together do not share."""
    digest = hashlib.sha256()
    for layer, box in detector.boxes.items():
        digest.update(f"{layer}".encode() + box.mean.numpy().tobytes() + box.std.numpy().tobytes())
    return f"key_space_detection {digest.hexdigest()[:16]}"
