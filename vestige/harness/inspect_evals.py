"""The model provider that Inspect asks: replies of a view to messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from hooked import HookedModel, TokenBatch, VestigeError
from vestige.harness.in_force import in_force, label

# Settings of Inspect that would change which tokens are chosen or how many replies there are.
UNSUPPORTED = (
    "top_p",
    "top_k",
    "best_of",
    "num_choices",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "prompt_logprobs",
    "response_schema",
)
# Seeds of different tasks stay apart for as many draws of one prompt.
DRAWS = 1 << 20


class ViewAPI(ModelAPI):
    """A model or a view behind Inspect's interface; `as_inspect_model` makes it and says what its arguments are."""

    def __init__(self, model_name: str, *, model: HookedModel, max_tokens: int, sites: Sequence[str]) -> None:
        super().__init__(model_name)
        self._model, self._max_tokens, self._sites = model, max_tokens, list(sites)
        self._tokenizer: Any = model.tokenizer
        self._asked: Counter[str] = Counter()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Reply to messages.

        Raises:
            VestigeError: Tools or a setting that is not supported, or several messages and no chat template.
        """
        if tools:
            raise VestigeError("a HookedModel calls no tools; take them out of the task")
        wrong = next((name for name in UNSUPPORTED if getattr(config, name) is not None), None)
        if wrong is not None:
            raise VestigeError(
                f"generation setting '{wrong}' is not supported; there are max_tokens, temperature, seed and stop_seqs"
            )
        text, templated = self._prompt(input)
        batch = self._model.tokenize(text, prepend_bos=False if templated else None)
        limit = getattr(self._model.config, "max_position_embeddings", None)
        wanted = config.max_tokens or self._max_tokens
        room = wanted if limit is None else min(wanted, limit - batch.ids.shape[1])
        if room < 1:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        return self._reply(text, batch, room, "max_tokens" if room == wanted else "model_length", config)

    def _reply(self, text: str, batch: TokenBatch, room: int, full: Any, config: GenerateConfig) -> ModelOutput:
        sampled = bool(config.temperature)
        (tokens,) = self._model.generate_tokens(
            batch,
            max_new_tokens=room,
            do_sample=sampled,
            temperature=config.temperature or 1.0,
            seed=(config.seed or 0) * DRAWS + self._asked[text],
        )
        self._asked[text] += 1
        said = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        cut = min((at for at in map(said.find, config.stop_seqs or ()) if at >= 0), default=None)
        read = int(batch.mask.sum())
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=said[:cut], model=self.model_name, source="generate"),
                    stop_reason=full if cut is None and len(tokens) == room else "stop",
                )
            ],
            usage=ModelUsage(input_tokens=read, output_tokens=len(tokens), total_tokens=read + len(tokens)),
            metadata={"activations": self._activations(batch)} if self._sites else None,
        )

    def _activations(self, batch: TokenBatch) -> dict[str, list[float]]:
        _, cache = self._model.run_with_cache(batch, names_filter=self._sites, pos_slice=-1, return_type=None)
        return {site: cache[site].detach().float().flatten().tolist() for site in self._sites}

    def _prompt(self, messages: Sequence[ChatMessage]) -> tuple[str, bool]:
        """Return the text that is continued, and whether a chat template wrote it."""
        if self._tokenizer.chat_template is not None:
            said = [{"role": message.role, "content": message.text} for message in messages]
            text = self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            return str(text), True
        if len(messages) != 1 or messages[0].role != "user":
            roles = ", ".join(message.role for message in messages)
            raise VestigeError(
                f"without a chat template the prompt is one user message, got {roles}; set tokenizer.chat_template"
            )
        return messages[0].text, False

    def max_tokens(self) -> int | None:
        """Most new tokens where a task does not say."""
        return self._max_tokens

    def max_connections(self) -> int:
        """One prompt at a time."""
        return 1


def inspect_model(model: HookedModel, *, max_tokens: int, sites: Sequence[str]) -> Model:
    """Return a model of Inspect around a view."""
    made = cast(Any, _provider)(label(model), model=model, max_tokens=max_tokens, sites=sites)
    # What goes into the log; the view itself has no data form.
    return Model(made, GenerateConfig(), in_force(model))


_provider = modelapi(name="vestige")(ViewAPI)
