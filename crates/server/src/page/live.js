// How the server is, now: its queue and what it gets done, from the figures that it keeps for Prometheus.

import { find } from "./dom.js";
import { ask } from "./server.js";
import { state } from "./state.js";

const EVERY = 2000;
/** Samples in the little chart. */
const SHOWN = 40;
/** How long it is said that the server is back. */
const NEWS = 10_000;

/** The sum of a metric over all its labels. */
function total(text, name) {
  let sum = 0;
  for (const line of text.split("\n")) {
    if (!line.startsWith(name)) continue;
    const rest = line.slice(name.length);
    if (rest.startsWith("{") || rest.startsWith(" ")) sum += Number(line.slice(line.lastIndexOf(" ") + 1));
  }
  return sum;
}

const rates = [];
let last;
/** Since when the server cannot be reached. */
let lost;

async function look() {
  const text = await (await ask("/metrics")).text();
  const now = { time: performance.now(), pixels: total(text, "remote_vae_pixels_total") };
  const waiting = total(text, "remote_vae_queue_length");
  const busy = total(text, "remote_vae_in_flight");
  // Another process has begun to count anew.
  if (last && now.pixels >= last.pixels) rates.push((now.pixels - last.pixels) / 1e3 / (now.time - last.time));
  last = now;
  if (rates.length > SHOWN) rates.shift();
  // What the server gets done comes in whole pictures, so one moment says little.
  const recent = rates.slice(-5);
  const rate = recent.length ? recent.reduce((sum, one) => sum + one, 0) / recent.length : 0;
  show(busy === 0 ? "idle" : `${busy} at work`, `${waiting} waiting`, rate);
}

function show(work, queue, rate) {
  find("#live-state").textContent = work;
  find("#live-queue").textContent = queue;
  find("#live-rate").textContent = `${rate.toFixed(rate < 10 ? 2 : 0)} megapixels/s`;
  const highest = Math.max(...rates, 0.01);
  const shown = [...Array(SHOWN - rates.length).fill(0), ...rates];
  const points = shown.map((one, index) => `${(100 * index) / (SHOWN - 1)},${22.5 - (21 * one) / highest}`);
  find("#live-line").setAttribute("points", points.join(" "));
  find("#live").hidden = false;
}

/** Says that the server is away, or is back; without words, neither. */
function news(words) {
  find("#live-news").textContent = words;
  find("#news").hidden = !words;
  find("#news").classList.toggle("lost", Boolean(lost));
}

/** Whether it is the server that is away: no answer, or one of a proxy that gets none. */
const isAway = ({ status }) => status === 0 || status === 502 || status === 504;

/** Looks every two seconds while somebody looks at the page. `whenBack` is called after the server was away. */
export async function follow(whenBack) {
  for (;;) {
    if (!document.hidden) {
      try {
        await look();
        await found(whenBack);
      } catch (error) {
        find("#live").hidden = true;
        last = undefined;
        if (isAway(error)) lose();
        // One that wants a key, or gives no figures, is there.
        else await found(whenBack);
      }
    }
    await new Promise((done) => setTimeout(done, EVERY));
  }
}

function lose() {
  if (lost) return;
  lost = new Date();
  news(`The server cannot be reached since ${lost.toLocaleTimeString()}. This page tries again every ${EVERY / 1000} seconds.`);
}

async function found(whenBack) {
  if (!lost) return;
  // What waits for an answer of the server says itself how that ends.
  if (state.running) return;
  lost = undefined;
  news("The server is back.");
  setTimeout(() => {
    if (!lost) news("");
  }, NEWS);
  await whenBack();
}
