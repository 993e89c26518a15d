// What a node of this pack said when it ran, as text under it. The front end shows a node's pictures by itself, and text
// only for its own Preview nodes.

import { panel, part } from "./panel.js";

const PANEL = "zhclip_report";
const LINE = 18;
const MOST = 12; // lines; more scroll

/** Show the `text` of a node's output, {text: [string, ...]}; nothing when there is none. */
export function report(node, output) {
  if (!node.comfyClass?.startsWith("ZhCLIP") || !output?.text?.length) return;
  const text = output.text.join("\n");
  const found = panel(node, PANEL, (widget) => widget.lines * LINE + 12);
  found.lines = Math.min(MOST, text.split("\n").length);
  found.element.replaceChildren(part("div", "", text));
  node.setDirtyCanvas(true, true);
}
