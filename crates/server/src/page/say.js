// What is said on the page: what goes on, and what went wrong.

import { find, make } from "./dom.js";
import * as results from "./results.js";
import { key } from "./server.js";
import { changed, state } from "./state.js";

/** Says what went wrong, in the place of the pictures that were there, but for those of this very work. */
export function fail(sentence, keepsPictures = false) {
  find("#failure").textContent = sentence;
  find("#failure").hidden = !sentence;
  if (!sentence) return;
  if (!keepsPictures) results.hide();
  // Where the page is one column, this is below what was pressed.
  results.bring();
}

/** Says what goes on, with the seconds since it began; gives a function that ends it. */
function busy(words) {
  const start = performance.now();
  const seconds = make("span", { class: "number", "aria-hidden": "true" });
  find("#status").replaceChildren(words, seconds);
  const tick = setInterval(() => {
    seconds.textContent = `${((performance.now() - start) / 1000).toFixed(1)} s`;
  }, 100);
  return () => {
    clearInterval(tick);
    find("#status").replaceChildren();
  };
}

/** Says what goes on now, while the seconds go on. */
export const goOn = (words) => {
  find("#status").firstChild.textContent = words;
};

/** Runs what asks the server, and shows what goes wrong. */
export async function attempt(words, work) {
  if (state.running) return;
  const controller = new AbortController();
  state.running = controller;
  fail("");
  const done = busy(words);
  changed();
  try {
    await work(controller.signal);
  } catch (error) {
    if (error.status === 401) wantKey(error.message);
    else if (error.name !== "AbortError") fail(error.message, error.keepsPictures);
  } finally {
    done();
    state.running = null;
    changed();
  }
}

export function wantKey(sentence) {
  find("#door").hidden = false;
  if (key.get()) fail(sentence);
  find("#key").focus();
}
