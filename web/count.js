// The line under a prompt box: tokens per window, unknown pieces, and the prompt as it is read.

import { api } from "../../scripts/api.js";
import { encoder, held } from "./upstream.js";
import { panel, part, removePanel } from "./panel.js";
import { locale, say } from "./words.js";

const PANEL = "zhclip_count";
const RETRY = 10000; // milliseconds
const HEIGHTS = { figures: 30, prompt: 68 }; // the figures alone, or with two lines of the prompt below
const PROMPTS = { ZhCLIPTextEncode: "zhclip", CLIPTextEncode: "clip" }; // node -> the input by which its encoder comes
const NAMES = { zh: "ZhCLIP", en: "CLIP" };

/** What the server should be asked about a node, or the key of a sentence, or undefined for a node that is not ours. */
function question(node) {
  const index = node.inputs?.findIndex((input) => input.name === PROMPTS[node.comfyClass]);
  const found = index >= 0 ? encoder(node, index) : undefined;
  if (!found && node.comfyClass === "CLIPTextEncode") return undefined;
  if (!found) return "no_encoder";
  const text = held(node, "text");
  if (text === undefined) return "linked";
  const second = node.comfyClass === "ZhCLIPTextEncode" && node.inputs.find((input) => input.name === "clip");
  return { ...found, text, bilingual: Boolean(second && second.link != null) };
}

/** Bring a node's line up to date. Called again and again: it asks once the prompt has rested for one call. */
export function refresh(node) {
  if (!(node.comfyClass in PROMPTS)) return;
  const asked = question(node);
  if (!asked) return removePanel(node, PANEL);
  const line = panel(node, PANEL, (widget) => widget.marked ? HEIGHTS.prompt : HEIGHTS.figures);
  const state = JSON.stringify([asked, locale()]);
  const rested = state === line.rested;
  line.rested = state;
  if (!rested || state === line.shown) return;
  line.shown = state;
  if (typeof asked === "string") return show(line, [say(asked)]);
  ask(asked).then((answer) => {
    if (line.shown !== state) return; // typed on meanwhile
    show(line, figures(answer), answer.spans, asked.bilingual);
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
    return answer.error ? { error: say(untrained ? "untrained" : "refused", { reason: answer.error }) } : answer;
  } catch {
    return { error: say("silent") };
  }
}

function figures(answer) {
  if (answer.error) return [answer.error];
  const n = answer.windows.length;
  const counts = answer.windows.join(" + ") || "0";
  const line = [say(n > 1 ? "several" : "windows", { counts, n, capacity: answer.capacity })];
  if (answer.unknown.length) {
    line.push(part("span", "zhclip_unknown", say("unknown", { pieces: answer.unknown.join(" ") })));
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
