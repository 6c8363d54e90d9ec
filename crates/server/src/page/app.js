// The page: from a file or an example, over the form, to a picture.

import * as code from "./code.js";
import { bytes, find, make } from "./dom.js";
import { FileError } from "./error.js";
import * as files from "./files.js";
import { arrange } from "./fit.js";
import { ENOUGH, pictureType } from "./kinds.js";
import { randomLatents, rank, readTensors } from "./latents.js";
import { follow } from "./live.js";
import * as options from "./options.js";
import * as ready from "./ready.js";
import { attempt, fail, goOn, wantKey } from "./say.js";
import * as results from "./results.js";
import { BASE, ask, key } from "./server.js";
import { canEncode, changed, item, model, state, tensor } from "./state.js";
import { decodeLatents, encodePicture, offerFile } from "./work.js";

// ---------------------------------------------------------------- the door

find("#door").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(find("#key").value.trim());
  find("#key").value = "";
  find("#door").hidden = true;
  open();
});

// ---------------------------------------------------------------- models

const PATIENCE = 1000;

/** The model that the address of this page names, as /flux does. */
let named = decodeURIComponent(location.pathname.split("/").at(-1));

/** Learns what the server has, when the page is opened and when the server was away. */
async function open() {
  const wasOpen = Boolean(model());
  await attempt("Asking the server what it has…", async (signal) => {
    for (;;) {
      const { models } = await (await ask("/models", { signal })).json();
      state.models = models;
      // Without details a model is not loaded: not yet, or not before somebody asks for it.
      if (models.every((one) => one.latent_channels !== undefined) || await isReady(signal)) break;
      goOn("The server is loading its models…");
      await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    }
    const chosen = named || find("#model").value;
    options.listModels(state.models);
    const isThere = state.models.some(({ name }) => name === chosen);
    if (isThere) find("#model").value = chosen;
    // After the server was away, what people have typed is still right.
    if (!isThere || !wasOpen) options.suggestFactors(model());
    // A file that was dropped before any model was known.
    if (state.input?.tensors && !wasOpen) chooseTensor(tensor());
    ready.judge();
    if (named && !isThere) fail(`This server has no model ${named}; chosen is ${model().name}.`);
    named = "";
  });
}

async function isReady(signal) {
  try {
    return (await ask("/ready", { signal })).ok;
  } catch (error) {
    if (error.status === 503) return false;
    throw error;
  }
}

function describeModel({ name, class_name, latent_channels, out_channels, spatial_factor, temporal_factor, license, source, concluded }) {
  if (!latent_channels) return "It is loaded when it is first asked for something.";
  const frames = temporal_factor ? ` and ${temporal_factor} frames` : "";
  const parts = [`${class_name}, ${latent_channels} latent channels of ${spatial_factor} × ${spatial_factor} pixels${frames}${out_channels === 4 ? ", with alpha" : ""}`];
  if (source && source !== name) parts.push(source);
  if (license) parts.push(license);
  if (concluded) parts.push(concluded);
  return parts.join(" · ");
}

// ---------------------------------------------------------------- input

/** Takes in what was dropped or chosen, and of several files the first one. */
async function takeAll(list) {
  state.files = list;
  find("#files").replaceChildren(...list.map(({ path }, index) => make("option", { value: index }, path)));
  if (list.length) return take(list[0]);
  ready.clear();
  state.input = null;
  fail("The folder holds no file of latents and no picture: .safetensors, .npy, .npz, .pt, .png, .jpg or .webp.");
  changed();
}

/** Which file is being read: reading takes a while, and another one may be chosen meanwhile. */
let reading;

/** Takes in a file. What it is, its first bytes say. */
async function take(one) {
  const { file, path } = one;
  reading = one;
  ready.clear();
  state.input = null;
  try {
    const type = pictureType(new Uint8Array(await file.slice(0, ENOUGH).arrayBuffer()));
    const input = type
      ? { name: path, size: file.size, blob: new Blob([file], { type }) }
      : await readLatents(path, new Uint8Array(await file.arrayBuffer()));
    if (reading !== one) return;
    state.input = input;
    if (!type) chooseTensor();
    ready.judge();
  } catch (error) {
    if (reading !== one) return;
    fail(error instanceof FileError ? error.message : `${path} cannot be read by this browser: it may be too large, or gone.`);
  }
  changed();
  results.bring();
}

/** An input of latents. */
async function readLatents(name, bytes, example) {
  return { name, size: bytes.length, bytes, ...(await readTensors(name, bytes)), example };
}

/** Lists the tensors of the file, and chooses the one that are its latents most likely, or `kept` if it fits. */
function chooseTensor(kept) {
  const { name, tensors } = state.input;
  const misfit = (one) => Boolean(one.problem || !model() || arrange(one, model()).problem);
  find("#tensor").replaceChildren(...tensors.map((one, index) => {
    const text = `${one.name || name} · ${one.dtype} [${one.shape.join(", ")}]${misfit(one) ? " · does not fit" : ""}`;
    return make("option", { value: index, disabled: one.problem }, text);
  }));
  if (kept && !misfit(kept)) {
    find("#tensor").value = String(tensors.indexOf(kept));
    suggestSize();
    options.suggestScaling(kept.layout?.scaling);
    return;
  }
  state.shown = 0;
  // Those that fit before those that do not, and latents before what lies beside them.
  const order = (one) => (one.problem ? 20 : misfit(one) ? 10 : 0) + rank(one);
  const best = Math.min(...tensors.map(order));
  find("#tensor").value = String(tensors.findIndex((one) => order(one) === best));
  find("#item").value = "";
  suggestSize();
  options.suggestScaling(tensor()?.layout?.scaling);
}

/** Packed latents do not say how wide they are; most pictures are square. */
function suggestSize() {
  const { packed, width, height } = tensor() && model() ? arrange(tensor(), model()) : {};
  if (!packed) return;
  find("#width").value = width ?? "";
  find("#height").value = height ?? "";
}

// ---------------------------------------------------------------- the screen follows

document.addEventListener("changed", () => {
  const served = model();
  const one = item();
  const isPicture = Boolean(state.input?.blob);
  options.update(served, one);
  find("#takes").textContent = `latents as .safetensors, .npy, .npz or .pt${canEncode(served) ? ", or a picture" : ""}`;
  find("#from").textContent = isPicture ? "Picture" : "Latents";
  find("#model-facts").textContent = served ? describeModel(served) : "";
  const tryIt = find("#try");
  tryIt.textContent = served?.has_example ? "Try it with an example" : "Try it with random latents";
  // The first thing to do for somebody who is new.
  tryIt.classList.toggle("main", !state.input);
  tryIt.disabled = !served || (!served.has_example && !served.latent_channels) || Boolean(state.running);

  find("#chosen").hidden = !state.input;
  if (state.input) {
    find("#file-name").textContent = state.input.name;
    find("#file-size").textContent = bytes(state.input.size);
    find("#files-field").hidden = state.files.length < 2;
    find("#tensor-field").hidden = isPicture || state.input.tensors.length < 2;
    find("#item-field").hidden = !(one?.batch > 1);
    find("#item").max = one?.batch ?? 1;
    find("#item").placeholder = `all ${one?.batch ?? 1}`;
    find("#input-facts").textContent = isPicture ? "It is encoded, and decoded again." : one ? describeInput(one) : "";
  }
  const canGo = served && (isPicture ? canEncode(served) : one && !one.problem);
  find("#go").disabled = !canGo || Boolean(state.running);
  find("#go").textContent = isPicture && canEncode(served) ? "Encode and decode" : "Decode";
  find("#cancel").hidden = !state.running;
  find("#request").hidden = isPicture || !one || Boolean(one.problem);
  if (!find("#request").hidden) code.show();
  ready.update();
});

function describeInput(one) {
  const { shape, dtype } = tensor();
  const latents = `${dtype} [${shape.join(", ")}]`;
  if (one.problem) return latents;
  const size = one.packed ? "packed" : !one.width ? "the model says how large" : `${one.width} × ${one.height} pixels`;
  const says = tensor().layout ? ` · ${tensor().layout.says}` : "";
  return `${latents} · ${size}${one.frames > 1 ? `, ${one.frames} frames` : ""}${says}`;
}

// ---------------------------------------------------------------- what people do

find("#work").noValidate = true; // The server says what is wrong with a value, in a better sentence.
find("#work").addEventListener("submit", (event) => {
  event.preventDefault();
  if (find("#go").disabled) return;
  if (state.input.blob) encodePicture();
  else decodeLatents();
});
find("#work").addEventListener("input", (event) => {
  if (event.target.id === "model") {
    options.suggestFactors(model());
    if (state.input?.tensors) chooseTensor(tensor());
    ready.judge();
  }
  if (event.target.id === "tensor") {
    state.shown = 0;
    suggestSize();
    options.suggestScaling(tensor()?.layout?.scaling);
    ready.clear();
    ready.judge();
  }
  if (event.target.id === "files") take(state.files[Number(event.target.value)]);
  else if (event.target.id !== "file") changed();
});
find("#file").addEventListener("change", (event) => {
  const list = files.chosen(event.target.files);
  if (list.length) takeAll(list);
  // The same file may be chosen again, after it has changed.
  event.target.value = "";
});
find("#cancel").addEventListener("click", () => state.running?.abort());

find("#try").addEventListener("click", async () => {
  const served = model();
  ready.clear();
  try {
    const path = `/models/${served.name}/example`;
    state.input = served.has_example
      ? await readLatents(`${served.name}-latents.safetensors`, new Uint8Array(await (await ask(path)).arrayBuffer()), BASE + path)
      : await readLatents("random-latents.safetensors", randomLatents(served));
    state.files = [];
    chooseTensor();
    changed();
    await decodeLatents();
    // The code on the page reads a file, so there must be a way to get it.
    if (!served.has_example) offerFile(state.input.bytes, state.input.name);
  } catch (error) {
    if (error.status === 401) wantKey(error.message);
    else fail(error.message);
    changed();
  }
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    find("#drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      files.dropped(event.dataTransfer).then(takeAll).catch(() => fail("What was dropped cannot be read by this browser."));
    }
  });
}

follow(open);
await open();
