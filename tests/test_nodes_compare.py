"""The grid of encoders by prompts in a real ComfyUI: its cells, what is painted again, its errors; the grid alone."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host

CHINESE = [zh for zh, _ in small.captions()[:3]]
PROMPTS = [f"{zh} | {en}" for zh, en in small.captions()[:3]]
SECOND = "second.safetensors"
SIZE = 32


def compare(encoders: str, prompts: list[str], **changes: Any) -> Graph:
    """A checkpoint, the grid and a file."""
    settings = dict(seed=1, steps=1, cfg=4.0, sampler_name="euler", scheduler="normal", width=SIZE, height=SIZE)
    inputs = dict(model=["ckpt", 0], vae=["ckpt", 2], clip=["ckpt", 1], negative="", prompts="\n".join(prompts))
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT),
        "grid": node("ZhCLIPCompareGrid", encoders=encoders, **{**inputs, **settings, **changes}),
        "save": node("SaveImage", images=["grid", 0], filename_prefix="compare"),
    }


def pixels(host: Host, graph: Graph) -> np.ndarray:
    """The picture of a graph's SaveImage: (H, W, 3)."""
    (image,) = host.outputs(graph)["save"]["images"]
    return np.asarray(host.picture(image))


def painted(host: Host, text: str, clip: str) -> np.ndarray:
    """The picture that stock nodes alone paint of a text, by the encoder or by the checkpoint's own CLIP."""
    graph = graphs.paint(text, "alone", size=SIZE, steps=1)
    if clip == "english":
        graph["text"]["inputs"]["clip"] = graph["none"]["inputs"]["clip"] = ["ckpt", 1]
    else:
        graph["clip"]["inputs"]["file"] = clip
    return pixels(host, graph)


def place(cell: np.ndarray, sheet: np.ndarray) -> tuple[int, int]:
    """Where a picture stands in a larger one: (y, x) of its only place. Levels may differ by 1: SaveImage cuts off what
    the grid's drawing rounds.
    """

    def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.abs(a.astype(int) - b) <= 1).all(-1)

    h, w = cell.shape[:2]
    starts = np.argwhere(near(sheet[: len(sheet) - h + 1, : sheet.shape[1] - w + 1], cell[0, 0]))
    (found,) = [(int(y), int(x)) for y, x in starts if near(sheet[y : y + h, x : x + w], cell).all()]
    return found


@pytest.fixture(scope="module", autouse=True)
def second(host: Host) -> Iterator[None]:
    """SECOND, another encoder beside the session's."""
    path = small.saved(host.encoders / SECOND, seed=9)
    yield
    path.unlink()


def watched(host: Host, graph: Graph) -> list[str]:
    """Run a graph and list the nodes that ComfyUI executed, an expansion's too; cached ones are not among them."""

    async def watch() -> list[str]:
        names: list[str] = []
        async with aiohttp.ClientSession() as session, session.ws_connect(host.url("/ws?clientId=watch")) as events:
            answer = host.post("/prompt", {"prompt": graph, "client_id": "watch"})
            assert "prompt_id" in answer, answer
            async for event in events:
                if event.type != aiohttp.WSMsgType.TEXT:
                    continue
                message = json.loads(event.data)
                assert message["type"] != "execution_error", message
                if message["type"] == "executing" and message["data"]["prompt_id"] == answer["prompt_id"]:
                    if message["data"]["node"] is None:
                        break
                    names.append(message["data"]["node"])
        return names

    with ThreadPoolExecutor(1) as thread:  # in this one a browser's test may have left an event loop
        return thread.submit(asyncio.run, asyncio.wait_for(watch(), 120)).result()


def samplers(names: list[str]) -> list[str]:
    """Row and column of the samplers among executed nodes."""
    return sorted(found.group(1) for name in names if (found := re.search(r"\.sample\.(\d+\.\d+)$", name)))


def test_every_cell_is_what_the_stock_nodes_paint_in_its_place(host: Host) -> None:
    rows = ["english", SECOND]
    sheet = pixels(host, compare("\n".join(rows), PROMPTS[:2]))
    at = {}
    for r, row in enumerate(rows):
        for c, prompt in enumerate(PROMPTS[:2]):
            chinese, english = prompt.split(" | ")
            cell = painted(host, english if row == "english" else chinese, row)
            at[r, c] = place(cell, sheet)
    for (r, c), (y, x) in at.items():
        assert y == at[r, 0][0] and x == at[0, c][1]
    assert at[0, 0][0] < at[1, 0][0] and at[0, 0][1] < at[0, 1][1]


def test_only_the_cells_of_a_new_prompt_encoder_or_file_are_painted(host: Host) -> None:
    path = small.saved(host.encoders / "trained.safetensors", seed=3)
    options = dict(seed=77)  # no other test's cells
    assert samplers(watched(host, compare(path.name, PROMPTS[:2], **options))) == ["0.0", "0.1"]
    assert samplers(watched(host, compare(path.name, PROMPTS, **options))) == ["0.2"]
    both = compare(f"english\n{path.name}", PROMPTS[::-1], **options)
    assert samplers(watched(host, both)) == ["0.0", "0.1", "0.2"]
    small.saved(path, seed=4)
    assert samplers(watched(host, both)) == ["1.0", "1.1", "1.2"]
    path.unlink()


WRONG = {
    "no such encoder": (dict(encoders=f"english\n\nnope.safetensors\n{graphs.ENCODER}"), "encoders, line 3"),
    "no encoders": (dict(encoders=" \n"), "encoders is empty"),
    "no prompts": (dict(prompts="\n \n"), "prompts is empty"),
    "no English side": (dict(prompts=f"{PROMPTS[0]}\n\n{CHINESE[1]}"), "prompts, line 3"),
    "no English negative": (dict(negative="blurry"), "negative"),
    "no clip": (dict(clip=None), "clip"),
    "a cell that fails": (dict(encoders="narrow.safetensors\nenglish"), "384 wide"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(host: Host, case: str) -> None:
    changes, where = WRONG[case]
    narrow = small.saved(host.encoders / "narrow.safetensors", teacher_width=384)
    graph = compare(f"{graphs.ENCODER}\nenglish", PROMPTS[:1])
    graph["grid"]["inputs"] = {k: v for k, v in (graph["grid"]["inputs"] | changes).items() if v is not None}
    message = host.refuse(graph)
    narrow.unlink()
    assert where in message and "\n" not in message, message


def test_without_an_english_row_a_prompt_needs_no_english_side_and_no_clip(host: Host) -> None:
    graph = compare(graphs.ENCODER, [CHINESE[0]], negative=CHINESE[1])
    del graph["grid"]["inputs"]["clip"]
    alone = compare(graphs.ENCODER, [f"{CHINESE[0]} \uff5c a cat"], negative=f"{CHINESE[1]}|blurry")
    assert place(pixels(host, graph)[-SIZE - 8 : -8], pixels(host, alone))


def labelled(rows: str, columns: str, count: int = 2) -> Graph:
    """The grid of a batch of plain images."""
    return {
        "images": node("EmptyImage", width=96, height=64, batch_size=count, color=0x336699),
        "grid": node("ZhCLIPGrid", images=["images", 0], rows=rows, columns=columns),
        "save": node("SaveImage", images=["grid", 0], filename_prefix="labelled"),
    }


def test_a_batch_becomes_rows_and_columns_with_labels(host: Host) -> None:
    sheet = pixels(host, labelled("first\n\nsecond\n", CHINESE[0]))
    blue = (sheet == (0x33, 0x66, 0x99)).all(-1)
    assert blue.sum() == 2 * 64 * 96 and blue.any(1).sum() == 2 * 64 and blue.any(0).sum() == 96
    left, above = sheet[:, : int(blue.any(0).argmax())], sheet[: int(blue.any(1).argmax())]
    assert (left < 128).any() and (above < 128).any()  # ink of the labels


@pytest.mark.parametrize(("rows", "columns"), [("a\nb", "c\nd"), ("", "c")])
def test_labels_that_do_not_fit_the_batch_are_refused(host: Host, rows: str, columns: str) -> None:
    message = host.refuse(labelled(rows, columns, 3))
    assert message.startswith("images") and "\n" not in message, message
