// What can be done with the file that was chosen, said where its picture will be: a press of a button away, or why not.

import { find, make } from "./dom.js";
import { arrange } from "./fit.js";
import * as results from "./results.js";
import { fail } from "./say.js";
import { canEncode, changed, item, model, state, tensor } from "./state.js";
import { decodeLatents, encodePicture } from "./work.js";

/** More buttons than this are a list to read. */
const MANY = 4;

/** Why the chosen model cannot take the chosen file; undefined if it can. */
function problem() {
  const served = model();
  const { name, blob } = state.input;
  if (blob) return canEncode(served) ? undefined : `${name} is a picture, and model ${served.name} only decodes latents here`;
  const one = item();
  if (!one.problem) return undefined;
  const { shape, name: inside, problem: ofTensor } = tensor();
  if (ofTensor) return `${name}${inside ? `, tensor "${inside}",` : ""} cannot be decoded: ${ofTensor}`;
  return `${name} does not fit model ${served.name}: ${inside ? `its tensor "${inside}"` : "its tensor"} is [${shape.join(", ")}], and ${one.problem}`;
}

/** The other models of this server that take what was chosen; only if none is known to, those of which nothing is known yet. */
function others() {
  if (state.input.tensors && (!tensor() || tensor().problem)) return [];
  const takes = state.input.blob ? canEncode : (served) => !arrange(tensor(), served).problem;
  const found = state.models.filter((served) => served !== model() && takes(served));
  const loaded = found.filter((served) => served.latent_channels);
  return (loaded.length ? loaded : found).slice(0, MANY);
}

/** Looks whether the chosen model takes the chosen file, and says in red if it does not. */
export function judge() {
  if (!state.input || !model()) return;
  const why = problem();
  const nobody = others().length === 0 && state.models.length > 1 && !tensor()?.problem;
  fail(why ? `${why}.${nobody ? " No model of this server takes it." : ""}` : "");
}

/** Follows what is on the page. */
export function update() {
  const panel = find("#ready");
  const isFit = state.input && model() && !problem();
  const isFree = find("#result").hidden && !state.running;
  const models = !state.input || !model() ? [] : isFit ? [model()] : others();
  panel.hidden = !isFree || models.length === 0 || (isFit && !find("#failure").hidden);
  find("#empty").hidden = !isFree || Boolean(state.input) || !find("#failure").hidden;
  if (panel.hidden) return;
  find("#ready-text").textContent = isFit ? ready() : models.length > 1 ? "These models of this server take it:" : `Model ${models[0].name} takes it${models[0].latent_channels ? "" : ", perhaps: it is not loaded yet"}.`;
  find("#ready-buttons").replaceChildren(...models.map((served) => {
    const verb = state.input.blob ? "Encode" : "Decode";
    return make("button", { type: "button", class: "main", onclick: () => start(served) }, `${verb} with ${served.name}`);
  }));
}

/** A sentence on a file that fits. */
function ready() {
  const { name, blob } = state.input;
  if (blob) return `${name} is ready. Press the button: it is encoded, decoded again, and compared.`;
  const { batch, width, height, frames, packed } = item();
  if (packed) return `${name} is ready. Its latents are packed: see that width and height are right, then press the button.`;
  const one = width ? `${width} × ${height} pixels${frames > 1 ? `, ${frames} frames` : ""}` : "";
  return `${name} is ready${one && `: ${batch > 1 ? `${batch} pictures of ` : ""}${one}`}. Press the button, and the ${batch > 1 ? "pictures appear" : frames > 1 ? "video appears" : "picture appears"} here.`;
}

function start(served) {
  find("#model").value = served.name;
  // As if it had been chosen in the list.
  find("#model").dispatchEvent(new Event("input", { bubbles: true }));
  changed();
  if (state.input.blob) encodePicture();
  else decodeLatents();
}

/** Makes room for a file that was just chosen: the picture before must not be taken for its. */
export function clear() {
  fail("");
  results.hide();
}
