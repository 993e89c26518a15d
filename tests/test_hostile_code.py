"""Models that would run code: objects in place of weights, and classes of their own. Neither is ever run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import encoders
from trainer.artifact.convert import convert_published
from trainer.base.stage_settings import ConvertSettings, TranslateSettings
from trainer.models.load import ModelError, read_tensors
from trainer.models.student import load_student
from trainer.models.teacher import load_teacher
from trainer.models.tokenizer import student_tokenizer
from trainer.translate.translator import Translator
from zhclip.artifact import load
from zhclip.io import NotAnArtifactError


class Code:
    """What makes a folder as soon as it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def plain(content: dict[str, object], path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def inside_a_tensors_file(content: dict[str, object], path: Path) -> None:
    """torch's own zip, its pickle replaced."""
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, pickle.dumps(content) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("write", [torch.save, plain, inside_a_tensors_file], ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.safetensors"])
def test_objects_among_weights_are_never_made(
    name: str, write: Callable[[dict[str, object], Path], None], tmp_path: Path
) -> None:
    ran, path = tmp_path / "ran", tmp_path / name
    write({"weight": torch.zeros(2), "state_dict": Code(ran)}, path)
    with pytest.raises(NotAnArtifactError):
        load(path)
    with pytest.raises(ModelError) as caught:
        read_tensors(path, "teacher.model")
    assert len(str(caught.value)) < 600 and "weights_only" not in str(caught.value)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Code(ran)))
    assert ran.exists(), "it would have run"


OWN = {"AutoConfig": "own.Config", "AutoModelForSeq2SeqLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
CHANGES: dict[str, dict[str, object]] = {
    "config.json": {"auto_map": OWN, "model_type": "own"},
    "tokenizer_config.json": {"auto_map": OWN, "tokenizer_class": "Own"},
}
LOADERS: dict[str, Callable[[Path], object]] = {
    "student's tokenizer": lambda folder: student_tokenizer(str(folder), 16),
    "student": lambda folder: load_student(str(folder), 16),
    "teacher": lambda folder: load_teacher(str(folder), 16),
    "converted": lambda folder: convert_published(ConvertSettings(str(folder), f"{folder}.safetensors")),
    "translator": lambda folder: Translator(folder, TranslateSettings()),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_model_with_classes_of_its_own_is_refused_and_nobody_is_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask at the terminal whether to run them."""
    questions: list[str] = []

    def agree(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", agree)
    ran, folder = tmp_path / "ran", encoders.student(tmp_path / "student")
    for file, changes in CHANGES.items():
        settings = json.loads((folder / file).read_text(encoding="utf-8")) | changes
        (folder / file).write_text(json.dumps(settings), encoding="utf-8")
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n", encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        LOADERS[name](folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 900
    assert not questions and not ran.exists()
