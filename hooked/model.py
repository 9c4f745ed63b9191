"""HookedModel: a Hugging Face causal language model whose activations and weights can be read, edited and restored.

The native forward runs untouched (its attention kernels, KV cache, quantised or adapter weights); sites are reached by hooks on its own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked.cache import ActivationCache, checksum
from hooked.capture import NamesFilter, PosSlice, Recorder, select_sites
from hooked.decoder import Decoder
from hooked.errors import VestigeError
from hooked.generate import decode
from hooked.geometry import Geometry, geometry_of
from hooked.hooks import Attachment, Edit, HookContext, Request, StopForward, attached
from hooked.sites import SiteLike, SiteMap, Tap, layer_of
from hooked.tokens import Inputs, PaddingSide, TokenBatch, encode, from_tensor, pad_rows
from hooked.weights import ColumnDelta, Delta, RowDelta, WeightPatch

ReturnType = Literal["logits", "loss", "both"] | None
FwdHooks = Sequence[tuple[SiteLike | Callable[[str], bool], Edit]]


class HookedModel:
    """A causal language model with sites.

    Args:
        model: A loaded `PreTrainedModel` (fine-tuned, PEFT-wrapped, bf16 or dispatched over devices), or a TransformerLens `TransformerBridge`.
        tokenizer: Its tokenizer; only needed for text.
        default_prepend_bos: Whether a BOS is put before text when the tokenizer has one.

    Raises:
        VestigeError: TransformerLens has no adapter for the architecture, or a bridge was booted around the model behind our back.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, *, default_prepend_bos: bool = True) -> None:
        self._geometry: Geometry = geometry_of(model)
        self.model: nn.Module = self._geometry.model
        self.tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        self.default_prepend_bos = default_prepend_bos
        # Contexts of hooks that a caller keeps in place; shared with every view of the model.
        self._standing: list[HookContext] = []

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        device_map: Any = None,
        tokenizer: Any = None,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a model and its tokenizer from a Hugging Face directory or hub id.

        Args:
            id_or_path: Directory or hub id.
            dtype: Parameter dtype; float32 when not given, with a warning if the checkpoint holds another.
            device: Where the model goes; the CPU when not given. Use `device_map` to dispatch over several.
            device_map: Passed to Hugging Face.
            tokenizer: A tokenizer to use instead of the directory's own.
            trust_remote_code: Passed to Hugging Face; off unless you turn it on.
            kwargs: Passed to `AutoModelForCausalLM.from_pretrained`, e.g. `attn_implementation="eager"` or `revision=`.

        Raises:
            VestigeError: Nothing loadable is there.
        """
        from hooked.loading import load_pretrained

        model, found = load_pretrained(
            id_or_path, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code, tokenizer=tokenizer, **kwargs
        )
        if device is not None:
            model = model.to(device)
        return cls(model, found)

    # What the model is.

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that can be read and edited, in canonical spelling."""
        return tuple(self.site_map.taps)

    @property
    def site_map(self) -> SiteMap:
        """How sites are found on the modules."""
        return self._geometry.sites

    @property
    def name(self) -> str:
        """Directory or hub id the model came from, or its class name."""
        return str(getattr(self.config, "_name_or_path", "") or type(self.model).__name__)

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.model.config

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.site_map.n_layers

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self._geometry.n_heads

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self._geometry.d_head

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.W_E.shape[1])

    @property
    def d_mlp(self) -> int:
        """Number of neurons of an MLP."""
        return int(self.value_vectors(0).shape[0])

    @property
    def d_vocab(self) -> int:
        """Rows of the embedding matrix."""
        return int(self.W_E.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the embedding sits, and so where ids go."""
        return self._geometry.weight("embed").device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters themselves."""
        return self._geometry.weight("embed").dtype

    def state(self) -> dict[str, Tensor]:
        """Return every parameter and buffer by name; references, not copies."""
        return {**dict(self.model.named_parameters(remove_duplicate=False)), **dict(self.model.named_buffers(remove_duplicate=False))}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.n_layers} layers, d_model {self.d_model}, {self.dtype})"

    # Text and tokens.

    def tokenize(
        self,
        prompts: str | Sequence[str],
        *,
        answers: Sequence[str] | None = None,
        padding_side: PaddingSide = "left",
        prepend_bos: bool | None = None,
    ) -> TokenBatch:
        """Turn text into ids with their masks.

        Args:
            prompts: One text or several.
            answers: One per prompt; joined to it with one space when neither side has whitespace there, and marked in `answer`.
            padding_side: Where shorter rows are padded; the tokenizer's own setting is never read or changed.
            prepend_bos: One BOS in front, if the tokenizer has one; the model's default when None.

        Raises:
            VestigeError: No tokenizer, no text, or a text without tokens.
        """
        if self.tokenizer is None:
            raise VestigeError("this HookedModel has no tokenizer, so it takes token ids only; pass tokenizer= to use text")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise VestigeError("no prompt was given")
        replies = [""] * len(texts) if answers is None else list(answers)
        if len(replies) != len(texts):
            raise VestigeError(f"{len(texts)} prompts but {len(replies)} answers")
        bos = self.default_prepend_bos if prepend_bos is None else prepend_bos
        rows = [encode(self.tokenizer, text, reply, prepend_bos=bos) for text, reply in zip(texts, replies, strict=True)]
        pad = next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)
        return pad_rows([r for r, _ in rows], [f for _, f in rows], pad=pad, padding_side=padding_side).to(self.device)

    def to_tokens(self, text: str | Sequence[str], *, prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Return plain ids; texts of different lengths need `tokenize`, whose result carries the mask."""
        batch = self.tokenize(text, prepend_bos=prepend_bos)
        if batch.padded:
            raise VestigeError("the texts have different lengths, so plain ids would hide the padding; use tokenize(), which keeps the mask")
        return batch.ids

    def to_str_tokens(self, inputs: Inputs, *, prepend_bos: bool | None = None) -> list[str]:
        """Return the tokens of one text as strings."""
        batch = self.tokenize(inputs, prepend_bos=prepend_bos) if isinstance(inputs, str) else self.as_batch(inputs)
        if len(batch) != 1:
            raise VestigeError(f"to_str_tokens takes one text, got {len(batch)}")
        return [self.to_string(i) for i in batch.ids[0][batch.mask[0]]]

    def to_string(self, ids: Tensor | Sequence[int]) -> str:
        """Decode ids."""
        return str(self.tokenizer.decode(ids))

    def as_batch(self, inputs: Inputs, *, prepend_bos: bool | None = None) -> TokenBatch:
        """Turn anything the reading methods accept into a `TokenBatch` on the model's device.

        Args:
            inputs: Text, several texts, an id tensor, a `TokenBatch`, or a mapping with `input_ids` and `attention_mask`.
            prepend_bos: Only for text.
        """
        if isinstance(inputs, TokenBatch):
            return inputs.to(self.device)
        if isinstance(inputs, Tensor):
            return from_tensor(inputs, None, self.tokenizer).to(self.device)
        if isinstance(inputs, Mapping) or hasattr(inputs, "input_ids"):
            return from_tensor(inputs["input_ids"], inputs.get("attention_mask"), self.tokenizer).to(self.device)
        return self.tokenize(inputs, prepend_bos=prepend_bos)

    # Running.

    def logits(self, inputs: Inputs, *, prepend_bos: bool | None = None) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits of one forward pass; the caller's grad mode is honoured."""
        batch = self.as_batch(inputs, prepend_bos=prepend_bos)
        return self._logits(self._pass(batch, self._request(batch)))

    def __call__(self, inputs: Inputs, *, return_type: ReturnType = "logits") -> Any:
        """Run the model as TransformerLens does: `logits`, `loss` (mean nats per real next token), `both`, or None."""
        batch = self.as_batch(inputs)
        return _returned(self._logits(self._pass(batch, self._request(batch))), batch, return_type)

    def run_with_cache(
        self,
        inputs: Inputs,
        *,
        names_filter: NamesFilter = None,
        stop_at_layer: int | None = None,
        pos_slice: PosSlice = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        remove_batch_dim: bool = False,
        return_type: ReturnType = "logits",
        fwd_hooks: FwdHooks = (),
        prepend_bos: bool | None = None,
        check: bool = False,
    ) -> tuple[Any, ActivationCache]:
        """Run the model and keep activations.

        Args:
            inputs: Anything `as_batch` takes.
            names_filter: A site, a list of sites, a predicate on canonical names, or None for every site.
            stop_at_layer: Run only the blocks before this one; the first result is then the residual stream entering it.
            pos_slice: Positions to keep (an int, a list or a slice); columns of the padded batch.
            device: Where activations go; parameters stay.
            dtype: What activations are cast to.
            remove_batch_dim: Drop the batch axis of a single prompt.
            return_type: `logits`, `loss`, `both`, or None; with None the pass ends after the last recorded site.
            fwd_hooks: Edits in force during the pass, seen by the recording.
            prepend_bos: Only for text.
            check: Keep a checksum of each activation, and raise on read if it was changed in place since.

        Returns:
            What `return_type` asks for (with `stop_at_layer`, `[batch, pos, d_model]`), and the cache.

        Raises:
            VestigeError: A site does not exist, is never reached, or a hook misbehaves.
        """
        batch = self.as_batch(inputs, prepend_bos=prepend_bos)
        stop = self._stop_layer(stop_at_layer)
        names = select_sites(self.site_map, names_filter, stop_at_layer=stop)
        recorder = Recorder(names, pos_slice, device, dtype, stop_when_done=return_type is None and stop is None)
        output = self._pass(batch, self._request(batch), fwd_hooks=fwd_hooks, recorder=recorder, stop_at_layer=stop)
        entries = recorder.ordered()
        cache = ActivationCache(entries, self.site_map, checksums={k: checksum(v) for k, v in entries.items()} if check else None)
        if remove_batch_dim:
            cache = cache.remove_batch_dim()
        if stop is not None:
            return output.residual, cache
        return (None if return_type is None else _returned(self._logits(output), batch, return_type)), cache

    def run_with_hooks(
        self,
        inputs: Inputs,
        *,
        fwd_hooks: FwdHooks = (),
        return_type: ReturnType = "logits",
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
    ) -> Any:
        """Run the model once with hooks `(site or predicate, fn(activation, hook))` in force, applied in the order given."""
        batch = self.as_batch(inputs, prepend_bos=prepend_bos)
        stop = self._stop_layer(stop_at_layer)
        output = self._pass(batch, self._request(batch), fwd_hooks=fwd_hooks, stop_at_layer=stop)
        if stop is not None:
            return output.residual
        return _returned(self._logits(output), batch, return_type)

    @contextmanager
    def hooks(self, fwd_hooks: FwdHooks) -> Iterator[Self]:
        """Keep hooks in place for everything that runs inside the `with` block; only they are removed at its end."""
        plan = self._plan(fwd_hooks, request=None, stop_at_layer=None)
        contexts = [attachment.context for attachment in plan]
        with attached(self._geometry.root, plan):
            self._standing.extend(contexts)
            try:
                yield self
            finally:
                for context in contexts:
                    self._standing.remove(context)

    def gradients(
        self, inputs: Inputs, metric: Callable[[Tensor], Tensor], *, names_filter: NamesFilter
    ) -> tuple[Tensor, ActivationCache, ActivationCache]:
        """Return a scalar of the logits with the activations at some sites and its gradient there.

        Args:
            inputs: Anything `as_batch` takes.
            metric: Maps logits `[batch, pos, d_vocab]` to a scalar.
            names_filter: Sites to differentiate at.

        Returns:
            The metric (detached), the activations, and the gradients, under the same names.

        Raises:
            VestigeError: Grad mode is off, or the metric does not depend on a site.
        """
        if not torch.is_grad_enabled():
            raise VestigeError("gradients need grad mode; leave torch.no_grad() or call torch.set_grad_enabled(True)")
        batch = self.as_batch(inputs)
        names = select_sites(self.site_map, names_filter, stop_at_layer=None)
        live: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: HookContext) -> Tensor:
            # The pass continues from this tensor, so that the metric depends on it even where no parameter needs a gradient.
            live[hook.name] = activation if activation.requires_grad else activation.detach().requires_grad_()
            return live[hook.name]

        value = metric(self._logits(self._pass(batch, self._request(batch), fwd_hooks=[(name, keep) for name in names])))
        grads = torch.autograd.grad(value, [live[name] for name in names], allow_unused=True)
        unused = [name for name, grad in zip(names, grads, strict=True) if grad is None]
        if unused:
            raise VestigeError(f"the metric does not depend on '{unused[0]}', so it has no gradient there")
        return (
            value.detach(),
            ActivationCache({n: live[n].detach().clone() for n in names}, self.site_map),
            ActivationCache({n: g.clone() for n, g in zip(names, grads, strict=True) if g is not None}, self.site_map),
        )

    def generate(
        self,
        prompts: str | Sequence[str] | TokenBatch,
        *,
        max_new_tokens: int = 32,
        do_sample: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
        use_cache: bool = True,
        stop_at_eos: bool = True,
        batch_size: int = 64,
        prepend_bos: bool | None = None,
    ) -> list[str]:
        """Continue prompts and return the new text only, one string per prompt.

        Rows are left-padded and share a KV cache; every edit in force acts on each step. Greedy unless `do_sample`.

        Args:
            prompts: Text, or a left-padded `TokenBatch`.
            max_new_tokens: Most tokens that are added.
            do_sample: Draw from the distribution instead of taking its maximum.
            temperature: Divides the logits when sampling.
            seed: Of the sampling generator.
            use_cache: Off recomputes every prefix, which is slower and must give the same tokens.
            stop_at_eos: End a row at the tokenizer's EOS.
            batch_size: Rows decoded together.
            prepend_bos: One BOS in front, if the tokenizer has one.
        """
        tokens = self.generate_tokens(
            prompts,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            temperature=temperature,
            seed=seed,
            use_cache=use_cache,
            stop_at_eos=stop_at_eos,
            batch_size=batch_size,
            prepend_bos=prepend_bos,
        )
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in tokens]

    def generate_tokens(
        self,
        prompts: str | Sequence[str] | TokenBatch,
        *,
        max_new_tokens: int = 32,
        do_sample: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
        use_cache: bool = True,
        stop_at_eos: bool = True,
        batch_size: int = 64,
        prepend_bos: bool | None = None,
    ) -> list[list[int]]:
        """Continue prompts and return the new ids, one list per prompt; arguments as in `generate`."""
        if isinstance(prompts, TokenBatch):
            batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
        else:
            texts = [prompts] if isinstance(prompts, str) else list(prompts)
            batches = [self.tokenize(texts[i : i + batch_size], prepend_bos=prepend_bos) for i in range(0, len(texts), batch_size)]
        generator = torch.Generator().manual_seed(seed) if do_sample else None
        eos = self.tokenizer.eos_token_id if stop_at_eos and self.tokenizer is not None else None
        rows: list[list[int]] = []
        for batch in batches:
            rows += decode(
                self,
                self.as_batch(batch),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                generator=generator,
                eos=eos,
                use_cache=use_cache,
            )
        return rows

    # Weights: raw, layout hidden.

    def value_vectors(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """Return the value vectors of a block's MLP: row j is what neuron j adds to the residual stream per unit of activation.

        A view of the parameter where the layout allows it (never folded, never centred); adapters merged in are a copy.
        """
        return self._geometry.matrix(self.block_part(layer, "mlp.out"))

    W_out = value_vectors

    def W_in(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """Return the up projection of a block's MLP."""
        return self._geometry.projection(layer, "mlp.hook_pre_linear" if self.gated else "mlp.hook_pre")

    def W_gate(self, layer: int) -> Float[Tensor, "d_model d_mlp"] | None:
        """Return the gate projection of a block's MLP; None where the MLP has none."""
        return self._geometry.projection(layer, "mlp.hook_pre") if self.gated else None

    @property
    def gated(self) -> bool:
        """Whether the MLPs have a gate."""
        return "blocks.0.mlp.hook_pre_linear" in self.site_map.taps

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The token embedding."""
        return self._geometry.weight("embed").detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, without final norm or bias."""
        return self._geometry.weight("unembed").detach().T

    def block_part(self, layer: int, role: str) -> str:
        """Return the module path of a part of a block, e.g. `mlp.out` or `attn.o`."""
        if not -self.n_layers <= layer < self.n_layers:
            raise VestigeError(f"no layer {layer} in a {self.n_layers}-layer model (layers are 0 to {self.n_layers - 1})")
        key = f"blocks.{layer % self.n_layers}.{role}"
        if key not in self.site_map.weights:
            roles = sorted({k.split(".", 2)[2] for k in self.site_map.weights if k.startswith("blocks.0.")})
            raise VestigeError(f"blocks of {self.site_map.family} have no part '{role}'; parts are {', '.join(roles)}")
        return self.site_map.weights[key]

    def weight_name(self, role: str, layer: int | None = None) -> str:
        """Return the Hugging Face parameter name of a weight, e.g. `weight_name("mlp.out", 3)` or `weight_name("embed")`."""
        path = self.block_part(layer, role) if layer is not None else self.site_map.weights.get(role)
        if path is None:
            raise VestigeError(f"no part '{role}' outside the blocks; parts are embed, ln_final, unembed")
        return f"{path}.weight"

    def value_patch(self, rows: Mapping[tuple[int, int], Float[Tensor, " d_model"]]) -> WeightPatch:
        """Return the patch that gives neurons new value vectors.

        Args:
            rows: `(layer, neuron)` to the new vector.

        Raises:
            VestigeError: A neuron does not exist or a vector has the wrong length.
        """
        deltas: dict[str, Delta] = {}
        for layer in sorted({layer for layer, _ in rows}):
            old, neurons = self.value_vectors(layer), sorted(n for at, n in rows if at == layer)
            if not 0 <= neurons[0] <= neurons[-1] < len(old):
                raise VestigeError(f"layer {layer} has neurons 0 to {len(old) - 1}, got {neurons[0]} to {neurons[-1]}")
            wrong = [n for n in neurons if rows[layer, n].shape != old[n].shape]
            if wrong:
                raise VestigeError(f"value vector ({layer}, {wrong[0]}) has shape {tuple(rows[layer, wrong[0]].shape)}, needed {tuple(old[0].shape)}")
            index = torch.tensor(neurons)
            wide = torch.promote_types(old.dtype, torch.float32)
            change = torch.stack([rows[layer, n].to(old.device, wide) - old[n].to(wide) for n in neurons]).detach().cpu()
            transposed = self._geometry.is_transposed(self.block_part(layer, "mlp.out"))
            deltas[self.weight_name("mlp.out", layer)] = RowDelta(index, change) if transposed else ColumnDelta(index, change)
        return WeightPatch(deltas)

    # The way out of the residual stream.

    @property
    def decoder(self) -> Decoder:
        """Final norm and unembedding of this model; `decoder.frozen()` is a copy that later weight edits do not reach."""
        return self._geometry.decoder

    def final_norm(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Apply the final norm; apply it to any block's output exactly once, the last included."""
        return self.decoder.final_norm(resid)

    def unembed(self, normed: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Map normalised residuals to logits, logit soft-capping and scaling included."""
        return self.decoder.unembed(normed)

    def lens(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logit lens of residuals: final norm, then unembedding."""
        return self.decoder.lens(resid)

    def bridge(self) -> Any:
        """Return a TransformerLens `TransformerBridge` over a copy of the model, for circuit work; this model stays untouched."""
        return self._geometry.bridge(self.tokenizer)

    # The one forward pass behind everything above.

    def _interventions(self, request: Request) -> list[tuple[SiteLike, Edit]]:
        """Return the edits that are always in force; a view adds its own."""
        return []

    def _finish(self, logits: Tensor, request: Request) -> Tensor:
        """Change logits on their way out; a view adds its own."""
        return logits

    def _request(self, batch: TokenBatch, *, offset: int = 0, state: dict[Any, Any] | None = None, step: Tensor | None = None) -> Request:
        columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        steps = (columns >= batch.prompt_last[:, None]) & batch.mask if step is None else step
        return Request(batch.mask, batch.prompt, steps, offset, batch.ids, {} if state is None else state)

    def _stop_layer(self, stop_at_layer: int | None) -> int | None:
        if stop_at_layer is None:
            return None
        stop = stop_at_layer + self.n_layers if stop_at_layer < 0 else stop_at_layer
        if not 0 <= stop <= self.n_layers:
            raise VestigeError(f"stop_at_layer is 0 to {self.n_layers} in a {self.n_layers}-layer model, got {stop_at_layer}")
        return stop

    def _plan(self, fwd_hooks: FwdHooks, *, request: Request | None, stop_at_layer: int | None) -> list[Attachment]:
        plan: list[Attachment] = []
        contexts: dict[str, HookContext] = {}
        for address, function in fwd_hooks:
            for name in select_sites(self.site_map, address if callable(address) else [address], stop_at_layer=stop_at_layer):
                if name in self.site_map.read_only:
                    raise VestigeError(f"'{name}' can be read but not edited: its consumers have already run")
                context = contexts.setdefault(name, HookContext(name))
                context.request = request
                plan.append(Attachment(self.site_map.tap(name), context, function))
        return plan

    def _pass(
        self,
        batch: TokenBatch,
        request: Request,
        *,
        fwd_hooks: FwdHooks = (),
        recorder: Recorder | None = None,
        stop_at_layer: int | None = None,
        past: Any = None,
        history: Tensor | None = None,
        use_cache: bool = False,
    ) -> _Output:
        """Run one chunk with everything attached.

        Args:
            past: The KV cache of earlier chunks.
            history: Real-token mask of cached and current positions together, when `past` is given.
        """
        always = [(site, f) for site, f in self._interventions(request) if stop_at_layer is None or (layer_of(self.site_map.resolve(site)) or 0) < stop_at_layer]
        plan = self._plan([*always, *fwd_hooks], request=request, stop_at_layer=stop_at_layer)

        def context(name: str) -> HookContext:
            made = HookContext(name)
            made.request = request
            return made

        output = _Output(request)
        watched = {a.context.name: a.context for a in plan}
        if recorder is not None:
            plan += recorder.attachments(self.site_map, context)
        if stop_at_layer is not None:
            plan.append(self._stopper(stop_at_layer, context, output))
        with ExitStack() as stack:
            stack.enter_context(attached(self._geometry.root, plan))
            for standing in self._standing:
                standing.request = request
            try:
                output.native = self.model(**self._arguments(batch, past=past, history=history, use_cache=use_cache))
            except StopForward:
                return output
        for name, hook in watched.items():
            if not hook.fired:
                raise VestigeError(f"site '{name}' never fired during the forward pass, so nothing can be read or edited there")
        return output

    def _stopper(self, stop: int, context: Callable[[str], HookContext], output: _Output) -> Attachment:
        name = f"blocks.{stop}.hook_resid_pre" if stop < self.n_layers else f"blocks.{stop - 1}.hook_resid_post"

        def end(activation: Tensor, hook: HookContext) -> None:
            output.residual = activation.clone()
            raise StopForward

        return Attachment(self.site_map.tap(name), context(name), end, writes=False)

    def _arguments(self, batch: TokenBatch, *, past: Any, history: Tensor | None, use_cache: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {"input_ids": batch.ids, "use_cache": use_cache}
        if past is not None:
            arguments["past_key_values"] = past
        mask = batch.mask if history is None else history
        # Without padding the native call is left exactly as a user would write it.
        if batch.padded or history is not None:
            arguments["attention_mask"] = mask.long()
            if self._geometry.takes_position_ids:
                positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
                arguments["position_ids"] = positions[:, -batch.ids.shape[1] :]
        return arguments

    def _logits(self, output: _Output) -> Tensor:
        return self._finish(output.native.logits, output.request)


class _Output:
    """What came out of one pass: the native output, or the residual stream where the pass was stopped."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.native: Any = None
        self.residual: Tensor | None = None


def _returned(logits: Tensor, batch: TokenBatch, return_type: ReturnType) -> Any:
    if return_type == "logits":
        return logits
    if return_type is None:
        return None
    if return_type not in ("loss", "both"):
        raise VestigeError(f"return_type is 'logits', 'loss', 'both' or None, got {return_type!r}")
    real = batch.mask[:, 1:] & batch.mask[:, :-1]
    losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none")
    loss = losses[real.flatten()].mean()
    return loss if return_type == "loss" else (logits, loss)


__all__ = ["FwdHooks", "HookedModel", "ReturnType", "Tap"]
