"""Tiny random models of fourteen architectures, and tokenizers to go with them; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch

from hooked import HookedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

D_MODEL, N_HEADS, D_HEAD, D_VOCAB, N_POSITIONS = 32, 4, 8, 99, 64
PAD, BOS, EOS = 0, 1, 2
# Their native forward offers eager attention only.
EAGER_ONLY = frozenset({"gemma2", "gptj", "bloom", "gpt_neo"})
# Attention and MLP read the same input, so there is no residual stream between them.
PARALLEL = frozenset({"gpt_neox", "gptj", "falcon"})
GATED = frozenset({"llama", "mistral", "qwen3", "gemma2", "phi3", "olmo2", "granite"})
# The output of a sublayer passes a norm before it is added to the stream.
POST_NORM = frozenset({"gemma2", "olmo2"})
TIED = frozenset({"gpt2", "gemma2", "opt", "bloom", "falcon", "gpt_neo"})
# The position of a token is looked up in a table.
LEARNED_POSITIONS = frozenset({"gpt2", "opt", "gpt_neo"})

_SPECIAL: dict[str, Any] = {"vocab_size": D_VOCAB, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_LLAMA: dict[str, Any] = {
    **_SPECIAL,
    "hidden_size": D_MODEL,
    "num_hidden_layers": 3,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": N_POSITIONS,
}
_GPT: dict[str, Any] = {**_SPECIAL, "n_embd": D_MODEL, "n_layer": 3, "n_head": N_HEADS, "n_positions": N_POSITIONS}
_NEOX: dict[str, Any] = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_OTHER: dict[str, Any] = {**_SPECIAL, "hidden_size": D_MODEL}

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT),
    "llama": ("LlamaConfig", _LLAMA),
    "mistral": ("MistralConfig", {**_LLAMA, "sliding_window": None}),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": D_HEAD}),
    # Half of its layers see six tokens back and no further.
    "gemma2": ("Gemma2Config", {**_LLAMA, "head_dim": D_HEAD, "sliding_window": 6}),
    "phi3": ("Phi3Config", {**_LLAMA, "original_max_position_embeddings": N_POSITIONS}),
    "gpt_neox": ("GPTNeoXConfig", _NEOX),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": D_HEAD}),
    "opt": (
        "OPTConfig",
        {
            **_OTHER,
            "num_hidden_layers": 3,
            "num_attention_heads": N_HEADS,
            "ffn_dim": 48,
            "max_position_embeddings": N_POSITIONS,
            "word_embed_proj_dim": D_MODEL,
        },
    ),
    "bloom": ("BloomConfig", {**_OTHER, "n_layer": 3, "n_head": N_HEADS}),
    "olmo2": ("Olmo2Config", _LLAMA),
    "falcon": ("FalconConfig", {**_OTHER, "num_hidden_layers": 3, "num_attention_heads": N_HEADS}),
    "granite": (
        "GraniteConfig",
        {**_LLAMA, "residual_multiplier": 0.22, "logits_scaling": 4.0, "embedding_multiplier": 2.0},
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            **_OTHER,
            "num_layers": 2,
            "num_heads": N_HEADS,
            "intermediate_size": 48,
            "max_position_embeddings": N_POSITIONS,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
}


def tiny_config(family: str, **changes: Any) -> PretrainedConfig:
    """Return the config of a family, with some fields replaced."""
    import transformers

    name, fields = FAMILIES[family]
    config: PretrainedConfig = getattr(transformers, name)(**{**fields, **changes})
    return config


def randomise(module: torch.nn.Module, *, seed: int) -> None:
    """Fill parameters so that every part matters: weights of spread 0.3, gains and biases shifted by 0.1."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        wide = 0.3 * noise if parameter.ndim > 1 else parameter.detach().float() + 0.1 * noise
        parameter.data.copy_(wide)


def tiny_hugging_face(
    family: str, *, seed: int = 0, attn: str = "sdpa", dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """Return a random Hugging Face model in evaluation mode; the global random state is left alone."""
    from transformers import AutoModelForCausalLM

    used = "eager" if family in EAGER_ONLY else attn
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            tiny_config(family, **changes), attn_implementation=used, dtype=dtype
        )
    randomise(model, seed=seed)
    return model.eval()


def tiny_model(
    family: str = "llama",
    *,
    seed: int = 0,
    attn: Literal["sdpa", "eager"] = "sdpa",
    dtype: torch.dtype = torch.float32,
    tokenizer: Any = None,
    **changes: Any,
) -> HookedModel:
    """Return a fresh random model with a word tokenizer.

    Args:
        family: A key of `FAMILIES`.
        seed: Of its weights.
        attn: Attention implementation; a family of `EAGER_ONLY` gets eager whatever is asked for.
        dtype: Of its parameters.
        tokenizer: Another tokenizer than `tiny_tokenizer()`.
        changes: Fields of the config to replace.
    """
    model = tiny_hugging_face(family, seed=seed, attn=attn, dtype=dtype, **changes)
    return HookedModel(model, tiny_tokenizer() if tokenizer is None else tokenizer)


@cache
def shared_model(family: str = "llama", attn: Literal["sdpa", "eager"] = "sdpa") -> HookedModel:
    """Return a model that many tests read and none changes."""
    return tiny_model(family, attn=attn)


def tiny_tokenizer(*, bos: bool = True, eos: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of 99 words split at whitespace: `t3` is id 3; `<pad>`, `<bos>`, `<eos>` are 0, 1, 2.

    Args:
        bos: Whether it has a beginning-of-sequence token.
        eos: Whether it has an end-of-sequence token.
        pad: Whether it has a padding token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<pad>", "<bos>", "<eos>", *(f"t{i}" for i in range(3, D_VOCAB))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="t3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##")
    return _wrapped(core, bos="<bos>" if bos else None, eos="<eos>" if eos else None, pad="<pad>" if pad else None)


def byte_tokenizer(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer in the manner of GPT-2, whose tokens carry the space before a word (written `Ġ`).

    Args:
        merges: Pairs that become one token, in order.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<bos>", "<eos>", *alphabet, *(left + right for left, right in merges)]
    core = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return _wrapped(core, bos="<bos>", eos="<eos>", pad="<pad>")


def _wrapped(core: Any, *, bos: str | None, eos: str | None, pad: str | None) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    given = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in given.items() if token is not None},
    )


def random_ids(rng: torch.Generator, batch: int = 2, pos: int = 7) -> torch.Tensor:
    """Return ordinary token ids, none of them special."""
    return torch.randint(3, D_VOCAB, (batch, pos), generator=rng)


def words(ids: torch.Tensor) -> str:
    """Return the text that `tiny_tokenizer` turns into these ids."""
    return " ".join(f"t{int(i)}" for i in ids)
