"""The model class that lm-evaluation-harness asks: log-likelihoods and continuations of a view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from hooked import HookedModel, VestigeError
from hooked.generate import Decoding, decode
from hooked.tokens import PaddingSide, TokenBatch, pad_rows
from vestige.harness.in_force import in_force
from vestige.progress import steps

# Context, continuation, and whether the continuation is an answer to the context or more of the same text.
Pair = tuple[tuple[int, ...], tuple[int, ...], bool]
# Settings that narrow the distribution that is drawn from; where nothing is drawn they change nothing.
NARROWING = ("top_p", "top_k", "min_p", "typical_p")


class ViewLM(TemplateLM):  # type: ignore[misc]
    """A model or a view behind the harness's interface; `as_lm` makes it and says what its arguments are."""

    def __init__(
        self,
        model: HookedModel,
        *,
        batch_size: int,
        max_length: int | None,
        max_gen_toks: int,
        add_bos_token: bool | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        tokenizer: Any = model.tokenizer
        self.tokenizer = tokenizer
        self.batch_size, self.max_gen_toks = batch_size, max_gen_toks
        self.max_length = int(max_length or resolve_max_length(model.config, model.tokenizer))
        self._device, self._add_bos_token, self._seed = model.device, add_bos_token, seed
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        found = next((token for token in ends if token is not None), None)
        if found is None:
            raise VestigeError("an empty context is a BOS or an EOS token, and this tokenizer has neither")
        self._prefix = int(found)
        if batch_size < 1 or self.max_length < 2:
            raise VestigeError(
                f"batch_size is at least 1 and max_length at least 2, got {batch_size} and {self.max_length}"
            )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        eos = self.tokenizer.eos_token_id
        return self._prefix if eos is None else int(eos)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Name under which the harness keeps encoded requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Encode a text, with special tokens unless it begins with one already."""
        special = self._add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self._prefix)):
            special = False
        chosen = {} if special is None else {"add_special_tokens": special}
        return list(self.tokenizer.encode(string, **chosen))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation in the tokenizer's format."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness writes beside its results."""
        state = self.model.state().values()
        distinct = {tensor.data_ptr(): tensor.numel() for tensor in state}
        return {
            **in_force(self.model),
            "model_num_parameters": sum(distinct.values()),
            "model_dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs: list[Pair] = [(tuple(context), tuple(said), True) for _, context, said in requests]
        found = self._scored(pairs, show=not disable_tqdm)
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows that predict each token once."""
        windows: list[list[Pair]] = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            rolling = get_rolling_token_windows(tokens, self._prefix, self.max_length, context_len=1)
            disjoint = map(make_disjoint_window, rolling)
            windows.append([(tuple(context), tuple(said), False) for context, said in disjoint])
        found = iter(self._scored([pair for some in windows for pair in some], show=not disable_tqdm))
        totals = [sum(next(found)[0] for _ in some) for some in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @torch.no_grad()
    def _scored(self, pairs: Sequence[Pair], *, show: bool) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation in nats, and whether greedy decoding gives it."""
        for context, said, _ in pairs:
            if not context or not 0 < len(said) <= self.max_length:
                raise VestigeError(
                    f"a continuation has 1 to {self.max_length} tokens after a context of at least 1, "
                    f"got {len(said)} after {len(context)}"
                )
        # The last token is predicted and not read, so continuations that differ there alone share a pass.
        alike: dict[Pair, list[int]] = {}
        for i, (context, said, answers) in enumerate(pairs):
            alike.setdefault((context, said[:-1], answers), []).append(i)
        passes = sorted(alike, key=lambda pair: len(pair[0]) + len(pair[1]), reverse=True)
        found: dict[int, tuple[float, bool]] = {}
        starts = range(0, len(passes), self.batch_size)
        for start in steps(starts, "scoring", show=show, label=lambda start: ""):
            chunk = passes[start : start + self.batch_size]
            batch = self._batch(chunk)
            logits, ends = self.model.logits(batch), (batch.last + 1).tolist()
            for row, (pair, end) in enumerate(zip(chunk, ends, strict=True)):
                for i in alike[pair]:
                    wanted = torch.tensor(pairs[i][1], device=logits.device)
                    found[i] = _likelihood(logits[row, end - len(wanted) : end], wanted)
        return [found[i] for i in range(len(pairs))]

    def _batch(self, chunk: Sequence[Pair]) -> TokenBatch:
        rows = [(*context, *read)[-self.max_length :] for context, read, _ in chunk]
        flags = [
            [answers and i >= len(row) - len(read) for i in range(len(row))]
            for row, (_, read, answers) in zip(rows, chunk, strict=True)
        ]
        return self._padded(rows, flags, "right")

    def _padded(self, rows: Sequence[Sequence[int]], flags: Sequence[Sequence[bool]], side: PaddingSide) -> TokenBatch:
        pad = self.tokenizer.pad_token_id
        return pad_rows(rows, flags, pad=self._prefix if pad is None else pad, padding_side=side).to(self.model.device)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue contexts until a stop text, which is cut off with what follows it."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        chunks: list[list[int]] = []
        contexts = [self.tok_encode(request.args[0]) or [self._prefix] for request in requests]
        for members in groups.values():
            longest = sorted(members, key=lambda i: len(contexts[i]), reverse=True)
            chunks += [longest[start : start + self.batch_size] for start in range(0, len(longest), self.batch_size)]
        replies: dict[int, str] = {}
        done = 0
        for chunk in steps(chunks, "generating", show=not disable_tqdm, label=lambda chunk: ""):
            given = requests[chunk[0]].args[1]
            settings, stops = self._decoding(given)
            room = self.max_length - settings.max_new_tokens
            if room < 1:
                raise VestigeError(
                    f"{settings.max_new_tokens} new tokens leave no room for a context in {self.max_length} positions; "
                    "give max_gen_toks to as_lm, or in the task's generation_kwargs"
                )
            rows = [contexts[i][-room:] for i in chunk]
            batch = self._padded(rows, [[False] * len(row) for row in rows], "left")
            for i, row in zip(chunk, decode(self.model, batch, settings, first_row=done), strict=True):
                text = str(self.tokenizer.decode(row, skip_special_tokens=True))
                replies[i] = postprocess_generated_text(text, stops, None)
                self.cache_hook.add_partial("generate_until", requests[i].args, replies[i])
            done += len(chunk)
        return [replies[i] for i in range(len(requests))]

    def _decoding(self, given: dict[str, Any]) -> tuple[Decoding, list[str]]:
        wanted = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        stops = handle_stop_sequences(wanted.pop("until"), eos=self.tokenizer.decode(self.eot_token_id))
        new, sampled = wanted.pop("max_gen_toks"), bool(wanted.pop("do_sample"))
        temperature = float(wanted.pop("temperature", 0.0) or 0.0)
        left = [name for name in wanted if sampled or name not in NARROWING]
        if left:
            raise VestigeError(
                f"generation setting '{left[0]}' is not supported; there are until, max_gen_toks, do_sample and "
                "temperature"
            )
        return Decoding(new, do_sample=sampled, temperature=temperature if sampled else 1.0, seed=self._seed), stops


def _likelihood(logits: Tensor, said: Tensor) -> tuple[float, bool]:
    logs = torch.log_softmax(logits.float(), -1)
    each = logs.gather(-1, said[:, None])
    return float(each.sum()), bool((logits.argmax(-1) == said).all())
