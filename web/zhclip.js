// ZhCLIP in ComfyUI's front end. Plain modules: the front end loads each .js of this folder, and only this one acts.

import { app } from "../../scripts/app.js";
import { refresh, remove } from "./count.js";
import { translateDefinitions, translateNode } from "./names.js";
import { report } from "./report.js";
import { translate } from "./words.js";

const PERIOD = 250; // milliseconds
const SETTING = "ZhCLIP.Count";

// Polls the nodes in view, in place of a hook for each way in which a prompt or its encoder can
// change (typing, links, reroutes, undo, paste, subgraphs, another file): a poll reads a few fields.
function update() {
  if (document.hidden) return;
  const act = app.extensionManager.setting.get(SETTING) ? refresh : remove;
  for (const node of app.canvas?.graph?.nodes ?? []) act(node);
}

app.registerExtension({
  name: "ZhCLIP",
  settings: [{ id: SETTING, name: translate("setting"), category: ["ZhCLIP", "Prompt"], type: "boolean", defaultValue: true }],

  setup() {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = new URL("./zhclip.css", import.meta.url).href;
    document.head.append(link);
    setInterval(update, PERIOD);
  },

  addCustomNodeDefs: translateDefinitions,
  nodeCreated: translateNode,

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("ZhCLIP")) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.call(this, output);
      report(this, output);
    };
  },

  // Undo and another tab build the nodes again; their texts come back with their pictures.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.graph.getNodeById(id);
      if (node) report(node, output);
    }
  },
});
