// What came back: a picture with its facts, what it can be compared with, and of a batch all of them.

import * as compare from "./compare.js";
import { bytes, find, make } from "./dom.js";
import { changed, state } from "./state.js";

/**
 * What was decoded, the newest last, two at most: { items: [{ url, type, name, alt, width, height, size, facts, output }],
 * original }. An original is a picture that was encoded.
 */
const runs = [];

const urls = ({ items, original }) => [...items, original].filter(Boolean).map(({ url }) => url);

/** A new run, which is on the page from its first picture on. */
export const begin = (original) => ({ items: [], original });

/** Adds a picture to a run. The first one is shown; the run before stays, to be compared with. */
export function add(run, result, total) {
  run.items.push(result);
  if (runs.at(-1) !== run) {
    runs.push(run);
    if (runs.length > 2) urls(runs.shift()).forEach(URL.revokeObjectURL);
    find("#batch").replaceChildren();
  }
  find("#batch").hidden = total < 2;
  if (total > 1) find("#batch").append(small(result, run.items.length - 1));
  if (run.items.length > 1) return;
  show(0);
  bring();
}

/** A picture of the batch to choose. */
function small(result, index) {
  const picture = result.type.startsWith("video/")
    ? make("video", { src: result.url, muted: true, preload: "metadata", tabindex: "-1" })
    : make("img", { src: result.url, alt: "" });
  const button = make("button", { type: "button", "aria-label": `Number ${index + 1}`, "aria-pressed": "false", onclick: () => show(index) }, picture, make("span", { "aria-hidden": "true" }, index + 1));
  return make("li", {}, button);
}

/** Shows a picture of the newest run. */
function show(index) {
  const run = runs.at(-1);
  const result = run.items[index];
  find("#result").hidden = false;
  for (const [at, button] of [...find("#batch").querySelectorAll("button")].entries()) button.setAttribute("aria-pressed", String(at === index));
  compare.show(result);
  const shown = [...result.facts, ["Pixels", `${result.width} × ${result.height}`], ["File", `${bytes(result.size)}, ${result.type.split("/")[1].toUpperCase()}`]];
  find("#facts").replaceChildren(...shown.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  find("#save").href = result.url;
  find("#save").download = result.output;

  const others = [];
  if (run.original) others.push(["original", "the original"]);
  const before = earlier(index);
  if (before) others.push(["before", `the picture before (${before.name})`]);
  find("#against-field").hidden = others.length === 0;
  find("#against").replaceChildren(make("option", { value: "" }, "nothing"), ...others.map(([value, text]) => make("option", { value }, text)));
  find("#against").value = run.original ? "original" : "";
  state.shown = index;
  against();
  changed();
}

/** The picture of the run before that has this place in it. */
function earlier(index) {
  const [before, run] = runs.length > 1 ? runs : [];
  const found = before?.items[index];
  const isPicture = (result) => result?.type.startsWith("image/");
  return isPicture(found) && isPicture(run.items[index]) ? found : undefined;
}

function against() {
  const run = runs.at(-1);
  compare.against({ original: run?.original, before: earlier(state.shown) }[find("#against").value]);
}
find("#against").addEventListener("change", against);

/** Shows what a picture will be like until it is there; nothing takes that away. */
export function preview(blob) {
  const picture = find("#preview-picture");
  URL.revokeObjectURL(picture.src);
  find("#preview").hidden = !blob;
  if (!blob) return picture.removeAttribute("src");
  picture.src = URL.createObjectURL(blob);
  hide();
  bring();
}

/** Takes the pictures away; they are still there to compare the next one with. */
export function hide() {
  find("#result").hidden = true;
  find("#batch").hidden = true;
}

/** Brings the place of the picture into sight. */
export function bring() {
  find("#stage").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}
