// The text output of this pack's nodes, shown under them. The front end shows a node's pictures by itself, and text
// only for its own Preview nodes.

import { panel, part } from "./panel.js";

const PANEL = "zhclip_report";
const LINE = 18;
const MOST = 12; // lines; more scroll

/** Lines that a text takes in a node of this width; a character of Chinese is as wide as two Latin ones. */
function lines(text, width) {
  const pixels = (line) => [...line].reduce((sum, c) => sum + (c > "\u2e80" ? 11 : 6), 0);
  const sum = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(pixels(line) / (width - 50))), 0);
  return Math.min(MOST, sum);
}

/** Show the `text` of a node's output, {text: [string, ...]}; nothing when there is none. */
export function report(node, output) {
  if (!node.comfyClass?.startsWith("ZhCLIP") || !output?.text?.length) return;
  const text = output.text.join("\n");
  const found = panel(node, PANEL, (widget) => widget.lines * LINE + 12);
  found.lines = lines(text, node.size[0]);
  found.element.replaceChildren(part("div", "", text));
  node.setDirtyCanvas(true, true);
}
