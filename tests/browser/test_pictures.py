"""Every example workflow in the real front end: nothing missing, nothing hidden, and a picture of it.

The pictures are left in `.cache/screenshots/templates/`. After a change to a workflow, copy its picture from there
(`own-classic`) to `example_workflows/`, where the template browser takes it from.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import string
from collections.abc import Iterator

import pytest
from PIL import Image

from tests import graphs, small
from tests.browser.ui import SHOTS, Ui
from tests.graphs import FOLDER, TEMPLATES, Workflow, workflow
from tests.host import Host
from zhclip import artifact as fmt
from zhclip.tokenizer import pack

pytestmark = pytest.mark.slow  # it needs a browser
WIDTH = 1100
MARGIN = 20
CORNER = 120  # where the graph's picture begins in the page, clear of the front end's bars
# x, y, width and height of each node with its title: where the canvas draws it, or where the page has it.
BOUNDS = """() => window.app.graph.nodes.map((node) => {
    const canvas = window.app.canvas, frame = canvas.canvas.getBoundingClientRect(), { scale, offset } = canvas.ds;
    const box = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    if (!box) return [...node.getBounding()];
    const at = [(box.x - frame.left) / scale - offset[0], (box.y - frame.top) / scale - offset[1]];
    return [...at, box.width / scale, box.height / scale];
})"""
PLACE = """([x, y]) => {
    const canvas = window.app.canvas, frame = canvas.canvas.getBoundingClientRect();
    canvas.ds.scale = 1;
    canvas.ds.offset[0] = x - frame.left;
    canvas.ds.offset[1] = y - frame.top;
    canvas.setDirty(true, true);
}"""
# Whether the graph has so many nodes and this checkpoint: the workflow before it is shown until it is replaced.
OPENED = """([n, checkpoint]) => {
    const nodes = window.app.graph.nodes, loader = nodes.find((node) => node.type === "CheckpointLoaderSimple");
    return nodes.length === n && loader?.widgets[0].value === checkpoint;
}"""
COUNTED = """(n) => {
    const lines = [...document.querySelectorAll(".zhclip_count")].filter((line) => line.textContent.includes("tokens"));
    return lines.length === n;
}"""
REDRAWN = """async () => {
    for (let frame = 0; frame < 20; frame++) {
        window.app.canvas.setDirty(true, true);
        await new Promise(requestAnimationFrame);
    }
}"""
STORED = ("type", "pos", "size", "widgets_values")


@pytest.fixture(scope="module", autouse=True)
def readable(host: Host, named: dict) -> Iterator[None]:
    """An encoder whose vocabulary has every character of the prompts, as a full-size one has, for the token counts."""
    nodes = [node for name in TEMPLATES for node in workflow(name)["nodes"] if node["type"].endswith("TextEncode")]
    characters = set("".join(node["widgets_values"][0] for node in nodes).lower()) | set(string.printable)
    pieces = [*sorted(c for c in characters if not c.isspace()), *(f"##{c}" for c in string.ascii_lowercase)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]
    assert len(names) <= len(small.pieces())
    folder = host.encoders
    paths = [folder / f"zhclip-{kind}.safetensors" for kind in ("sd15", "sdxl")]
    for path in paths:
        path.unlink()
        fmt.save(dataclasses.replace(small.artifact(), tokenizer=pack(names)), path)
    yield
    for path in paths:
        path.unlink()
        path.symlink_to(path.with_name(graphs.ENCODER))


def test_every_workflow_opens_whole_and_uncovered(ui: Ui, request: pytest.FixtureRequest) -> None:
    case = request.node.callspec.id
    if case == "own-vue":
        pytest.skip("1.32.9 spreads the nodes when it makes Vue nodes of them")
    for name in TEMPLATES:
        ui.open_template(name)
        nodes = workflow(name)["nodes"]
        checkpoint = next(node["widgets_values"][0] for node in nodes if node["type"] == "CheckpointLoaderSimple")
        ui.page.wait_for_function(OPENED, arg=[len(nodes), checkpoint])
        assert stored_values(ui.page.evaluate("() => window.app.graph.serialize()")) == stored_values(workflow(name)), (
            name
        )
        assert not ui.page.evaluate("() => window.app.graph.nodes.filter((node) => node.has_errors).length"), name
        bounds = ui.page.evaluate(BOUNDS)
        for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(bounds, 2):
            assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay, name
        shown = picture(ui, name, bounds)
        (SHOTS / "templates" / case).mkdir(parents=True, exist_ok=True)
        shown.save(SHOTS / "templates" / case / f"{name}.jpg", quality=80, optimize=True)
        if case != "own-classic":
            continue
        # The picture in the pack is of this workflow: as large, and alike but for the fonts of the machine it is from.
        stored = Image.open(FOLDER / f"{name}.jpg")
        assert stored.size == shown.size and difference(stored, shown) < 6, (name, difference(stored, shown))


def picture(ui: Ui, name: str, bounds: list[list[float]]) -> Image.Image:
    """The whole graph, drawn at its full size and then made smaller, for a zoomed-out canvas leaves out the texts."""
    left, top = (min(b[i] for b in bounds) - MARGIN for i in (0, 1))
    right, bottom = (max(b[i] + b[i + 2] for b in bounds) + MARGIN for i in (0, 1))
    width, height = int(right - left), int(bottom - top)
    ui.page.set_viewport_size({"width": width + 2 * CORNER, "height": height + 2 * CORNER})
    ui.page.evaluate(PLACE, [CORNER - left, CORNER - top])
    kinds = [node["type"] for node in workflow(name)["nodes"]]
    # Tokens are counted by the vocabulary of a loader's file, which an encoder that is not trained yet has not.
    boxes = sum(kind.endswith("TextEncode") for kind in kinds) if "ZhCLIPLoader" in kinds else 0
    ui.page.wait_for_function(COUNTED, arg=boxes)
    ui.page.evaluate(REDRAWN)
    png = ui.page.screenshot(clip={"x": CORNER, "y": CORNER, "width": width, "height": height})
    shot = Image.open(io.BytesIO(png)).convert("RGB")
    return shot.resize((WIDTH, round(WIDTH * shot.height / shot.width)), Image.Resampling.LANCZOS)


def stored_values(graph: Workflow) -> list[list[object]]:
    """The parts of each node that loading a workflow must not change."""
    # The newest front end leaves out a list of no values.
    return [[node.get(key) or None for key in STORED] for node in sorted(graph["nodes"], key=lambda node: node["id"])]


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of two pictures' brightness, of 255 levels, seen from afar."""
    small_a, small_b = (list(image.convert("L").resize((55, 30)).tobytes()) for image in (a, b))
    return sum(abs(x - y) for x, y in zip(small_a, small_b)) / len(small_a)
