// The panels' texts in the front end's language, from words.json.

import { app } from "../../scripts/app.js";

const languages = await (await fetch(new URL("./words.json", import.meta.url))).json();

/** The front end's language, such as "zh". */
export function locale() {
  return app.extensionManager.setting.get("Comfy.Locale") ?? "en";
}

/** A sentence of words.json with its {names} filled in; English where there is no translation. */
export function translate(key, values = {}) {
  const sentence = languages[locale()]?.[key] ?? languages.en[key];
  return sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
