// How the server is, now: its queue and what it gets done, from the figures that it keeps for Prometheus.

import { find } from "./dom.js";
import { ask } from "./server.js";

const EVERY = 2000;
/** Samples in the little chart. */
const SHOWN = 40;

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

async function look() {
  const text = await (await ask("/metrics")).text();
  const now = { time: performance.now(), pixels: total(text, "remote_vae_pixels_total") };
  const waiting = total(text, "remote_vae_queue_length");
  const busy = total(text, "remote_vae_in_flight");
  if (last) rates.push(Math.max(0, now.pixels - last.pixels) / 1e3 / (now.time - last.time));
  last = now;
  if (rates.length > SHOWN) rates.shift();
  // What the server gets done comes in whole pictures, so one moment says little.
  const recent = rates.slice(-5);
  const rate = recent.length ? recent.reduce((sum, one) => sum + one, 0) / recent.length : 0;
  show(busy === 0 ? "idle" : `${busy} at work`, `${waiting} waiting`, rate);
}

function show(state, queue, rate) {
  find("#live-state").textContent = state;
  find("#live-queue").textContent = queue;
  find("#live-rate").textContent = `${rate.toFixed(rate < 10 ? 2 : 0)} megapixels/s`;
  const highest = Math.max(...rates, 0.01);
  const shown = [...Array(SHOWN - rates.length).fill(0), ...rates];
  const points = shown.map((one, index) => `${(100 * index) / (SHOWN - 1)},${22.5 - (21 * one) / highest}`);
  find("#live-line").setAttribute("points", points.join(" "));
  find("#live").hidden = false;
}

/** Looks every two seconds while somebody looks at the page. */
export async function follow() {
  for (;;) {
    if (!document.hidden) {
      try {
        await look();
      } catch {
        // A server that is away or wants a key is spoken of elsewhere.
        find("#live").hidden = true;
        last = undefined;
      }
    }
    await new Promise((done) => setTimeout(done, EVERY));
  }
}
