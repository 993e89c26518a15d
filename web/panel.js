// Panels under a node: DOM widgets that show something and hold nothing. They are never written into a workflow or a
// prompt, and a panel of fixed height takes its room from the text box above it, so that no node grows at a load.

import { app } from "../../scripts/app.js";

/** The node's panel of this name, added when `height(widget)` is given and it has none. */
export function panel(node, name, height) {
  const found = node.widgets?.find((widget) => widget.name === name);
  if (found || !height) return found;
  const element = document.createElement("div");
  element.className = name;
  element.addEventListener("wheel", (event) => {
    if (scrolls(element)) event.stopPropagation();
    else if (!element.closest("[data-node-id]")) app.canvas.processMouseWheel(event); // a Vue node hands it on itself
  });
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false, // not an input of the node
    margin: 4, // above and below; zhclip.css keeps the text box's 10 at the sides
    getMinHeight: () => height(widget),
    getMaxHeight: () => height(widget),
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false; // no value of the workflow
  return widget;
}

/** Whether the part under the pointer holds more than it shows, so that the wheel is its own and not the canvas's. */
function scrolls(element) {
  return [...element.children].some((part) => part.matches(":hover") && part.scrollHeight > part.clientHeight + 1);
}

/** Take the panel away, if the node has it. */
export function removePanel(node, name) {
  const widget = panel(node, name);
  if (widget) node.removeWidget(widget);
}

/** An element with a class and a text; no markup is ever made of a prompt. */
export function part(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
