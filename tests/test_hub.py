"""Models by hub id, from a local stand-in of the hub as a mirror."""

from __future__ import annotations

from pathlib import Path

from tests import encoders, hub
from tests.tree import trainer


def test_models_come_by_id_from_a_mirror_and_bring_no_more_than_needed(tmp_path: Path) -> None:
    repositories = tmp_path / "hub"
    encoders.student(repositories / "someone" / "chinese-clip")
    pipeline = repositories / "someone" / "sd15"
    encoders.clip_teacher(pipeline / "text_encoder")
    encoders.clip_teacher(pipeline / "tokenizer")
    (pipeline / "tokenizer" / "model.safetensors").unlink()
    (pipeline / "model_index.json").write_text("{}", encoding="utf-8")
    (pipeline / "v1-5-pruned.safetensors").write_bytes(b"many gigabytes")
    train, dev = encoders.corpora(tmp_path)
    flags = ["--config", "recipes/tiny.yaml", "--run", str(tmp_path / "run"), "--window", "32"]
    flags += ["--student.model", "someone/chinese-clip", "--teacher.model", "someone/sd15"]
    flags += ["--corpus.train", str(train), "--corpus.dev", str(dev)]
    with hub.serve(repositories) as (endpoint, asked):
        own = hub.settings(endpoint, tmp_path / "home")
        done = trainer("run", *flags, **own)
        assert done.returncode == 0, done.stderr
        assert not any("v1-5-pruned" in path for path in asked)
        unknown = trainer("corpus", *flags, "--student.model", "someone/else", "--run", str(tmp_path / "x"), **own)
    assert unknown.returncode == 1
    assert "someone/else: neither a local folder nor to be had from the hub" in unknown.stderr.splitlines()[-1]
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
