// The line under a prompt box: tokens per window, unknown pieces, and the prompt as it is read.

import { api } from "../../scripts/api.js";
import { encoder, widgetValue } from "./upstream.js";
import { panel, part, removePanel } from "./panel.js";
import { locale, translate } from "./words.js";

const PANEL = "zhclip_count";
const RETRY = 10000; // milliseconds
const HEIGHTS = { figures: 30, prompt: 68 }; // the figures alone, or with two lines of the prompt below
const PROMPTS = { ZhCLIPTextEncode: "zhclip", CLIPTextEncode: "clip" }; // node -> the input by which its encoder comes
const NAMES = { zh: "ZhCLIP", en: "CLIP" };

/** The body of a request about a node, or the key of a sentence, or undefined for a node that is not ours. */
function requestFor(node) {
  const index = node.inputs?.findIndex((input) => input.name === PROMPTS[node.comfyClass]);
  const source = index >= 0 ? encoder(node, index) : undefined;
  if (!source && node.comfyClass === "CLIPTextEncode") return undefined;
  if (!source) return "no_encoder";
  const text = widgetValue(node, "text");
  if (text === undefined) return "linked";
  const second = node.comfyClass === "ZhCLIPTextEncode" && node.inputs.find((input) => input.name === "clip");
  return { ...source, text, bilingual: Boolean(second && second.link != null) };
}

/** Bring a node's line up to date. Called again and again: it asks the server once nothing has changed since the last call. */
export function refresh(node) {
  if (!(node.comfyClass in PROMPTS)) return;
  const request = requestFor(node);
  if (!request) return removePanel(node, PANEL);
  const line = panel(node, PANEL, (widget) => widget.marked ? HEIGHTS.prompt : HEIGHTS.figures);
  const state = JSON.stringify([request, locale()]);
  const settled = state === line.settled;
  line.settled = state;
  if (!settled || state === line.shown) return;
  line.shown = state;
  if (typeof request === "string") return show(line, [translate(request)]);
  ask(request).then((answer) => {
    if (line.shown !== state) return; // changed meanwhile
    show(line, figures(answer), answer.spans, request.bilingual);
    if (answer.error) setTimeout(() => (line.shown = ""), RETRY); // the file may come, and the server come back
  });
}

/** Remove the line. */
export function remove(node) {
  removePanel(node, PANEL);
}

/** The server's answer, or {error: sentence}. */
async function ask(body) {
  try {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const answer = await (await api.fetchApi("/zhclip/count", options)).json();
    const untrained = body.kind === "ZhCLIPTrain" && answer.error?.includes(body.file);
    return answer.error ? { error: translate(untrained ? "untrained" : "refused", { reason: answer.error }) } : answer;
  } catch {
    return { error: translate("silent") };
  }
}

function figures(answer) {
  if (answer.error) return [answer.error];
  const n = answer.windows.length;
  const counts = answer.windows.join(" + ") || "0";
  const line = [translate(n > 1 ? "several" : "windows", { counts, n, capacity: answer.capacity })];
  if (answer.unknown.length) {
    line.push(part("span", "zhclip_unknown", translate("unknown", { pieces: answer.unknown.join(" ") })));
  }
  return line;
}

/** Fill the line. The prompt is repeated below the figures only where there is something to mark in it. */
function show(line, parts, spans = [], bilingual = false) {
  const top = part("div", "zhclip_figures", "");
  top.append(...parts);
  if (bilingual) top.append(...Object.keys(NAMES).map((name) => part("span", `zhclip_${name}`, NAMES[name])));
  const text = part("div", "zhclip_spans", "");
  line.marked = bilingual || spans.some((span) => span.weight !== 1);
  if (line.marked) text.append(...spans.map((span) => mark(span, bilingual)));
  line.element.replaceChildren(top, text);
  line.node.setDirtyCanvas(true, true);
}

function mark(span, bilingual) {
  const shown = bilingual || span.language === "break";
  const element = part("span", shown ? `zhclip_${span.language}` : "", span.text);
  if (span.weight !== 1) {
    element.classList.add("zhclip_weight");
    element.dataset.weight = span.weight === null ? "?" : String(Number(span.weight.toFixed(3)));
  }
  return element;
}
