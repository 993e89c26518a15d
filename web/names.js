// The nodes' names in the front end's language, where the front end forgets them: versions of late 2025, 1.32.9 among
// them, load a language after the packs' translations and over them (Comfy-Org/ComfyUI_frontend#7214 mended that).
// Where nothing is forgotten, this sets what is set already. The texts are those of locales/, which the server hands out.

import { api } from "../../scripts/api.js";
import { locale } from "./words.js";

let names = {}; // node id -> its entry of nodeDefs.json

/** Translate the pack's entries of what the server says of all nodes. */
export async function translateDefinitions(definitions) {
  names = (await api.getCustomNodesI18n())[locale()]?.nodeDefs ?? {};
  for (const id of Object.keys(definitions).filter((id) => id.startsWith("ZhCLIP") && id in names)) {
    const definition = definitions[id];
    const { display_name, description, inputs = {}, outputs = {} } = names[id];
    Object.assign(definition, { display_name, description });
    for (const group of Object.values(definition.input)) {
      for (const [name, [, options]] of Object.entries(group ?? {})) {
        if (options && inputs[name]?.tooltip) options.tooltip = inputs[name].tooltip;
      }
    }
    definition.output_tooltips = definition.output_tooltips?.map((tooltip, at) => outputs[at]?.tooltip ?? tooltip);
  }
}

/** Translate a new node's inputs and outputs. */
export function translateNode(node) {
  if (!node.comfyClass?.startsWith("ZhCLIP") || !(node.comfyClass in names)) return;
  const { inputs = {}, outputs = {} } = names[node.comfyClass];
  for (const input of node.inputs ?? []) input.localized_name = inputs[input.name]?.name ?? input.localized_name;
  for (const widget of node.widgets ?? []) widget.label = inputs[widget.name]?.name ?? widget.label;
  node.outputs?.forEach((output, at) => (output.localized_name = outputs[at]?.name ?? output.localized_name));
}
