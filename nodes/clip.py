"""An artifact as a stock CLIP object. The one file that knows ComfyUI's internals.

Core brings a BERT (comfy.text_encoders.bert), the frame that runs it (SDClipModel) and the object that every node knows
(comfy.sd.CLIP). What is added here: the artifact's own tokenizer and windows, and its output structure.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.bert import BertModel

from ..zhclip.artifact import Artifact, ArtifactError, Meta
from ..zhclip.emphasis import Row, combine, rows
from ..zhclip.memory import allot
from ..zhclip.structure import Structure
from ..zhclip.tokens import PromptTokenizer, Window

STRUCTURE = ("proj_weight", "proj_bias", "position0", "empty", "norms")
SKIP_LAYER = -2  # the hidden state that a second target is for, counted as CLIP Set Last Layer counts


def load_clip(path: str, changes: dict[str, Any] | None = None, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Read an artifact and meanwhile build its CLIP. `changes` are fields of the Artifact that replace what the file
    says, as a calibration makes them. `disable_dynamic` is what versions of ComfyUI since 2026 ask for, and is unknown
    to older ones. Raises ArtifactError.
    """
    device = comfy.model_management.text_encoder_device()
    dtype = comfy.model_management.text_encoder_dtype(device)
    artifact, fills = allot(path, dtype)
    artifact = dataclasses.replace(artifact, **changes or {})
    left = iter(fills)

    def fill() -> None:
        for part in left:
            part()

    with ThreadPoolExecutor(1) as thread:  # a second gains nothing
        filling = thread.submit(fill)

        def wait() -> None:
            fill()
            filling.result()

        encoder = functools.partial(WindowEncoder, artifact, path, wait)
        clip = _clip(artifact, encoder, comfy.model_management.supports_cast(device, dtype), disable_dynamic)
        if clip.patcher.load_device.type == "cpu":
            # Core places its own CLIPs at this point too; left to the first prompt, that takes a twentieth longer.
            # Nothing is copied there, so it need not wait for the weights.
            clip.load_model()
        wait()
    encoder_of(clip).changes = changes or {}
    # Hooks and several GPUs build the model again from this.
    clip.patcher.cached_patcher_init = (load_patcher, (path, changes))
    return clip


def _clip(
    artifact: Artifact, encoder: Callable[..., WindowEncoder], castable: bool, disable_dynamic: bool
) -> comfy.sd.CLIP:
    """Core's CLIP around an encoder that core makes, loaded with the artifact's weights. `castable` says whether the
    device that core chose casts the dtype that it chose; where it does not, core moves the model before it is loaded.
    """
    weights = {f"bert.{name}": tensor for name, tensor in artifact.bert.items()}
    weights |= {f"structure.{name}": tensor for name, tensor in _structure(artifact).items()}
    weights |= {f"skip.{name}": tensor for name, tensor in artifact.skip.items()}
    tokenizer = PromptTokenizer.of(artifact)
    target = ClipTarget(
        functools.partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=functools.partial(WindowTokenizer, tokenizer)),
        functools.partial(comfy.sd1_clip.SD1ClipModel, clip_model=encoder),
    )
    # No embedding_directory: an inversion made for SD1.5 is 768 wide too, and would enter a BERT's input unnoticed.
    options: dict[str, Any] = {"embedding_directory": None, "parameters": sum(t.numel() for t in weights.values())}
    if castable:  # all weights are replaced, so none need memory until then
        options["model_options"] = {"initial_device": torch.device("meta")}
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in known:
        options["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:
        clip = comfy.sd.CLIP(target, state_dict=[weights], **options)
    else:
        clip = comfy.sd.CLIP(target, **options)
        clip.load_sd(weights)
    return clip


def encoder_of(clip: Any) -> WindowEncoder:
    """The aligned encoder inside a CLIP. Raises ValueError for another kind of CLIP."""
    encoder = getattr(getattr(clip, "cond_stage_model", None), "clip_l", None)
    if not isinstance(encoder, WindowEncoder):
        raise ValueError(
            f"This CLIP is not a ZhCLIP encoder (it is a {type(encoder or clip).__name__}): connect the output of "
            "Load ZhCLIP Encoder here."
        )
    return encoder


def load_patcher(path: str, changes: dict[str, Any] | None = None, disable_dynamic: bool = False) -> Any:
    """The model patcher of `load_clip`."""
    return load_clip(path, changes, disable_dynamic).patcher


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
    """Core's BERT followed by the structure. `config_dict` holds the shapes of tensors under "structure" and "skip"."""

    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        self.structure = StructureTensors(config_dict["structure"], device)
        self.skip = StructureTensors(config_dict["skip"], device) if config_dict["skip"] else None

    def forward(self, *args: Any, num_tokens: list[int], **kwargs: Any) -> tuple[torch.Tensor | None, ...]:
        """Returns (last (B, W, D), intermediate (B, W, D) or None, pooled (B, D)).

        num_tokens: each window's tokens up to and including its end, counted by core from the ids; two are start and
        end alone. The pooled vector is the conditioning at the end token, where CLIP takes its own.
        """
        last, intermediate = self.states(*args, num_tokens=num_tokens, **kwargs)
        counts = torch.tensor(num_tokens, device=last.device)
        z = self.structure(last, counts == 2)
        if intermediate is not None:
            structure = self.structure_of(kwargs["intermediate_output"])
            intermediate = structure(intermediate, counts == 2)
        return z, intermediate, z[torch.arange(len(z), device=z.device), counts - 1]

    def states(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The BERT's own last and intermediate hidden states, (B, W, S) each."""
        return super().forward(*args, **kwargs)[:2]

    def structure_of(self, layer: int) -> StructureTensors:
        """What follows an intermediate layer, and one line in the log that says which."""
        last = layer % self.num_layers == self.num_layers - 1
        if self.skip is not None and layer % self.num_layers == SKIP_LAYER % self.num_layers:
            log_once(SKIP_TRAINED, logging.INFO)
            return self.skip
        if not last:
            log_once(SKIP_GUESSED)
        return self.structure


class MaskedWindow(list[int]):
    """A window's ids, of which some positions are hidden as keys."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.ids)
        self.hidden = row.hidden


class WindowEncoder(comfy.sd1_clip.SDClipModel):
    """Runs windows of ids through the aligned BERT. `path` and `changes` are load_clip's; `wait` returns once the
    artifact's tensors are filled, which `load_sd` needs where core has put the model on a device."""

    def __init__(
        self,
        artifact: Artifact,
        path: str,
        wait: Callable[[], None],
        device: Any = "cpu",
        dtype: Any = None,
        model_options: Any = None,
    ) -> None:
        meta = artifact.meta
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            max_length=meta.window,
            textmodel_json_config=_config(meta)
            | {
                "structure": {name: tuple(tensor.shape) for name, tensor in _structure(artifact).items()},
                "skip": {name: tuple(tensor.shape) for name, tensor in artifact.skip.items()},
            },
            special_tokens={"start": meta.special_ids.start, "end": meta.special_ids.end, "pad": meta.special_ids.pad},
            model_class=AlignedBert,
            enable_attention_masks=True,
            return_attention_masks=False,
        )
        self.meta = meta
        self.path, self.wait = path, wait
        self.changes: dict[str, Any] = {}

    def load_sd(self, sd: dict[str, torch.Tensor]) -> Any:
        """Take the weights as they are, which saves core's copy. Returns core's missing and unexpected names, none.
        Raises ArtifactError for any."""
        model = {name: tensor for name, tensor in self.transformer.state_dict().items() if not tensor.is_meta}
        if model:
            self.wait()
        self.wait = lambda: None  # models are copied, and what waits cannot be
        fit = {name: tensor.to(model[name]) if name in model else tensor for name, tensor in sd.items()}
        odd = self.transformer.load_state_dict(fit, strict=False, assign=True)
        names = sorted([*odd.missing_keys, *odd.unexpected_keys])
        if names:  # core only logs this, and runs on with whatever the memory held
            found = f"tensors that do not match core's BERT ({', '.join(names[:3])})"
            raise ArtifactError(self.path, found, "the same names", "Update ZhCLIP.")
        return odd

    def encode_token_weights(self, token_weight_pairs: list[list[tuple[Any, ...]]]) -> Any:
        """Windows of (id, weight) pairs -> ((1, windows * W, D), pooled (1, D)).

        Core would move each position towards the empty prompt by its token's weight; this encoder's positions are the
        teacher's words, not the prompt's, so that would weigh the wrong words: zhclip/emphasis.py. All windows and all
        weighted spans run in one batch. Raises ValueError for other windows.
        """
        for pairs in token_weight_pairs:
            if len(pairs) != self.max_length:
                raise ValueError(
                    f"A window of {len(pairs)} tokens reached a ZhCLIP encoder that reads {self.max_length}: a node "
                    "between the loader and the sampler cuts prompts for CLIP; use the stock CLIP Text Encode."
                )
        windows = [self._window(pairs) for pairs in token_weight_pairs] or [self._empty()]
        z, pooled = self.encode([MaskedWindow(row) for row in rows(windows)])[:2]
        device = comfy.model_management.intermediate_device()
        return combine(z, windows).flatten(0, 1)[None].to(device), combine(pooled, windows)[:1].to(device)

    def _window(self, pairs: list[tuple[Any, ...]]) -> Window:
        ids = [pair[0] for pair in pairs]
        # What frames a window is not the prompt's, whatever weight another pack gives it.
        end = ids.index(self.special_tokens["end"])
        return Window(ids, [pair[1] if 0 < at < end else 1.0 for at, pair in enumerate(pairs)])

    def _empty(self) -> Window:
        ids = comfy.sd1_clip.gen_empty_tokens(self.special_tokens, self.max_length)
        return Window(ids, [1.0] * len(ids))

    def process_tokens(self, tokens: list[Any], device: Any) -> tuple[Any, ...]:
        """Core's embeddings, key mask and counts; the mask also hides spans, and shows padding if the file says so."""
        embeds, mask, *others = super().process_tokens(tokens, device)
        if not self.meta.mask_padding:
            mask = torch.ones_like(mask)
        for at, window in enumerate(tokens):
            if isinstance(window, MaskedWindow) and window.hidden:
                mask[at, window.hidden.start : window.hidden.stop] = 0
        return embeds, mask, *others

    def states(self, windows: list[list[int]], layer: int | None = None) -> torch.Tensor:
        """Windows of ids -> the BERT's hidden states before the structure, (B, W, S) fp32, of the last layer or the
        one that CLIP Set Last Layer would name. The model must be loaded (`clip.load_model()`)."""
        device = self.transformer.get_input_embeddings().weight.device
        embeds, mask, count, _ = self.process_tokens(windows, device)
        last, intermediate = self.transformer.states(
            None, mask, embeds=embeds, num_tokens=count, intermediate_output=layer, dtype=torch.float32
        )
        return last.float() if intermediate is None else intermediate.float()


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


class UnlistedTokenizer(FramedTokenizer):
    """Without the vocabulary, which core turns round at every load, and which takes a fifth of it."""

    def get_vocab(self) -> dict[str, int]:
        """Nothing."""
        return {}


class WindowTokenizer(comfy.sd1_clip.SDTokenizer):
    """Core's tokenizer interface over the artifact's windows."""

    def __init__(self, tokenizer: PromptTokenizer, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(
            tokenizer,
            max_length=tokenizer.window,
            pad_with_end=False,
            pad_token=tokenizer.special.pad,
            embedding_directory=None,
            tokenizer_class=UnlistedTokenizer,
            tokenizer_data=tokenizer_data or {},
        )
        self.tokenizer, self.prompt = FramedTokenizer(tokenizer), tokenizer
        self.__dict__.pop("inv_vocab", None)  # core's, of nothing

    @functools.cached_property
    def inv_vocab(self) -> dict[int, str]:
        """Id to token, as core's `untokenize` and other packs read it; made when first asked for."""
        return {number: token for token, number in self.tokenizer.get_vocab().items()}

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, disable_weights: bool = False, **_: Any
    ) -> list[list[tuple[Any, ...]]]:
        """A prompt -> windows of (id, weight), or (id, weight, word) with word 0 for what frames a window."""
        if self.embedding_identifier in text:
            log_once(EMBEDDING_READ_AS_TEXT)
        if disable_weights:
            windows = [Window(ids, [1.0] * len(ids)) for ids in self.prompt.windows(text)]
        else:
            windows = self.prompt.weighted_windows(text)
        unknown = self.prompt.unknown(text)
        if unknown:
            log_once(f"ZhCLIP: not in the encoder's vocabulary, so read as unknown: {' '.join(unknown)}")
        if not return_word_ids:
            return [list(zip(window.ids, window.weights)) for window in windows]
        out: list[list[tuple[Any, ...]]] = []
        word = 0
        for window in windows:
            count = window.ids.index(self.end_token)
            words = [0, *range(word + 1, word + count), *[0] * (len(window.ids) - count)]
            out.append(list(zip(window.ids, window.weights, words)))
            word += count - 1
        return out


SKIP_TRAINED = "ZhCLIP: CLIP Set Last Layer: this encoder has a target of its own for the layer before the last."
SKIP_GUESSED = (
    "ZhCLIP: CLIP Set Last Layer: this encoder has no target for that layer, so the layer's own states go through what "
    "was trained for the last."
)
EMBEDDING_READ_AS_TEXT = (
    "ZhCLIP: `embedding:` names a textual inversion made for CLIP, which this encoder cannot read, so the name is read "
    "as text; encode it with the checkpoint's own CLIP and join the two by Conditioning (Concat)."
)


@functools.lru_cache(maxsize=1024)
def log_once(message: str, level: int = logging.WARNING) -> None:
    """Log a message the first time that it has a cause."""
    logging.log(level, message)
