"""The archive that the registry would serve: packed by comfy-cli itself, then read as its scanner reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import tomlkit

from tests import graphs, small
from tests.host import running
from tests.tree import ROOT, python, tracked

# The registry searches the text of every file, prose and comments too, and one hit holds a version back. What its rules
# look for: reading the environment, other processes, the network, code from strings, Python's object serialisation.
FORBIDDEN = {
    "reads the environment": r"\benviron\b|\bgetenv\b|\bputenv\b",
    "starts a process": r"\bsubprocess\b|\bpopen\b|\bos\.(?:system|exec|spawn)\w*",
    "uses the network": r"\burllib\d?\b|\brequests\b|\bsockets?\b|\bhttp\.client\b|\bhttpx\b|\bftplib\b",
    "runs text as code": r"\beval\b|\bexec\b|__import__",
    "stores live objects": r"\w*pickl\w*",
}
NODES = {f"ZhCLIP{name}" for name in ["Calibrate", "CompareGrid", "Grid", "Inspector", "Loader", "TextEncode", "Train"]}
SHIPPED = {"CHANGELOG.md", "LICENSE", "README.md", "README.zh.md", "__init__.py", "docs", "example_workflows"}
SHIPPED |= {
    "locales",
    "nodes",
    "pyproject.toml",
    "recipes",
    "requirements.txt",
    "subgraphs",
    "trainer",
    "web",
    "zhclip",
}


def comfy(*arguments: str, cwd: Path) -> str:
    done = python("-m", "comfy_cli", "--skip-prompt", *arguments, cwd=cwd, HOME=str(cwd), USERPROFILE=str(cwd))
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files in a repository of their own, packed there and unpacked again: the folder that a user gets."""
    source, unpacked = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("unpacked")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
    subprocess.run(["git", "add", "--all", "--force"], cwd=source, check=True)
    comfy("node", "pack", cwd=source)
    with zipfile.ZipFile(source / "node.zip") as packed:
        packed.extractall(unpacked)
    return unpacked


def files(archive: Path) -> list[str]:
    return sorted(path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file())


def test_holds_the_pack_and_nothing_else(archive: Path) -> None:
    names = files(archive)
    expected = {name for name in tracked() if PurePosixPath(name).parts[0] in SHIPPED}
    pictures = {name for name in expected if name.startswith("docs/") and name.endswith((".png", ".jpg", ".svg"))}
    assert set(names) == expected - pictures
    assert not [name for name in names if re.search(r"(^|/)(tests?/|test_|conftest)", name)]


def test_manager_installs_what_the_package_needs(archive: Path) -> None:
    """ComfyUI Manager reads requirements.txt alone, the registry the project's dependencies."""
    project = tomlkit.parse((archive / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (archive / "requirements.txt").read_text().split() == project["dependencies"]


def test_passes_the_registry_scan(archive: Path) -> None:
    assert re.search(FORBIDDEN["reads the environment"], "os.environ")
    for name in files(archive):
        data = (archive / name).read_bytes()
        if b"\0" not in data and not name.endswith((".jpg", ".png")):
            for what, pattern in FORBIDDEN.items():
                hit = re.search(f".*(?:{pattern}).*", data.decode("utf-8"), re.I)
                assert not hit, f"{name} {what}: {hit[0]}"


def test_comfy_cli_finds_it_valid(archive: Path) -> None:
    assert "All validation checks passed" in comfy("node", "validate", cwd=archive)


def test_trainer_runs_from_the_archive(archive: Path) -> None:
    done = python("-m", "trainer", "evaluate", cwd=archive)  # which imports every stage
    assert done.returncode == 1 and "give --artifact" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_bare_host_runs_the_nodes_of_the_archive(archive: Path, tmp_path: Path) -> None:
    """Unpacked into custom_nodes, as ComfyUI Manager does it, without the repository and without a checkpoint."""
    installed = tmp_path / "custom_nodes" / "zhclip"
    shutil.copytree(archive, installed)
    small.saved(tmp_path / "models" / "text_encoders" / graphs.ENCODER)
    with running(tmp_path) as host:
        packed = {name for name, info in host.get("/object_info").items() if info["python_module"].endswith(".zhclip")}
        assert packed == NODES
        translations = host.get("/api/i18n")
        assert all(set(translations[language]["nodeDefs"]) >= NODES for language in ("zh", "zh-TW"))
        for path in ("zhclip.js", "zhclip.css", "docs/ZhCLIPLoader/zh.md"):
            with urllib.request.urlopen(host.url(f"/extensions/zhclip/{path}")) as answer:
                assert answer.read() == (installed / "web" / path).read_bytes()
        assert len(host.get("/api/workflow_templates")["zhclip"]) >= 5
        host.outputs(graphs.probe("(cat:1.3)", "archive"))
        counted = host.post("/zhclip/count", {"file": graphs.ENCODER, "text": "cat", "bilingual": False})
        assert counted["windows"] == [1]
