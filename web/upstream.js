// Which encoder a prompt node reads, that of a Load ZhCLIP Encoder or a Train ZhCLIP Encoder: links followed upstream,
// through reroutes, subgraphs, and nodes that hand a CLIP on (a LoRA loader, CLIP Set Last Layer, ZhCLIP Calibrate).

// Litegraph's id of the node inside a subgraph that stands for the subgraph's inputs: a number, or text in 2026.
const SUBGRAPH_INPUT = -10;
const BYPASS = 4;

/** Index of the input by which a CLIP reaches a node; -1 when none does. */
function clipInput(node) {
  const inputs = node.inputs ?? [];
  const named = inputs.findIndex((input) => input.name === "zhclip");
  if (named >= 0) return named;
  return node.type === "Reroute" ? 0 : inputs.findIndex((input) => input.type === "CLIP");
}

/** The node in which this subgraph stands, or undefined. */
function host(subgraph) {
  const root = subgraph.rootGraph;
  const graphs = root ? [root, ...(root.subgraphs?.values() ?? [])] : [];
  return graphs.flatMap((graph) => graph.nodes).find((node) => node.subgraph === subgraph);
}

/** The node that feeds an input, or undefined. */
export function source(node, index) {
  const id = node.inputs?.[index]?.link;
  const link = id == null ? undefined : node.graph?.getLink(id);
  if (!link) return undefined;
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    const outer = host(node.graph);
    return outer && source(outer, link.origin_slot);
  }
  const origin = node.graph.getNodeById(link.origin_id) ?? undefined;
  return origin?.subgraph ? origin.resolveSubgraphOutputLink(link.origin_slot)?.outputNode : origin;
}

/**
 * What a node's widget holds, or the widget that stands for it, on a subgraph or a Primitive; undefined where another
 * node brings it.
 */
export function widgetValue(node, name) {
  const id = node.inputs?.find((input) => input.name === name)?.link;
  const link = id == null ? undefined : node.graph?.getLink(id);
  if (!link) return node.widgets?.find((widget) => widget.name === name)?.value;
  if (Number(link.origin_id) !== SUBGRAPH_INPUT) {
    const origin = node.graph.getNodeById(link.origin_id);
    return origin?.type === "PrimitiveNode" ? origin.widgets?.[0]?.value : undefined;
  }
  const outer = host(node.graph);
  return outer && widgetValue(outer, outer.inputs[link.origin_slot].name);
}

const FILES = { ZhCLIPLoader: (node) => widgetValue(node, "file"), ZhCLIPTrain: trained };

/** The file that a Train ZhCLIP Encoder writes, named as in nodes/train.py. */
function trained(node) {
  const [name, checkpoint, thoroughness] = ["name", "checkpoint", "thoroughness"].map((input) => widgetValue(node, input) ?? "");
  const ending = thoroughness === "recommended" ? "-zhclip" : `-zhclip-${thoroughness}`;
  const file = name.trim() || checkpoint.replace(/^.*[\\/]/, "").replace(/\.[^.]*$/, "") + ending;
  return file.toLowerCase().endsWith(".safetensors") ? file : `${file}.safetensors`;
}

/** The encoder upstream of a node's input as {kind, file}, or undefined; its file undefined where a link brings it. */
export function encoder(node, index) {
  const seen = new Set();
  for (let at = source(node, index); at && !seen.has(at); at = source(at, clipInput(at))) {
    const file = FILES[at.comfyClass];
    if (file) return at.mode === BYPASS ? undefined : { kind: at.comfyClass, file: file(at) };
    seen.add(at);
  }
  return undefined;
}
