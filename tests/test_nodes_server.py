"""The loader in a real ComfyUI: its face, the files it finds, what it says of wrong ones."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import graphs, small
from tests.host import ROOT, Host
from zhclip import artifact as fmt

NOTEBOOK = "https://colab.research.google.com/github/zhclip/zhclip/blob/main/notebooks/first_encoder.ipynb"
DATA = Path(__file__).resolve().parent / "data"


def folder(host: Host) -> Path:
    """Where ComfyUI looks for encoders."""
    return host.base / "models" / "text_encoders"


def options(host: Host) -> list[str]:
    """The loader's list of files."""
    return host.get("/object_info/ZhCLIPLoader")["ZhCLIPLoader"]["input"]["required"]["file"][1]["options"]


def encoded(host: Host, text: str, name: str, file: str = graphs.ENCODER) -> torch.Tensor:
    """What CLIPTextEncode makes of a prompt: (1, windows * W, D)."""
    host.succeed(graphs.probe(text, name, file))
    return load_file(host.base / "output" / f"{name}.safetensors")["cond.0"]


def test_the_face_of_the_node_is_the_one_that_saved_workflows_know(host: Host) -> None:
    info = host.get("/object_info/ZhCLIPLoader")
    info["ZhCLIPLoader"]["input"]["required"]["file"][1]["options"] = []
    known = json.loads((DATA / "object_info.json").read_text(encoding="utf-8"))
    # Later versions of ComfyUI say more of each node; what they say of its ids, types and order must not change.
    assert {name: {key: info[name][key] for key in face} for name, face in known.items()} == known


def test_a_new_file_appears_without_a_restart_and_others_never(host: Host) -> None:
    before = options(host)
    assert graphs.ENCODER in before
    small.saved(folder(host) / "sub" / "new.safetensors", seed=5)
    save_file({"weight": torch.zeros(2)}, folder(host) / "foreign.safetensors")
    assert sorted(set(options(host)) - set(before)) == [os.path.join("sub", "new.safetensors")]
    (folder(host) / "sub" / "new.safetensors").unlink()
    assert options(host) == before


def test_a_file_trained_again_under_its_name_is_loaded_again(host: Host) -> None:
    path = small.saved(folder(host) / "again.safetensors", seed=1)
    first = encoded(host, "cat", "again", "again.safetensors")
    assert torch.equal(first, encoded(host, "cat", "again", "again.safetensors"))
    fmt.save(small.artifact(seed=2), path)
    second = encoded(host, "cat", "again", "again.safetensors")
    assert (first - second).abs().max() > 1
    path.unlink()


def truncated(path: Path) -> None:
    """A whole header, half of the tensors: a download that stopped."""
    small.saved(path)
    os.truncate(path, path.stat().st_size // 2)


def truncated_in_its_header(path: Path) -> None:
    """A download that stopped at once."""
    small.saved(path)
    os.truncate(path, 500)


def pickle(path: Path) -> None:
    """What torch.save writes."""
    torch.save({"bert": torch.zeros(2)}, path)


def lora(path: Path) -> None:
    """A LoRA in the wrong folder."""
    save_file({"lora_unet_mid_block.lora_up.weight": torch.zeros(4, 2)}, path)


def later(path: Path) -> None:
    """An encoder of a format that does not exist yet."""
    whole = small.artifact()
    fmt.save(whole, path)
    header = whole.meta.to_json().replace('"format_version": 1', '"format_version": 3')
    save_file(load_file(path), path, {"zhclip": header})


def lacking(path: Path) -> None:
    """An encoder without one of its tensors, which only a look beyond the header shows."""
    whole = small.artifact()
    fmt.save(whole, path)
    header = json.dumps({"zhclip": whole.meta.to_json()})
    tensors = load_file(path)
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    save_file(tensors, path, json.loads(header))


WRONG_FILES = {
    truncated: ("t.safetensors", r"found a file that safetensors cannot read .*It may be truncated: copy or download"),
    truncated_in_its_header: ("h.safetensors", r"found a file that safetensors cannot read .*It may be truncated"),
    pickle: ("p.pt", r"found a file of Python objects \(.*\), which can run code; expected a safetensors file"),
    lora: (
        "l.safetensors",
        r"found a safetensors file without ZhCLIP metadata \(a checkpoint, a LoRA or another model\)",
    ),
    later: ("v.safetensors", "found format version 3; expected version 1"),
    lacking: ("m.safetensors", r"found no tensor bert\.encoder\.layer\.1\.output\.dense\.bias \(1 missing\)"),
}


@pytest.mark.parametrize("make", WRONG_FILES, ids=lambda make: make.__name__)
def test_a_wrong_file_is_refused_in_one_sentence_that_names_it(host: Host, make) -> None:
    name, expected = WRONG_FILES[make]
    path = folder(host) / name
    make(path)
    message = host.refuse(graphs.probe("cat", "wrong", name))
    path.unlink()
    assert re.search(expected, message) and str(path) in message and "\n" not in message, message


def test_a_truncated_and_a_later_file_are_listed_so_that_choosing_them_explains_them(host: Host) -> None:
    truncated(folder(host) / "listed1.safetensors")
    later(folder(host) / "listed2.safetensors")
    assert {"listed1.safetensors", "listed2.safetensors"} <= set(options(host))
    for name in ("listed1.safetensors", "listed2.safetensors"):
        (folder(host) / name).unlink()


def test_a_checkpoint_among_the_encoders_is_refused(host: Host, checkpoint: Path) -> None:
    link = folder(host) / "checkpoint.safetensors"
    link.symlink_to(checkpoint)
    assert "checkpoint.safetensors" not in options(host)
    assert "without ZhCLIP metadata" in host.refuse(graphs.probe("cat", "wrong", link.name))
    link.unlink()


def test_an_encoder_of_another_width_than_the_model_is_refused_with_both_widths(host: Host) -> None:
    path = small.saved(folder(host) / "narrow.safetensors", teacher_width=384)
    message = host.refuse(graphs.paint("cat", "wrong", path.name))
    path.unlink()
    assert "384 wide (teacher tests/teacher)" in message and "the connected MODEL (SD15), 768 wide" in message, message


def test_a_name_without_a_file_is_refused_with_the_folder(host: Host) -> None:
    message = host.refuse(graphs.probe("cat", "wrong", "gone.safetensors"))
    assert f"There is no file gone.safetensors in {folder(host)}. Copy" in message, message


def test_without_any_encoder_the_list_and_the_error_say_what_to_do(host: Host) -> None:
    aside = {path: path.rename(host.base / path.name) for path in list(folder(host).glob("*.safetensors"))}
    (entry,) = options(host)
    message = host.refuse(graphs.probe("cat", "wrong", entry))
    for path, kept in aside.items():
        kept.rename(path)
    assert "put a ZhCLIP encoder into models/text_encoders" in entry
    assert f"There is no ZhCLIP encoder in {folder(host)}. To get one" in message, message
    pack = host.base / "custom_nodes" / "zhclip"
    into = f'{"cd /d" if os.name == "nt" else "cd"} "{pack}"'
    run = f"{sys.executable} -m trainer run"
    for line in (into, run, f'--out "{folder(host) / "taiyi.safetensors"}"', NOTEBOOK):
        assert line in message, message
    for language in ("", "/zh", "/zh-TW"):
        page = (ROOT / "web" / "docs" / f"ZhCLIPLoader{language}.md").read_text(encoding="utf-8")
        for words in ("python -m trainer run", "python -m trainer convert", "models/text_encoders", NOTEBOOK):
            assert words in page, (language, words)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aligned": False}, "is not aligned: its loss of 0.900 is no better than a constant's 0.500"),
        ({"report": {}}, "carries no evaluation, so nothing shows that it is aligned"),
    ],
)
def test_node_and_log_warn_of_an_encoder_that_nothing_shows_to_be_aligned(
    host: Host, changes: dict, expected: str
) -> None:
    path = folder(host) / "unaligned.safetensors"
    logged = f"{path} {expected}"  # with the path: other tests have such files too
    assert logged not in host.tail(10**7)
    small.saved(path, **changes)
    (shown,) = host.succeed(graphs.probe("cat", "unaligned", path.name))["clip"]["text"]
    path.unlink()
    assert shown.startswith("WARNING: this file ") and expected in shown
    assert logged in host.tail(10**7)


def test_the_node_shows_the_key_figures_of_the_report(host: Host) -> None:
    report = {
        "loss": {"all": 0.31},
        "retrieval": {"zh_to_en": {"R@1": 0.95}},
        "baselines": {"ridge": {"all": 0.377}, "constant": {"all": 0.515}},
        "baselines_retrieval": {"ridge": {"zh_to_en": {"R@1": 0.906}}},
    }
    path = small.saved(folder(host) / "reported.safetensors", report=report)
    (shown,) = host.succeed(graphs.probe("cat", "reported", path.name))["clip"]["text"]
    path.unlink()
    assert shown == (
        "Cosine loss to tests/teacher: 0.310, R@1 0.950\nBaselines: ridge 0.377, R@1 0.906; constant 0.515"
    )


def test_brackets_weigh_full_width_ones_too_and_an_inversion_is_read_as_text_with_one_warning(host: Host) -> None:
    bare = encoded(host, "red cat dog", "bare")
    weighted = encoded(host, "(red:1.3) ((cat)) dog", "weighted")
    assert torch.equal(bare, encoded(host, "(red:1) cat (dog:1.0)", "ones")) and not torch.equal(bare, weighted)
    fullwidth = encoded(host, "\uff08red\uff1a1.3\uff09 \uff08\uff08cat\uff09\uff09 dog", "fullwidth")
    assert torch.equal(weighted, fullwidth)
    assert not torch.equal(encoded(host, r"\(red:1.3\) cat dog", "escaped"), bare)
    two = encoded(host, "red BREAK cat", "parted")
    assert two.shape[1] == 2 * bare.shape[1]
    assert torch.equal(two[:, : bare.shape[1]], encoded(host, "red", "part"))
    encoded(host, "cat embedding:bad", "inversion")
    encoded(host, "dog embedding:bad", "inversion")
    assert host.tail(10**7).count("`embedding:` names a textual inversion") == 1


def test_the_log_names_what_the_vocabulary_lacks(host: Host) -> None:
    encoded(host, "cat \U0001f6f8 dog", "unknown")
    assert "not in the encoder's vocabulary, so read as unknown: \U0001f6f8" in host.tail(10**7)
