"""Evaluation harnesses of others, run on a model or a view with whatever is in force on it.

Each is an optional extra: `pip install 'vestige[lm-eval]'` for the task library of EleutherAI's lm-evaluation-harness,
`pip install 'vestige[inspect]'` for Inspect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hooked import HookedModel, VestigeError

if TYPE_CHECKING:
    from inspect_ai.model import Model

__all__ = ["as_inspect_model", "as_lm"]


def as_lm(
    model: HookedModel,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    max_gen_toks: int = 256,
    add_bos_token: bool | None = None,
    seed: int = 0,
) -> Any:
    """Return an `lm_eval.api.model.LM` that answers as a model or a view does.

    Hand it to `lm_eval.simple_evaluate(model=...)` inside the `with` block of the view. Texts are encoded, cut and
    scored as the harness does it for Hugging Face models. The context of a request is the prompt that gates and edits
    see, its continuation the answer; a text whose perplexity is asked for is prompt as a whole.

    Give each intervention a `use_cache` file of its own: the harness looks answers up by the question alone.

    Args:
        model: A model or a view, with a tokenizer.
        batch_size: Rows per forward pass.
        max_length: Most tokens of a pass; longer contexts lose tokens on the left. By default what the config says.
        max_gen_toks: Most new tokens where a task does not say.
        add_bos_token: Whether the tokenizer adds its special tokens; None leaves it to the tokenizer.
        seed: Of tasks that sample.

    Raises:
        VestigeError: The harness is not installed, the model has no tokenizer or is in training mode, or the tokenizer
            has neither BOS nor EOS.

    Source:
        Gao et al., lm-evaluation-harness 0.4.13, whose `HFLM` gives the same numbers on the same weights. Here
        log-probabilities are always float32, stop texts are cut out after `max_gen_toks` tokens instead of ending the
        generation, and sampling draws from the whole distribution with a seed.
    """
    try:
        from vestige.harness.lm_evaluation import ViewLM
    except ImportError as error:
        raise VestigeError(
            "as_lm needs lm-evaluation-harness; install it with pip install 'vestige[lm-eval]'"
        ) from error
    _check(model)
    return ViewLM(
        model,
        batch_size=batch_size,
        max_length=max_length,
        max_gen_toks=max_gen_toks,
        add_bos_token=add_bos_token,
        seed=seed,
    )


def as_inspect_model(model: HookedModel, *, max_tokens: int = 256, sites: Sequence[str] = ()) -> Model:
    """Return an `inspect_ai.model.Model` that answers as a model or a view does.

    Hand it to `inspect_ai.eval(task, model=...)` inside the `with` block of the view. Messages go through the
    tokenizer's chat template; without one, a single user message is the prompt as it stands. Prompts are asked one at a
    time, so that no answer depends on what else is asked. Decoding is greedy unless the task gives a `temperature`
    above 0; a prompt that is asked again is drawn anew.

    Args:
        model: A model or a view, with a tokenizer.
        max_tokens: Most new tokens where a task does not say; fewer where the positions end.
        sites: Sites whose activation at the last prompt token goes into `ModelOutput.metadata["activations"]`.

    Raises:
        VestigeError: Inspect is not installed, the model has no tokenizer or is in training mode, or there is no such
            site.

    Source:
        UK AI Security Institute, Inspect 0.3.285.
    """
    try:
        from vestige.harness.inspect_evals import inspect_model
    except ImportError as error:
        raise VestigeError("as_inspect_model needs Inspect; install it with pip install 'vestige[inspect]'") from error
    _check(model)
    return inspect_model(model, max_tokens=max_tokens, sites=[model.site_map.resolve(site) for site in sites])


def _check(model: HookedModel) -> None:
    if model.tokenizer is None:
        raise VestigeError("an evaluation harness asks in text, and this HookedModel has no tokenizer; pass tokenizer=")
    if model.model.training:
        raise VestigeError("the model is in training mode, where dropout changes answers; call model.model.eval()")
