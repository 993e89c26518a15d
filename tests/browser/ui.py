"""Drives ComfyUI's front end with mouse and keyboard. JavaScript only reads where nodes are, and their state."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import FilePayload, Locator, Page, TimeoutError

from tests.host import ROOT, Host

PAINT_MS = 120_000
WAIT_MS = 60_000
SHOTS = ROOT / ".cache" / "screenshots"
FIND = """(kind) => window.app.graph.nodes.filter((node) => node.type === kind).at(-1)"""
# A point of the newest node of a kind: of its title, or of the middle of one of its widgets where they are drawn.
POINT = f"""([kind, widget]) => {{
    const node = ({FIND})(kind), canvas = window.app.canvas, frame = canvas.canvas.getBoundingClientRect();
    const box = document.querySelector(`[data-node-id="${{node.id}}"]`)?.getBoundingClientRect();
    if (box) return [box.x + box.width / 2, box.y + 12 * canvas.ds.scale];
    const found = node.widgets?.find((one) => one.name === widget);
    const [x, y] = found ? [node.size[0] / 2, found.y + 10] : [50, -15];
    return [
        (node.pos[0] + x + canvas.ds.offset[0]) * canvas.ds.scale + frame.left,
        (node.pos[1] + y + canvas.ds.offset[1]) * canvas.ds.scale + frame.top,
    ];
}}"""

SLOT = f"""([kind, slot, side]) => {{
    const node = ({FIND})(kind), canvas = window.app.canvas, frame = canvas.canvas.getBoundingClientRect();
    const at = node[side].findIndex((one) => one.name === slot), way = side === "inputs" ? "in" : "out";
    const dot = document.querySelector(`[data-slot-key="${{node.id}}-${{way}}-${{at}}"]`)?.getBoundingClientRect();
    if (dot) return [dot.x + dot.width / 2, dot.y + dot.height / 2];
    const [x, y] = node.getConnectionPos(side === "inputs", at);
    return [
        (x + canvas.ds.offset[0]) * canvas.ds.scale + frame.left,
        (y + canvas.ds.offset[1]) * canvas.ds.scale + frame.top,
    ];
}}"""

# Marks the text box, or the line under it, of the prompt of a number, in the order of the nodes' ids: the page may hold
# them in another order.
MARK = """([number, name]) => {
    const kinds = ["CLIPTextEncode", "ZhCLIPTextEncode"];
    const prompts = window.app.canvas.graph.nodes.filter((node) => kinds.includes(node.type));
    const node = prompts.toSorted((a, b) => a.id - b.id)[number];
    const vue = name === "text" && document.querySelector(`[data-node-id="${node?.id}"] textarea`);
    const element = vue || node?.widgets?.find((widget) => widget.name === name)?.element;
    if (!element?.isConnected) return false;
    document.querySelectorAll(`[data-marked="${name}-${number}"]`).forEach((other) => delete other.dataset.marked);
    element.dataset.marked = `${name}-${number}`;
    return true;
}"""

# Whether the view has been still for a second.
STILL = """() => {
    const { scale, offset } = window.app.canvas.ds, view = [scale, ...offset].join();
    window.testsStill = window.testsView === view ? window.testsStill + 1 : 0;
    window.testsView = view;
    return window.testsStill > 3;
}"""


class Ui:
    """One page of the front end."""

    def __init__(self, page: Page, host: Host, vue: bool) -> None:
        self.page, self.host, self.vue = page, host, vue
        page.set_default_timeout(WAIT_MS)

    def load(self) -> None:
        """Open the address, or open it again, and wait until the graph is there."""
        self.page.goto(self.host.url("/"))
        self.page.wait_for_function("window.app?.graph?.nodes.length > 0")
        self.page.get_by_test_id("queue-button").wait_for()

    def open_template(self, name: str) -> None:
        """Choose a workflow of this pack in the template browser."""
        self.page.locator(".templates-tab-button").click()
        # The dialog stands behind the nodes, which in Vue bear their pack's name as well.
        self.page.get_by_text("zhclip", exact=True).last.click()
        self.page.get_by_text(name, exact=True).click()
        self.page.wait_for_function("window.app.graph.nodes.some((node) => node.comfyClass?.startsWith('ZhCLIP'))")
        self.page.locator(".p-dialog-mask").wait_for(state="hidden")
        self.fit()

    def node(self, kind: str, script: str) -> Any:
        """The value of a JavaScript expression about `node`, the newest one of a kind."""
        return self.page.evaluate(f"(kind) => {{ const node = ({FIND})(kind); return {script}; }}", kind)

    def wait(self, kind: str, script: str, timeout: float = WAIT_MS) -> None:
        """Wait until such an expression is true."""
        self.page.wait_for_function(
            f"(kind) => {{ const node = ({FIND})(kind); return node && {script}; }}", arg=kind, timeout=timeout
        )

    def open_file(self, workflow: dict[str, Any]) -> None:
        """Choose a workflow in the dialog that Open shows."""
        content = json.dumps(workflow).encode()
        file = FilePayload(name="test.json", mimeType="application/json", buffer=content)
        self.page.locator("#comfy-file-input").set_input_files(file)
        ids = sorted(str(node["id"]) for node in workflow["nodes"])
        self.page.wait_for_function(
            "(ids) => window.app.graph.nodes.map((node) => String(node.id)).toSorted().join() === ids",
            arg=",".join(ids),
        )
        self.fit()

    def fit(self) -> None:
        """Bring the whole graph into view: the first Nodes 2.0 spread a classic graph without moving the view."""
        if self.vue:
            self.page.keyboard.press(".")
            self.page.wait_for_function(STILL, polling=300)

    def add(self, name: str, x: float, y: float) -> None:
        """Add a node by its name in the search box that a double click on the canvas opens."""
        search = self.page.locator(
            ".comfy-vue-node-search-container input[role=combobox], input[aria-controls=results-list]"
        )
        self.double_click(x, y, search)
        search.fill(name)
        self.page.get_by_role("option").filter(has_text=name).first.wait_for()
        search.press("Enter")
        search.wait_for(state="hidden")
        if self.page.evaluate("window.app.graph.nodes.some((node) => node.flags.ghost)"):  # it hangs on the pointer
            self.page.mouse.move(x, y, steps=3)
            self.page.mouse.click(x, y)

    def double_click(self, x: float, y: float, opened: Locator) -> None:
        """Double click until it opens what it should: a busy page sees two clicks where they are 300 ms apart."""
        for _ in range(10):
            self.page.mouse.dblclick(x, y)
            with contextlib.suppress(TimeoutError):
                return opened.wait_for(timeout=2_000)
        raise AssertionError(f"a double click at {x:.0f}, {y:.0f} opened nothing")

    def connect(self, origin: tuple[str, str], target: tuple[str, str]) -> None:
        """Drag a link from an output to an input, each given as (kind of node, name of slot)."""
        self.page.mouse.move(*self.page.evaluate(SLOT, [*origin, "outputs"]))
        self.page.mouse.down()
        self.page.mouse.move(*self.page.evaluate(SLOT, [*target, "inputs"]), steps=5)
        self.page.mouse.up()

    def click(self, kind: str) -> None:
        """Select a node by its title."""
        self.page.mouse.click(*self.page.evaluate(POINT, [kind, ""]))

    def set_number(self, kind: str, widget: str, value: int) -> None:
        """Type a number into a widget, or into its dialog where it is drawn."""
        if self.vue:
            box = self._row(kind, widget).locator("input")
        else:
            box = self.page.locator(".graphdialog input")
            x, y = self.page.evaluate(POINT, [kind, widget])
            self.double_click(x, y, box)
        box.press("ControlOrMeta+a")
        box.press_sequentially(str(value))
        box.press("Enter")
        self.wait(kind, f"node.widgets.find((one) => one.name === '{widget}').value === {value}")

    def _row(self, kind: str, widget: str) -> Locator:
        rows = self.page.locator(f'[data-node-id="{self.node(kind, "node.id")}"] .lg-node-widget')
        return rows.filter(has=self.page.get_by_text(widget, exact=True))

    def box(self, number: int = 0) -> Locator:
        """A prompt's text box, in the order of the nodes."""
        return self._marked("text", number)

    def line(self, number: int = 0) -> Locator:
        """What ZhCLIP shows under a prompt's text box, once it is there."""
        return self._marked("zhclip_count", number)

    def _marked(self, name: str, number: int) -> Locator:
        self.page.wait_for_function(MARK, arg=[number, name])
        return self.page.locator(f'[data-marked="{name}-{number}"]')

    def write(self, text: str, number: int = 0) -> None:
        """Replace a prompt by typing."""
        self.box(number).click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.press("Delete")
        self.page.keyboard.type(text)

    def shrink(self) -> None:
        """The template's own size and steps take a GPU's seconds, and minutes here."""
        for kind, widget, value in (
            ("EmptyLatentImage", "width", 64),
            ("EmptyLatentImage", "height", 64),
            ("KSampler", "steps", 2),
        ):
            self.set_number(kind, widget, value)

    def queue(self) -> None:
        """Press Run."""
        self.page.locator("button[data-testid=queue-button], [data-testid=queue-button] button").first.click()

    def picture(self) -> list[int]:
        """Wait for the picture in Save Image. Returns its width and height."""
        shown = "(node.imgs?.[0] ?? document.querySelector(`[data-node-id='${node.id}'] img`))"
        self.wait("SaveImage", f"{shown}?.naturalWidth > 0", PAINT_MS)
        return self.node("SaveImage", f"[{shown}.naturalWidth, {shown}.naturalHeight]")


Opener = Callable[..., Ui]
