// The work: latents to pictures, and a picture to latents and back.

import { bytes, find, make, milliseconds } from "./dom.js";
import { arrange } from "./fit.js";
import { writeSafetensors } from "./latents.js";
import * as options from "./options.js";
import * as results from "./results.js";
import { isInParts, parts } from "./parts.js";
import { attempt, goOn } from "./say.js";
import { ServerError, ask, timing } from "./server.js";
import { content, item, model, request, state, wanted } from "./state.js";

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

async function decode(asked, body, frame, signal) {
  const start = performance.now();
  // The code that the page shows asks for the picture alone.
  const query = asked.hasPreview ? [...asked.query, ["preview", "tiny"]] : asked.query;
  const answer = await ask(`${asked.path}?${new URLSearchParams(query)}`, {
    method: "POST",
    headers: { "Content-Type": "tensor/binary", Accept: asked.accept },
    body,
    signal,
  });
  const { blob, headers } = isInParts(answer) ? await exact(answer) : { blob: await answer.blob(), headers: answer.headers };
  const took = performance.now() - start;
  const quality = asked.query.find(([name]) => name === "quality")?.[1];
  const tiled = asked.query.some(([name]) => name === "tiling");
  const name = [NAMES[options.format()], quality && `quality ${quality}`, tiled && "in tiles"].filter(Boolean).join(", ");
  const result = await asResult(blob, name, frame);
  return { ...result, took, steps: timing({ headers }), output: asked.output };
}

/** The last part of an answer, which is the picture itself; those before it are shown meanwhile. */
async function exact(answer) {
  let last;
  try {
    for await (const part of parts(answer)) {
      const status = Number(part.headers.get("status"));
      if (status) throw new ServerError(status, JSON.parse(await part.blob.text()).error);
      if (!last) results.preview(part.blob);
      last = part;
    }
  } finally {
    results.preview();
  }
  return last;
}

/** Decodes what is chosen: one item, or one after the other all of a batch. */
export function decodeLatents() {
  const { name: from } = state.input;
  const bytesOfFile = content();
  const { batch } = item();
  const todo = wanted().map((index) => item(index)).map((one) => ({ one, asked: request(one) }));
  return attempt("Decoding…", async (signal) => {
    const run = results.begin();
    find("#save-latents").hidden = true;
    for (const [at, { one, asked }] of todo.entries()) {
      if (todo.length > 1) goOn(`Decoding ${at + 1} of ${todo.length}…`);
      const body = bytesOfFile.subarray(one.offset, one.offset + one.length);
      const result = await decode(asked, body, one, signal).catch((error) => {
        throw at === 0 ? error : Object.assign(error, { keepsPictures: true });
      });
      result.alt = batch > 1 ? `Picture ${one.index + 1} of ${batch} decoded from ${from}` : `The picture decoded from ${from}`;
      if (todo.length > 1) result.output = result.output.replace(".", `-${one.index}.`);
      result.facts = [...(batch > 1 ? [["Picture", `${one.index + 1} of ${batch}`]] : []), ["Decoded in", milliseconds(result.took)], ...steps(result.steps)];
      results.add(run, result, todo.length);
    }
    await learn();
  });
}

/** Sends a picture, and decodes what comes back. */
export function encodePicture() {
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
    goOn("Decoding…");
    const arranged = arrange({ shape }, served);
    const source = { file: "", format: "safetensors", name: "latents", offset: 0, length: latents.length };
    const asked = options.request(served, { dtype }, { ...arranged, shape }, source);
    const result = await decode(asked, latents, arranged, signal);
    result.alt = `${name}, encoded and decoded again`;
    offerFile(writeSafetensors("latents", shape, TYPES[dtype], latents), `${name.replace(/\.\w+$/, "")}.safetensors`);
    const size = `${bytes(blob.size)} → ${bytes(latents.length)} of latents`;
    result.facts = [["Encoded in", milliseconds(took)], ["Decoded in", milliseconds(result.took)], ["Sent", size], ["Latents", `${dtype} [${shape.join(", ")}]`]];
    results.add(results.begin(await asResult(blob, "Original", arranged)), result, 1);
  });
}

/** Learns what a model is that has been loaded for this page's request. */
async function learn() {
  if (model().latent_channels) return;
  const { models } = await (await ask("/models")).json();
  state.models = models;
  options.suggestFactors(model());
}

const factors = ({ scaling_factor: factor, shift_factor: shift }) =>
  [["scaling_factor", factor], ["shift_factor", shift]].filter(([, value]) => value != null).map(([name, value]) => [name, String(value)]);

const TYPES = { float16: "F16", bfloat16: "BF16", float32: "F32" };

/** Offers a file of latents. */
export function offerFile(content, name) {
  const link = find("#save-latents");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([content]));
  link.download = name;
  link.hidden = false;
}

const WORDS = { queue: "in the queue", work: "in the model", encode: "for the file" };
const steps = (said) => {
  const parts = Object.entries(WORDS).filter(([step]) => step in said).map(([step, words]) => `${milliseconds(said[step])} ${words}`);
  return parts.length ? [["Of which", parts.join(", ")]] : [];
};
