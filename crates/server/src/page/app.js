// The page: from a file or an example, over the form, to a picture.

import * as code from "./code.js";
import { bytes, find, make } from "./dom.js";
import { ENOUGH, pictureType } from "./kinds.js";
import { FileError, arrange, randomLatents, rank, readTensors } from "./latents.js";
import { follow } from "./live.js";
import * as options from "./options.js";
import { attempt, fail, goOn, wantKey } from "./say.js";
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

async function open() {
  await attempt("Asking the server what it has…", async (signal) => {
    for (;;) {
      const { models } = await (await ask("/models", { signal })).json();
      state.models = models;
      // Without details a model is not loaded: not yet, or not before somebody asks for it.
      if (models.every((one) => one.latent_channels !== undefined) || await isReady(signal)) break;
      goOn("The server is loading its models…");
      await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    }
    const chosen = find("#model").value;
    options.listModels(state.models);
    if (state.models.some(({ name }) => name === chosen)) find("#model").value = chosen;
    options.suggestFactors(model());
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

function describeModel({ name, class_name, latent_channels, spatial_factor, temporal_factor, license, source, concluded }) {
  if (!latent_channels) return "It is loaded when it is first asked for something.";
  const frames = temporal_factor ? ` and ${temporal_factor} frames` : "";
  const parts = [`${class_name}, ${latent_channels} latent channels of ${spatial_factor} × ${spatial_factor} pixels${frames}`];
  if (source && source !== name) parts.push(source);
  if (license) parts.push(license);
  if (concluded) parts.push(concluded);
  return parts.join(" · ");
}

// ---------------------------------------------------------------- input

/** Takes in a file that was dropped or chosen. What it is, its first bytes say. */
async function take(file) {
  fail("");
  state.input = null;
  try {
    const type = pictureType(new Uint8Array(await file.slice(0, ENOUGH).arrayBuffer()));
    if (!type) takeLatents(file.name, new Uint8Array(await file.arrayBuffer()));
    else if (canEncode(model())) state.input = { name: file.name, size: file.size, blob: new Blob([file], { type }) };
    else fail(`${file.name} is a picture, and ${model() ? `model ${model().name}` : "this server"} only decodes latents.`);
  } catch (error) {
    fail(error instanceof FileError ? error.message : `${file.name} cannot be read by this browser: it may be too large, or a folder.`);
  }
  changed();
}

function takeLatents(name, content, example) {
  const { format, tensors } = readTensors(name, content);
  state.input = { name, size: content.length, bytes: content, format, tensors, example };
  state.shown = 0;
  const select = find("#tensor");
  select.replaceChildren(...tensors.map((one, index) => {
    const problem = one.problem ?? arrange(one.shape, model()).problem;
    return make("option", { value: index, disabled: one.problem }, `${one.name || name} · ${one.dtype} [${one.shape.join(", ")}]${problem ? " · does not fit" : ""}`);
  }));
  // Those that fit before those that do not, and latents before what lies beside them.
  const order = (one) => (one.problem || arrange(one.shape, model()).problem ? 10 : 0) + rank(one);
  const best = Math.min(...tensors.map(order));
  select.value = String(tensors.findIndex((one) => order(one) === best));
  find("#item").value = "";
  suggestSize();
  options.suggestScaling(tensor()?.layout?.scaling);
}

/** Packed latents do not say how wide they are; most pictures are square. */
function suggestSize() {
  const { packed, width, height } = tensor() ? arrange(tensor().shape, model()) : {};
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
    find("#tensor-field").hidden = isPicture || state.input.tensors.length < 2;
    find("#item-field").hidden = !(one?.batch > 1);
    find("#item").max = one?.batch ?? 1;
    find("#item").placeholder = `all ${one?.batch ?? 1}`;
    find("#input-facts").textContent = isPicture ? "It is encoded, and decoded again." : describeInput(one);
  }
  const canGo = served && (isPicture ? canEncode(served) : one && !one.problem);
  find("#go").disabled = !canGo || Boolean(state.running);
  find("#go").textContent = isPicture ? "Encode and decode" : "Decode";
  find("#cancel").hidden = !state.running;
  find("#request").hidden = isPicture || !one || Boolean(one.problem);
  if (!find("#request").hidden) code.show();
});

function describeInput(one) {
  const { shape, dtype } = tensor();
  const latents = `${dtype} [${shape.join(", ")}]`;
  if (one.problem) return `${latents} cannot be decoded here: ${one.problem}.`;
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
    if (state.input?.tensors) takeLatents(state.input.name, state.input.bytes, state.input.example);
  }
  if (event.target.id === "tensor") {
    state.shown = 0;
    suggestSize();
    options.suggestScaling(tensor()?.layout?.scaling);
  }
  if (event.target.id !== "file") changed();
});
find("#file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file);
  // The same file may be chosen again, after it has changed.
  event.target.value = "";
});
find("#cancel").addEventListener("click", () => state.running?.abort());

find("#try").addEventListener("click", async () => {
  const served = model();
  fail("");
  try {
    if (served.has_example) {
      const path = `/models/${served.name}/example`;
      const content = new Uint8Array(await (await ask(path)).arrayBuffer());
      takeLatents(`${served.name}-latents.safetensors`, content, BASE + path);
    } else {
      const content = randomLatents(served);
      takeLatents("random-latents.safetensors", content);
    }
    changed();
    await decodeLatents();
    // The code on the page reads a file, so there must be a way to get it.
    if (!served.has_example) offerFile(state.input.bytes, state.input.name);
  } catch (error) {
    if (error.status === 401) wantKey(error.message);
    else fail(error.message);
  }
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    find("#drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) take(file);
  });
}

follow();
await open();
