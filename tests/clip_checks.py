"""What other node packs and stock nodes do to our CLIP, as assertions in a process that can import ComfyUI."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from in_host import load_clip, pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own
from safetensors.torch import save_file

PROMPT = "\u4e00\u53ea(\u732b:1.5), red dog"
RED, BLUE, LONG = "red cat", "(blue:1.3) dog", "red cat, " * 60


def refusal(call: Any, kind: type[Exception] = ValueError) -> str:
    """The message of the exception that a call raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError("no error")


@torch.inference_mode()
def sd15(path: str) -> None:
    """A CLIP of one encoder: tokens, weights, word numbers, pooled vector, rebuilt and copied models."""
    clip = load_clip(path)
    tokenizer, model, tokens = clip.tokenizer.clip_l, clip.cond_stage_model, clip.tokenize(PROMPT)
    ids = [token for token, _ in tokens["l"][0]]
    end = ids.index(3)

    assert list(tokens) == ["l"] and [len(window) for window in tokens["l"]] == [77]
    special = [tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token, tokenizer.max_length]
    assert special == [2, 3, 0, 77] and tokenizer.embedding_directory is None
    framed = tokenizer.tokenizer("red dog")["input_ids"]
    assert framed[0] == 2 and framed[-1] == 3
    assert tokenizer.tokenizer.decode(framed, skip_special_tokens=True) == "red dog"
    assert tokenizer.tokenizer.decode(tokenizer.tokenizer("cat")["input_ids"][1]) == "cat"

    # Weights stay with their tokens; word numbers are 0 for what frames a window and unique else.
    assert [weight for _, weight in tokens["l"][0][:8]] == [1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0]
    names = [name for _, name in clip.tokenizer.untokenize(tokens["l"][0])[:9]]
    assert names == ["[CLS]", "\u4e00", "\u53ea", "\u732b", ",", "red", "dog", "[SEP]", "[PAD]"]
    words = [word for _, _, word in clip.tokenize(PROMPT, return_word_ids=True)["l"][0]]
    assert words[:12] == [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0]
    literal = [token for token, _ in clip.tokenize(PROMPT, disable_weights=True)["l"][0]]
    assert literal.index(3) > end, "with weights disabled the brackets stay text"

    def weighted(weight: float) -> dict[str, Any]:
        return {"l": [[(token, weight) for token, _ in window] for window in tokens["l"]]}

    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    assert torch.equal(pooled[0], cond[0, end])
    assert torch.equal(clip.encode_from_tokens(weighted(1.0)), clip.encode("\u4e00\u53ea\u732b, red dog"))
    # A pack that weighs every position, start and padding too, weighs the prompt.
    everything = clip.encode("(\u4e00\u53ea\u732b, red dog:1.7)")
    assert torch.equal(clip.encode_from_tokens(weighted(1.7)), everything)
    assert torch.equal(model.clip_l.encode_token_weights([])[0], clip.encode(""))

    model.set_clip_options({"execution_device": torch.device("cpu"), "layer": -2})  # an unknown option is no error
    assert model.clip_l.layer == "hidden"
    model.reset_clip_options()

    factory, arguments = clip.patcher.cached_patcher_init
    rebuilt = factory(*arguments, disable_dynamic=True)
    assert sorted(rebuilt.model.state_dict()) == sorted(model.state_dict())
    states = [one.clip_l.states([[2, 9, 3]], "cpu")[0] for one in (model, copy.deepcopy(model))]
    assert torch.equal(*states)

    assert "40 tokens" in refusal(lambda: clip.encode_from_tokens({"l": [tokens["l"][0][:40]]}))
    refusal(lambda: clip.tokenize("a" * 20_001))
    refusal(lambda: clip.encode("(\u732b:1.2)\u4e00" * 2_000))


@torch.inference_mode()
def sdxl(path: str) -> str:
    """A CLIP of two parts, and calibration's reading of SDXL's own CLIP, which is saved beside the file as ComfyUI
    saves checkpoints. Returns the digest of the latter."""
    import probe  # type: ignore[import-not-found]
    from comfy.supported_models import SDXL

    clip, own = load_clip(path), probe.sdxl_clip()
    check_parts(clip)
    check_layers(clip)
    save_file(SDXL.process_clip_state_dict_for_saving(None, own.get_sd()), Path(path).with_name("own.safetensors"))
    return check_teacher(own)


def check_parts(clip: Any) -> None:
    """Each part reads its own tokens, the longer cut to the shorter."""
    width = clip.cond_stage_model.clip_l.meta.widths[0]

    def both(left: str, right: str) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = {"l": clip.tokenize(left)["l"], "g": clip.tokenize(right)["g"]}
        return clip.encode_from_tokens(tokens, return_pooled=True)

    tokens = clip.tokenize(RED)
    # In lists of their own: CLIPTextEncodeSDXL adds to them in place.
    assert sorted(tokens) == ["g", "l"] and tokens["l"] is not tokens["g"] and tokens["l"] == tokens["g"]
    (red, red_pooled), (blue, blue_pooled), (mixed, pooled) = both(RED, RED), both(BLUE, BLUE), both(RED, BLUE)
    assert red.shape == (1, 77, 768 + 1280) and red_pooled.shape == (1, 1280)
    assert torch.equal(mixed[..., :width], red[..., :width]) and torch.equal(mixed[..., width:], blue[..., width:])
    assert torch.equal(pooled, blue_pooled) and not torch.equal(pooled, red_pooled)
    cut = both(LONG, RED)[0]
    assert both(LONG, LONG)[0].shape[1] > 77 == cut.shape[1] and torch.equal(cut[..., width:], red[..., width:])


def check_layers(clip: Any) -> None:
    """CLIP Set Last Layer counts as the teacher does, of whose layer -2 the file's last is."""
    expected = clip.encode_from_tokens(clip.tokenize(RED), return_pooled=True)
    names = set()
    for layer in (None, -1, -2, -3):
        clip.clip_layer(layer)
        names.add(pack_module("nodes.host.clip").layer_in_use(clip))
        z, pooled = clip.encode_from_tokens(clip.tokenize(RED), return_pooled=True)
        assert torch.equal(z, expected[0]) == (layer != -3) and torch.equal(pooled, expected[1])
    assert len(names) == 2


def check_teacher(own: Any) -> str:
    """Calibration reads SDXL's CLIP as the stock nodes do. Returns its digest."""
    teacher = pack_module("nodes.host.teacher").Teacher(own, pack_module("zhclip.models").SDXL)
    assert (teacher.widths, teacher.pooled_width) == ((768, 1280), 1280)
    own.load_model()
    for text in ("", "a red cat on a stone bridge"):
        cond, pooled = own.encode_from_tokens(own.tokenize(text), return_pooled=True)
        assert cond.abs().max() > 20, "a dimension is massive"
        (ids,) = teacher.windows(text)
        for size in (len(ids), teacher.length(ids)):
            states = teacher.states([ids[:size]])
            assert (states["skip"] - cond[:, :size]).abs().max() < 1e-3
            assert (states["pooled"][:, 0] - pooled).abs().max() < 1e-4
    return teacher.sha256()


def other_models() -> None:
    """Calibration refuses other models' CLIPs by name. Whole models without weights, on the meta device."""
    from comfy.sd1_clip import SD1ClipModel
    from comfy.sdxl_clip import SDXLClipModel
    from comfy.text_encoders.flux import FluxClipModel
    from comfy.text_encoders.sd2_clip import SD2ClipModel

    teacher, kinds = pack_module("nodes.host.teacher").Teacher, pack_module("zhclip.models")
    cases = [(kind, kinds.SD15) for kind in (SDXLClipModel, SD2ClipModel, FluxClipModel)]
    for model, kind in [*cases, (SD1ClipModel, kinds.SDXL), (FluxClipModel, kinds.SDXL)]:
        clip = SimpleNamespace(cond_stage_model=model(device="meta", dtype=torch.float16))
        message = refusal(lambda clip=clip, kind=kind: teacher(clip, kind))
        assert model.__name__ in message and kind.name in message and "\n" not in message, message
