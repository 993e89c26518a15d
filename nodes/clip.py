"""An artifact as a stock CLIP object. The one file that knows ComfyUI's internals.

Core brings a BERT (comfy.text_encoders.bert), the frame that runs it (SDClipModel) and the object that every node knows
(comfy.sd.CLIP). What is added here: the artifact's own tokenizer and windows, and its output structure.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import Any

import comfy.sd
import comfy.sd1_clip
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.bert import BertModel

from ..zhclip.artifact import Artifact, ArtifactError, Meta, load
from ..zhclip.prompt import normalise
from ..zhclip.structure import Structure
from ..zhclip.tokens import PromptTokenizer

STRUCTURE = ("proj_weight", "proj_bias", "position0", "empty", "norms")


def load_clip(path: str, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Read an artifact and build its CLIP. `disable_dynamic` is what versions of ComfyUI since 2026 ask for, and is
    unknown to older ones. Raises ArtifactError.
    """
    artifact = load(path)
    weights = {f"bert.{name}": tensor for name, tensor in artifact.bert.items()}
    weights |= {f"structure.{name}": tensor for name, tensor in _structure(artifact).items()}
    names = set(weights)
    tokenizer = PromptTokenizer.from_json(artifact.tokenizer_json, artifact.meta.special_ids, artifact.meta.window)
    target = ClipTarget(
        functools.partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=functools.partial(WindowTokenizer, tokenizer)),
        functools.partial(comfy.sd1_clip.SD1ClipModel, clip_model=functools.partial(WindowEncoder, artifact)),
    )
    # No embedding_directory: an inversion made for SD1.5 is 768 wide too, and would enter a BERT's input unnoticed.
    options: dict[str, Any] = {"embedding_directory": None, "parameters": sum(t.numel() for t in weights.values())}
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in known:
        options["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:
        clip = comfy.sd.CLIP(target, state_dict=[weights], **options)
    else:
        clip = comfy.sd.CLIP(target, **options)
        clip.load_sd(weights)
    expected = set(clip.cond_stage_model.clip_l.transformer.state_dict())
    if expected != names:  # core only logs this, and runs on with whatever the memory held
        odd = ", ".join(sorted(expected ^ names)[:3])
        raise ArtifactError(path, f"tensors that do not match core's BERT ({odd})", "the same names", "Update ZhCLIP.")
    # Hooks and several GPUs build the model again from this.
    clip.patcher.cached_patcher_init = (load_patcher, (path,))
    return clip


def load_patcher(path: str, disable_dynamic: bool = False) -> Any:
    """The model patcher of `load_clip`."""
    return load_clip(path, disable_dynamic).patcher


def _structure(artifact: Artifact) -> dict[str, torch.Tensor]:
    present = {name: getattr(artifact, name) for name in STRUCTURE}
    return {name: tensor for name, tensor in present.items() if tensor is not None}


class StructureTensors(torch.nn.Module):
    """The output structure as a leaf module of parameters, which is what ComfyUI's memory management moves.

    Always fp32, whatever the text encoder's dtype: they are small, and fp16 keeps three digits of a norm.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: Any) -> None:
        super().__init__()
        for name, shape in shapes.items():
            empty = torch.empty(shape, dtype=torch.float32, device=device)
            self.register_parameter(name, torch.nn.Parameter(empty, requires_grad=False))

    def forward(self, hidden: torch.Tensor, is_empty: torch.Tensor) -> torch.Tensor:
        """(B, W, S) hidden states, (B,) bool -> (B, W, D) conditioning."""
        return Structure(**dict(self.named_parameters())).apply(hidden, is_empty)


class AlignedBert(BertModel):
    """Core's BERT followed by the structure. `config_dict["structure"]` holds the shapes of the latter's tensors."""

    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        self.structure = StructureTensors(config_dict["structure"], device)

    def forward(self, *args: Any, num_tokens: list[int], **kwargs: Any) -> tuple[torch.Tensor | None, ...]:
        """Returns (last (B, W, D), intermediate (B, W, D) or None, pooled (B, D)).

        num_tokens: each window's tokens up to and including its end, counted by core from the ids; two are start and
        end alone. The pooled vector is the conditioning at the end token, where CLIP takes its own.
        """
        last, intermediate = super().forward(*args, num_tokens=num_tokens, **kwargs)[:2]
        counts = torch.tensor(num_tokens, device=last.device)
        z = self.structure(last, counts == 2)
        if intermediate is not None:
            intermediate = self.structure(intermediate, counts == 2)
        return z, intermediate, z[torch.arange(len(z), device=z.device), counts - 1]


class WindowEncoder(comfy.sd1_clip.SDClipModel):
    """Runs windows of ids through the aligned BERT."""

    def __init__(self, artifact: Artifact, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        meta = artifact.meta
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            max_length=meta.window,
            textmodel_json_config=_config(meta)
            | {"structure": {name: tuple(tensor.shape) for name, tensor in _structure(artifact).items()}},
            special_tokens={"start": meta.special_ids.start, "end": meta.special_ids.end, "pad": meta.special_ids.pad},
            model_class=AlignedBert,
            enable_attention_masks=meta.mask_padding,
            return_attention_masks=False,
        )

    def encode_token_weights(self, token_weight_pairs: list[list[tuple[Any, ...]]]) -> Any:
        """Windows of (id, weight) pairs -> ((1, windows * W, D), pooled (1, D)).

        Core would move each position towards the empty prompt by its token's weight; this encoder's positions are the
        teacher's words, not the prompt's, so that would weigh the wrong words. Raises ValueError for other windows.
        """
        for window in token_weight_pairs:
            if len(window) != self.max_length:
                raise ValueError(
                    f"A window of {len(window)} tokens reached a ZhCLIP encoder that reads {self.max_length}: a node "
                    "between the loader and the sampler cuts prompts for CLIP; use the stock CLIP Text Encode."
                )
        if any(pair[1] != 1.0 for window in token_weight_pairs for pair in window):
            warn_once(WEIGHTS_READ_AS_ONE)
        return super().encode_token_weights([[(pair[0], 1.0) for pair in window] for window in token_weight_pairs])

    def gen_empty_tokens(self, special_tokens: dict[str, int], length: int) -> list[int]:
        """Core's way to an empty prompt, here always a whole window, whatever length the others have."""
        return comfy.sd1_clip.gen_empty_tokens(special_tokens, self.max_length)


def _config(meta: Meta) -> dict[str, Any]:
    d = meta.dimensions
    return {
        "hidden_size": d.width,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "intermediate_size": d.intermediate,
        "vocab_size": d.vocabulary,
        "max_position_embeddings": d.positions,
        "type_vocab_size": d.types,
        "layer_norm_eps": d.layer_norm_eps,
        "pad_token_id": meta.special_ids.pad,
    }


class FramedTokenizer:
    """The artifact's tokenizer in the manner of transformers' ones, as far as core and other packs call them."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.prompt = tokenizer

    @classmethod
    def from_pretrained(cls, tokenizer: PromptTokenizer, **_: Any) -> FramedTokenizer:
        """Core's way in. There is no path: the vocabulary came with the artifact."""
        return cls(tokenizer)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Start, the text's ids, end; no padding."""
        special = self.prompt.special
        return {"input_ids": [special.start, *self.prompt.ids(text), special.end]}

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return self.prompt.tokenizer.get_vocab()


class WindowTokenizer(comfy.sd1_clip.SDTokenizer):
    """Core's tokenizer interface over the artifact's windows."""

    def __init__(self, tokenizer: PromptTokenizer, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(
            tokenizer,
            max_length=tokenizer.window,
            pad_with_end=False,
            pad_token=tokenizer.special.pad,
            embedding_directory=None,
            tokenizer_class=FramedTokenizer,
            tokenizer_data=tokenizer_data or {},
        )
        self.prompt = tokenizer

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, disable_weights: bool = False, **_: Any
    ) -> list[list[tuple[Any, ...]]]:
        """A prompt -> windows of (id, 1.0), or (id, 1.0, word) with word 0 for what frames a window.

        Brackets and weights are taken out of the text by core's own parser, after normalisation, so that full-width
        brackets and colons act as well.
        """
        text = normalise(text)
        if self.embedding_identifier in text:
            warn_once(EMBEDDING_READ_AS_TEXT)
        if not disable_weights:
            text = plain(text)
        windows = self.prompt.windows(text)
        if not return_word_ids:
            return [[(token, 1.0) for token in window] for window in windows]
        out: list[list[tuple[Any, ...]]] = []
        word = 0
        for window in windows:
            count = window.index(self.end_token)
            words = [0, *range(word + 1, word + count), *[0] * (len(window) - count)]
            out.append([(token, 1.0, w) for token, w in zip(window, words)])
            word += count - 1
        return out


WEIGHTS_READ_AS_ONE = "ZhCLIP: prompt weights such as (word:1.3) are read as 1 by this version."
EMBEDDING_READ_AS_TEXT = (
    "ZhCLIP: `embedding:` names a textual inversion made for CLIP, which this encoder cannot read, so the name is read "
    "as text; encode it with the checkpoint's own CLIP and join the two by Conditioning (Concat)."
)


def plain(text: str) -> str:
    """The prompt without weight brackets; escaped ones stay as characters."""
    spans = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
    if any(weight != 1.0 for _, weight in spans):
        warn_once(WEIGHTS_READ_AS_ONE)
    return comfy.sd1_clip.unescape_important("".join(span for span, _ in spans))


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning the first time that it has a cause."""
    logging.warning(message)
