// The page: from a file or an example, over the form, to a picture.

import * as compare from "./compare.js";
import { bytes, find, make, milliseconds } from "./dom.js";
import { FileError, arrange, randomLatents, readTensors, writeSafetensors } from "./latents.js";
import { follow } from "./live.js";
import * as options from "./options.js";
import { BASE, ask, key, timing } from "./server.js";
import * as snippets from "./snippets.js";

const state = {
  models: [],
  /** What was chosen: { name, size, bytes, format, tensors, example } for latents, { name, size, blob } for a picture. */
  input: null,
  /** Results, the newest last: { url, type, name, alt, width, height, size }. Two at most, and an original. */
  results: [],
  original: null,
  running: null,
};

const model = () => state.models.find(({ name }) => name === find("#model").value);
/** Whether a model takes pictures here. One that makes videos gives a video back, which nothing can be laid over. */
const canEncode = (served) => Boolean(served?.can_encode && !served.temporal_factor);
const tensor = () => state.input?.tensors?.[Number(find("#tensor").value)];

// ---------------------------------------------------------------- what is said

function fail(sentence) {
  find("#failure").textContent = sentence;
  find("#failure").hidden = !sentence;
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

/** Runs what asks the server, and shows what goes wrong. */
async function attempt(words, work) {
  if (state.running) return;
  const controller = new AbortController();
  state.running = controller;
  fail("");
  const done = busy(words);
  update();
  try {
    await work(controller.signal);
  } catch (error) {
    if (error.status === 401) wantKey(error.message);
    else if (error.name !== "AbortError") fail(error.message);
  } finally {
    done();
    state.running = null;
    update();
  }
}

// ---------------------------------------------------------------- the door

function wantKey(sentence) {
  find("#door").hidden = false;
  if (key.get()) fail(sentence);
  find("#key").focus();
}

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
      find("#status").firstChild.textContent = "The server is loading its models…";
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

/** Learns what a model is that has been loaded for this page's request. */
async function learn() {
  if (model().latent_channels) return;
  const { models } = await (await ask("/models")).json();
  state.models = models;
  options.suggestFactors(model());
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

/** Takes in a file that was dropped or chosen. */
async function take(file) {
  fail("");
  if (file.type.startsWith("image/")) {
    state.input = { name: file.name, size: file.size, blob: file };
    if (!canEncode(model())) {
      state.input = null;
      fail(`${file.name} is a picture, and ${model() ? `model ${model().name}` : "this server"} only decodes latents.`);
    }
  } else {
    try {
      takeLatents(file.name, new Uint8Array(await file.arrayBuffer()));
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      state.input = null;
      fail(error.message);
    }
  }
  update();
}

function takeLatents(name, content, example) {
  const { format, tensors } = readTensors(name, content);
  state.input = { name, size: content.length, bytes: content, format, tensors, example };
  const select = find("#tensor");
  select.replaceChildren(...tensors.map((one, index) => {
    const problem = one.problem ?? arrange(one.shape, model()).problem;
    return make("option", { value: index, disabled: one.problem }, `${one.name || name} · ${one.dtype} [${one.shape.join(", ")}]${problem ? " · does not fit" : ""}`);
  }));
  const first = tensors.findIndex((one) => !one.problem && !arrange(one.shape, model()).problem);
  select.value = String(Math.max(0, first));
  find("#item").value = "1";
  suggestSize();
}

/** Packed latents do not say how wide they are; most pictures are square. */
function suggestSize() {
  const { packed, width, height } = tensor() ? arrange(tensor().shape, model()) : {};
  if (!packed) return;
  find("#width").value = width ?? "";
  find("#height").value = height ?? "";
}

/** The item that is chosen, as the server will get it: its shape has a batch of one. */
function item() {
  const one = tensor();
  if (!one || !model()) return null;
  if (one.problem) return { problem: one.problem };
  const arranged = arrange(one.shape, model());
  if (arranged.problem) return arranged;
  const { batch, batched, packed } = arranged;
  const index = Math.min(Math.max(1, Math.trunc(Number(find("#item").value)) || 1), batch) - 1;
  const shape = [1, ...(batched ? one.shape.slice(1) : one.shape)];
  const length = one.length / batch;
  return { ...arranged, index, shape, packed, offset: one.offset + index * length, length };
}

function currentRequest(one) {
  const { name, format, example } = state.input;
  const source = { file: name, format, name: tensor().name, offset: one.offset, length: one.length, example };
  return options.request(model(), tensor(), one, source);
}

// ---------------------------------------------------------------- the screen follows

function update() {
  const served = model();
  const one = item();
  const isPicture = Boolean(state.input?.blob);
  options.update(served, one);
  find("#takes").textContent = canEncode(served) ? "latents as .safetensors or .npy, or a picture" : "latents as .safetensors or .npy";
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
    find("#input-facts").textContent = isPicture ? "It is encoded, and decoded again." : describeInput(one);
  }
  const canGo = served && (isPicture ? canEncode(served) : one && !one.problem);
  find("#go").disabled = !canGo || Boolean(state.running);
  find("#go").textContent = isPicture ? "Encode and decode" : "Decode";
  find("#cancel").hidden = !state.running;
  find("#request").hidden = isPicture || !one || Boolean(one.problem);
  if (!find("#request").hidden) find("#code-text").textContent = snippets[language()](currentRequest(one));
}

function describeInput(one) {
  const { shape, dtype } = tensor();
  const latents = `${dtype} [${shape.join(", ")}]`;
  if (one.problem) return `${latents} cannot be decoded here: ${one.problem}.`;
  const size = one.packed ? "packed" : !one.width ? "the model says how large" : `${one.width} × ${one.height} pixels`;
  return `${latents} · ${size}${one.frames > 1 ? `, ${one.frames} frames` : ""}`;
}

// ---------------------------------------------------------------- work

const NAMES = { png: "PNG", jpg: "JPEG", webp: "WebP", mp4: "MP4" };

/** A result as the page keeps it; `size` is that of the file, `width` and `height` are pixels. */
async function asResult(blob, name, frame) {
  const url = URL.createObjectURL(blob);
  let { width, height } = frame;
  if (blob.type.startsWith("image/")) {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    ({ naturalWidth: width, naturalHeight: height } = picture);
  } else if (!width) {
    const video = make("video", { src: url });
    await new Promise((resolve) => video.addEventListener("loadedmetadata", resolve));
    ({ videoWidth: width, videoHeight: height } = video);
  }
  return { url, type: blob.type, name, size: blob.size, width, height };
}

async function decode(request, body, frame, signal) {
  const start = performance.now();
  const answer = await ask(`${request.path}?${new URLSearchParams(request.query)}`, {
    method: "POST",
    headers: { "Content-Type": "tensor/binary", Accept: request.accept },
    body,
    signal,
  });
  const blob = await answer.blob();
  const took = performance.now() - start;
  const quality = request.query.find(([name]) => name === "quality")?.[1];
  const tiled = request.query.some(([name]) => name === "tiling");
  const name = [NAMES[options.format()], quality && `quality ${quality}`, tiled && "in tiles"].filter(Boolean).join(", ");
  const result = await asResult(blob, name, frame);
  return { ...result, took, steps: timing(answer), output: request.output };
}

function decodeLatents() {
  const one = item();
  const request = currentRequest(one);
  const body = state.input.bytes.subarray(one.offset, one.offset + one.length);
  const from = state.input.name;
  return attempt("Decoding…", async (signal) => {
    const result = await decode(request, body, one, signal);
    result.alt = `The picture decoded from ${from}`;
    find("#save-latents").hidden = true;
    setOriginal(null);
    keep(result, [["Decoded in", milliseconds(result.took)], ...steps(result.steps)]);
    await learn();
  });
}

/** Sends a picture, and decodes what comes back. */
function encodePicture() {
  const { blob, name } = state.input;
  const served = model();
  return attempt("Encoding…", async (signal) => {
    const query = [["sample_mode", "argmax"], ...factors(served)];
    const start = performance.now();
    const answer = await ask(`/${served.name}?${new URLSearchParams(query)}`, {
      method: "POST",
      headers: { "Content-Type": blob.type, Accept: "tensor/binary" },
      body: blob,
      signal,
    });
    const latents = new Uint8Array(await answer.arrayBuffer());
    const took = performance.now() - start;
    const shape = JSON.parse(answer.headers.get("shape"));
    const dtype = answer.headers.get("dtype");
    find("#status").firstChild.textContent = "Decoding…";
    const arranged = arrange(shape, served);
    const source = { file: "", format: "safetensors", name: "latents", offset: 0, length: latents.length };
    const request = options.request(served, { dtype }, { ...arranged, shape }, source);
    const result = await decode(request, latents, arranged, signal);
    result.alt = `${name}, encoded and decoded again`;
    offerLatents(name, shape, dtype, latents);
    setOriginal(await asResult(blob, "Original", arranged));
    const size = `${bytes(blob.size)} → ${bytes(latents.length)} of latents`;
    keep(result, [["Encoded in", milliseconds(took)], ["Decoded in", milliseconds(result.took)], ["Sent", size], ["Latents", `${dtype} [${shape.join(", ")}]`]]);
  });
}

const factors = ({ scaling_factor: factor, shift_factor: shift }) =>
  [["scaling_factor", factor], ["shift_factor", shift]].filter(([, value]) => value != null).map(([name, value]) => [name, String(value)]);

const TYPES = { float16: "F16", bfloat16: "BF16", float32: "F32" };

function offerLatents(name, shape, dtype, latents) {
  const link = find("#save-latents");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([writeSafetensors("latents", shape, TYPES[dtype], latents)]));
  link.download = `${name.replace(/\.\w+$/, "")}.safetensors`;
  link.hidden = false;
}

const WORDS = { queue: "in the queue", work: "in the model", encode: "for the file" };
const steps = (said) => {
  const parts = Object.entries(WORDS).filter(([step]) => step in said).map(([step, words]) => `${milliseconds(said[step])} ${words}`);
  return parts.length ? [["Of which", parts.join(", ")]] : [];
};

// ---------------------------------------------------------------- results

function setOriginal(original) {
  if (state.original) URL.revokeObjectURL(state.original.url);
  state.original = original;
}

/** Shows a result; the one before it stays, to be compared with. */
function keep(result, facts) {
  state.results.push(result);
  if (state.results.length > 2) URL.revokeObjectURL(state.results.shift().url);
  find("#empty").hidden = true;
  find("#result").hidden = false;
  compare.show(result);
  const size = `${result.width} × ${result.height}`;
  const shown = [...facts, ["Pixels", size], ["File", `${bytes(result.size)}, ${result.type.split("/")[1].toUpperCase()}`]];
  find("#facts").replaceChildren(...shown.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  find("#save").href = result.url;
  find("#save").download = result.output;

  const others = [];
  if (state.original) others.push(["original", "the original"]);
  const before = state.results.at(-2);
  if (before && before.type.startsWith("image/") && result.type.startsWith("image/")) others.push(["before", `the picture before (${before.name})`]);
  find("#against-field").hidden = others.length === 0;
  find("#against").replaceChildren(make("option", { value: "" }, "nothing"), ...others.map(([value, text]) => make("option", { value }, text)));
  find("#against").value = state.original ? "original" : "";
  against();
  // Where the page is one column, the picture is below what was pressed.
  find("#stage").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function against() {
  compare.against({ original: state.original, before: state.results.at(-2) }[find("#against").value]);
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
  if (event.target.id === "tensor") suggestSize();
  if (event.target.id !== "file") update();
});
find("#file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file);
  // The same file may be chosen again, after it has changed.
  event.target.value = "";
});
find("#cancel").addEventListener("click", () => state.running?.abort());
find("#against").addEventListener("change", against);

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
    update();
    await decodeLatents();
    if (!served.has_example) offerRandom();
  } catch (error) {
    if (error.status === 401) wantKey(error.message);
    else fail(error.message);
  }
});

/** The code on the page reads a file, so there must be a way to get it. */
function offerRandom() {
  const link = find("#save-latents");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([state.input.bytes]));
  link.download = state.input.name;
  link.hidden = false;
}

for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    find("#drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) take(file);
  });
}

// ---------------------------------------------------------------- the code

const tabs = [...document.querySelectorAll('[role="tab"]')];
const language = () => find('[role="tab"][aria-selected="true"]').id.slice("tab-".length);

function choose(tab) {
  for (const one of tabs) {
    one.setAttribute("aria-selected", String(one === tab));
    one.tabIndex = one === tab ? 0 : -1;
  }
  find("#code").setAttribute("aria-labelledby", tab.id);
  update();
}
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", ({ key: pressed }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[pressed];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
}
find("#copy").addEventListener("click", async () => {
  const text = find("#code-text").textContent;
  try {
    await navigator.clipboard.writeText(text);
    find("#copy").textContent = "Copied";
  } catch {
    // Browsers give the clipboard to pages over https or of this machine only.
    getSelection().selectAllChildren(find("#code-text"));
    find("#copy").textContent = "Selected";
  }
  setTimeout(() => {
    find("#copy").textContent = "Copy";
  }, 2000);
});

follow();
await open();
