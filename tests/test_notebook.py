"""notebooks/first_encoder.ipynb, executed by a real kernel beside a stand-in of the hub."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests import diffusion, encoders, hub
from tests.tree import ROOT, tracked
from zhclip.artifact import read_meta

NOTEBOOK = ROOT / "notebooks" / "first_encoder.ipynb"
SMALL = {
    "CORPUS": "starter:300",
    "FLAGS": "--train.steps 6 --train.batch 8 --export.dtype float32",
    "STEPS": 2,
    "SIZE": 64,
}


def executed(folder: Path, **parameters: Any) -> nbformat.NotebookNode:
    """The notebook, with some parameters given anew in a cell behind its own as papermill does it, run in `folder`."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    at = next(i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", []))
    assigned = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    assert all(f"{name} = " in book.cells[at].source or f"{name}, " in book.cells[at].source for name in parameters)
    book.cells.insert(at + 1, nbformat.v4.new_code_cell(assigned))
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return book


def publish(folder: Path) -> None:
    """The encoders and the pipeline that the notebook names, small and of random weights."""
    encoders.student(folder / "OFA-Sys" / "chinese-clip-vit-base-patch16")
    encoders.clip_teacher(folder / "openai" / "clip-vit-large-patch14", width=diffusion.WIDTH)
    diffusion.pipeline(folder / "stable-diffusion-v1-5" / "stable-diffusion-v1-5")


def commit(repository: Path) -> Path:
    """The tracked files as they are now, in a repository of their own."""
    for name in tracked():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, repository / name)
    author = ["-c", "user.name=a", "-c", "user.email=a@a", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A", "-f"], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    return repository


def said(book: nbformat.NotebookNode, cell: str) -> str:
    """All that a cell prints and shows, as text."""
    outputs = next(one for one in book.cells if one.id == cell).outputs
    return "".join(o.get("text") or o.data.get("text/html") or o.data["text/plain"] for o in outputs)


@pytest.mark.slow
def test_from_an_empty_folder_to_pictures_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "hub")
    source, folder = commit(tmp_path / "source"), tmp_path / "content"
    folder.mkdir()
    with hub.serve(tmp_path / "hub") as (endpoint, _):
        own = hub.settings(endpoint, tmp_path / "home") | {"IPYTHONDIR": str(tmp_path / "ipython")}
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        book = executed(folder, **SMALL, REPOSITORY=str(source))
    run = folder / "zhclip" / "runs" / "sd15"
    meta = read_meta(run / "encoder.safetensors")
    assert meta.teacher.id == "openai/clip-vit-large-patch14" and 50 < meta.corpus.rows < 300
    assert "plan: time" in said(book, "plan-code") and "run: train" not in said(book, "plan-code")
    assert "run: train, about" in said(book, "run-code") and "constant per position" in said(book, "run-code")
    for cell, page in (("report-code", "report.html"), ("paint-code", "pictures/index.html")):
        assert (run / page).read_text(encoding="utf-8") in html.unescape(said(book, cell))
    cells = json.loads((run / "pictures" / "figures.json").read_text(encoding="utf-8"))["cells"]
    for row in ("sd15", "english"):
        pictures = [run / "pictures" / cell["picture"] for cell in cells if cell["row"] == row]
        assert len({path.read_bytes() for path in pictures}) == len(pictures) == 4
    assert 'href="zhclip/runs/sd15/encoder.safetensors"' in said(book, "file-code")


def test_in_a_clone_a_command_that_fails_ends_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    before = os.listdir(ROOT)
    with pytest.raises(CellExecutionError, match="the lines above say what is wrong") as ended:
        executed(NOTEBOOK.parent, FLAGS="--no.such.flag 1", RUN=str(tmp_path / "run"))
    assert "run --plan" in str(ended.value) and "no.such.flag" in str(ended.value)
    assert os.listdir(ROOT) == before and not (tmp_path / "run").exists()


def test_it_is_stored_without_outputs_and_installs_as_the_readme_does() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)
    assert not book.metadata.get("widgets")
    code = "\n".join(cell.source for cell in book.cells).replace("install -q", "install")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for words in ("git clone ", "https://github.com/zhclip/zhclip", 'pip install -e ".[trainer]"'):
        assert words in readme and words in code
