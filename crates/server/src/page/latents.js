// Files of latents: what tensors they hold and where. The bytes themselves are never changed.
//
// A tensor is { name, shape, dtype, offset, length }, with `offset` and `length` in bytes of the file, `problem` where the
// server could not take it, and `layout` where the program is known that wrote it: { scaling, says }, with a `scaling` of
// "model", "none" or a factor.

import { otherKind } from "./kinds.js";
import { readTorch } from "./torch.js";
import { entries, isZip } from "./zip.js";

/** Types that the server takes, by the names they have in safetensors and in NumPy. */
const SAFETENSORS = { F16: ["float16", 2], BF16: ["bfloat16", 2], F32: ["float32", 4], F64: ["float64", 8] };
// NumPy has no bfloat16: that of ml_dtypes is two bytes of nothing in particular.
const NUMPY = { "<f2": ["float16", 2], "<f4": ["float32", 4], "<f8": ["float64", 8], "<V2": ["bfloat16", 2], "|V2": ["bfloat16", 2] };

/** That of ComfyUI holds the whole workflow, which may have some megabytes. */
const MAX_HEADER = 32 << 20;

/** What is wrong with a file, for the person who chose it. */
export class FileError extends Error {}

const isNumpy = (bytes) => bytes.length > 6 && bytes[0] === 0x93 && String.fromCharCode(...bytes.subarray(1, 6)) === "NUMPY";

/** The tensors of a file by its content: { format, tensors }, where the format is safetensors, npy, npz or pt. */
export function readTensors(name, bytes) {
  const other = otherKind(name, bytes);
  if (other) throw new FileError(other);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (isZip(bytes)) return readZip(name, bytes, view);
  if (isNumpy(bytes)) return { format: "npy", tensors: readNumpy(name, bytes, view) };
  return { format: "safetensors", tensors: readSafetensors(name, bytes, view) };
}

/** A zip file: one of torch.save, or one of numpy.savez. */
function readZip(file, bytes, view) {
  let found;
  let tensors;
  try {
    found = entries(bytes, view);
    tensors = readTorch(bytes, found);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new FileError(`${file} is a zip file, as of torch.save or numpy.savez, that cannot be read: ${error.message}.`);
  }
  if (tensors?.length === 0) throw new FileError(`${file} is a file of PyTorch that holds no tensor.`);
  if (tensors) {
    return { format: "pt", tensors: tensors.map((one) => (one.name === "latent_image" ? { ...one, layout: unscaled("OneTrainer") } : one)) };
  }
  const arrays = [...found].filter(([path]) => path.endsWith(".npy"));
  if (arrays.length === 0) throw new FileError(`${file} is a zip file with no array of NumPy and no tensor of PyTorch in it.`);
  const read = arrays.map(([path, entry]) => readZippedNumpy(file, path, entry, bytes));
  const names = read.map(({ name }) => name);
  return { format: "npz", tensors: read.map((one) => ({ ...one, layout: layoutOfKohya(file, one, names) })) };
}

function readZippedNumpy(file, path, { offset, length, isStored }, bytes) {
  const name = path.replace(/\.npy$/, "");
  if (!isStored) return { name, shape: [], dtype: "compressed", offset, length, problem: "it is compressed; save it with numpy.savez" };
  const array = bytes.subarray(offset, offset + length);
  const view = new DataView(array.buffer, array.byteOffset, array.byteLength);
  if (!isNumpy(array)) return { name, shape: [], dtype: "unknown", offset, length, problem: "it is no array of NumPy" };
  const [tensor] = readNumpy(`${file}/${path}`, array, view);
  return { ...tensor, name, offset: offset + tensor.offset };
}

/** Parts of names of what lies beside latents: masks, embeddings of text and pictures, sound. */
const OTHERS = ["mask", "embed", "hidden_state", "pooled", "audio", "waveform"];

/** How well a name says that these are a file's latents; the least is best. The command line has the same order. */
export function rank({ name, shape }) {
  if (shape.length < 3 || OTHERS.some((other) => name.toLowerCase().includes(other))) return 7;
  if (name === "latent_tensor") return 0;
  // With its size and type as trainers write it: latents_64x64, latents_9x64x64_bfloat16.
  if (/^latents(_\d+(x\d+)+(_.*)?)?$/.test(name)) return 1;
  if (name.startsWith("latents")) return 2;
  const index = ["latent_image", "latent", "samples"].indexOf(name);
  return index < 0 ? 6 : 3 + index;
}

const UNSCALED = ["hunyuan_video", "hunyuan_video_1_5", "z_image"];
const SCALED = ["wan", "framepack", "flux_kontext", "kandinsky5", "krea2", "flux_2", "qwen_image"];

const unscaled = (program) => ({ scaling: "none", says: `${program} saves latents as the decoder takes them: they are not scaled` });
const scaled = (program) => ({ scaling: "model", says: `${program} has scaled them: the model's factors undo it` });

/** How kohya's sd-scripts have scaled latents: the end of the file's name says for which model they are. */
function layoutOfKohya(file, { name, shape }, names) {
  const has = (start) => names.some((one) => one.startsWith(start));
  if (!name.startsWith("latents") || !has("original_size") || !has("crop_ltrb")) return undefined;
  const kind = file.toLowerCase().match(/_([a-z0-9]+)\.npz$/)?.[1];
  if (["sd", "sdxl", "sd3", "hi"].includes(kind)) return unscaled("sd-scripts");
  if (["flux", "lumina", "anima"].includes(kind)) return scaled("sd-scripts");
  if (name === "latents" && shape[0] === 4) return unscaled("sd-scripts");
  return { scaling: "model", says: "a file of sd-scripts that does not say whether its latents are scaled" };
}

/** How the latents of a known program are scaled. */
function layout({ name }, names, metadata) {
  if (name === "latent_tensor") {
    if (names.includes("latent_format_version_0")) return unscaled("ComfyUI");
    return { scaling: 0.18215, says: "an old file of ComfyUI, without its marker: divided by 0.18215, as its LoadLatent does" };
  }
  const architecture = metadata.architecture;
  if (architecture && name.startsWith("latents_")) {
    if (UNSCALED.includes(architecture)) return unscaled("musubi-tuner");
    if (SCALED.some((known) => architecture.startsWith(known))) return scaled("musubi-tuner");
    return { scaling: "model", says: "a file of musubi-tuner that does not say whether its latents are scaled" };
  }
  if (name === "latent" && metadata.latent_space_version) return scaled("ai-toolkit");
  return undefined;
}

const volume = (shape) => shape.reduce((product, axis) => product * axis, 1);
const isShape = (shape) => Array.isArray(shape) && shape.every((axis) => Number.isSafeInteger(axis) && axis >= 0);

function readSafetensors(file, bytes, view) {
  const broken = (what) => new FileError(`${file} is no file of safetensors, NumPy or PyTorch: ${what}.`);
  if (bytes.length < 8) throw broken(`it has only ${bytes.length} bytes`);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(Math.min(bytes.length - 8, MAX_HEADER))) throw broken("its header is longer than the file");
  const start = 8 + Number(length);
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, start)));
  } catch {
    throw broken("its header is not JSON");
  }
  if (header === null || typeof header !== "object" || Array.isArray(header)) throw broken("its header is no object");
  const names = Object.keys(header);
  const metadata = header.__metadata__ ?? {};
  const tensors = Object.entries(header).filter(([name]) => name !== "__metadata__").map(([name, entry]) => {
    const { dtype, shape, data_offsets: range } = entry ?? {};
    const isRange = isShape(range) && range.length === 2 && range[0] <= range[1] && start + range[1] <= bytes.length;
    if (typeof dtype !== "string" || !isShape(shape) || !isRange) throw broken(`the entry of tensor "${name}" is wrong`);
    const [ours, size] = SAFETENSORS[dtype] ?? [];
    const tensor = { name, shape, dtype: ours ?? dtype, offset: start + range[0], length: range[1] - range[0] };
    tensor.layout = layout(tensor, names, metadata);
    if (!ours) return { ...tensor, problem: `its values are ${dtype}; send F16, BF16, F32 or F64` };
    if (tensor.length !== volume(shape) * size) throw broken(`tensor "${name}" has not as many bytes as its shape asks for`);
    return tensor;
  });
  if (tensors.length === 0) throw new FileError(`${file} holds no tensor.`);
  return tensors.sort((a, b) => a.offset - b.offset);
}

function readNumpy(file, bytes, view) {
  const broken = (what) => new FileError(`${file} is no .npy file that can be read: ${what}.`);
  const isFirst = bytes[6] === 1;
  if (bytes.length < 12) throw broken("it is cut short");
  const before = isFirst ? 10 : 12;
  const offset = before + (isFirst ? view.getUint16(8, true) : view.getUint32(8, true));
  if (offset > bytes.length) throw broken("it is cut short");
  const header = new TextDecoder().decode(bytes.subarray(before, offset));
  const type = header.match(/'descr'\s*:\s*'([^']*)'/)?.[1];
  const order = header.match(/'fortran_order'\s*:\s*(True|False)/)?.[1];
  const axes = header.match(/'shape'\s*:\s*\(([^)]*)\)/)?.[1];
  if (type === undefined || order === undefined || axes === undefined) throw broken("its header has no type, order or shape");
  const shape = axes.split(",").map((axis) => axis.trim()).filter((axis) => axis !== "").map(Number);
  if (!isShape(shape)) throw broken(`its shape is (${axes})`);
  const [dtype, size] = NUMPY[type] ?? [];
  const tensor = { name: "", shape, dtype: dtype ?? type, offset, length: bytes.length - offset };
  if (!dtype) return [{ ...tensor, problem: `its values are ${type}; send little-endian float16, float32 or float64` }];
  if (order === "True") return [{ ...tensor, problem: "its values are in Fortran order; save numpy.ascontiguousarray(x)" }];
  if (tensor.length < volume(shape) * size) throw broken("it has fewer values than its shape asks for");
  return [{ ...tensor, length: volume(shape) * size }];
}

/**
 * How a model would take a tensor: { batch, batched, frames, height, width, packed }, sizes in pixels; or { problem }.
 * A packed tensor has no height and width of its own; those here are the square with as many tokens, if there is one.
 * Of a model that is not loaded nothing is known, and the server will say whether it fits.
 */
export function arrange(shape, model) {
  const { latent_channels: channels, spatial_factor: factor, temporal_factor: temporal } = model;
  if (shape.some((axis) => axis === 0)) return { problem: "it is empty" };
  if (!channels) {
    const packed = shape.length === 3;
    return { batch: shape[0], batched: true, frames: 1, packed };
  }
  const expected = temporal
    ? `[B, ${channels}, f, h, w]`
    : `[B, ${channels}, h, w] or packed [B, tokens, ${4 * channels}]`;
  const problem = { problem: `${model.name} takes ${expected}` };
  // A picture may be a video of one frame: [B, C, 1, h, w] or [C, 1, h, w].
  const hasFrame = !temporal && ((shape.length === 5 && shape[2] === 1) || (shape.length === 4 && shape[1] === 1));
  const axes = temporal || hasFrame ? 5 : 4;
  const batched = shape.length === axes;
  const rest = batched ? shape.slice(1) : shape;
  if ((batched || shape.length === axes - 1) && rest[0] === channels) {
    const [height, width] = rest.slice(-2).map((side) => side * factor);
    const frames = temporal ? (rest[1] - 1) * temporal + 1 : 1;
    return { batch: batched ? shape[0] : 1, batched, frames, height, width, packed: false };
  }
  if (!temporal && shape.length === 3 && shape[2] === 4 * channels) {
    const side = Math.sqrt(shape[1]) * 2 * factor;
    const square = Number.isInteger(side) ? side : undefined;
    return { batch: shape[0], batched: true, frames: 1, height: square, width: square, packed: true };
  }
  return problem;
}

/** A safetensors file with one tensor. */
export function writeSafetensors(name, shape, safetensorsType, values) {
  const header = JSON.stringify({ [name]: { dtype: safetensorsType, shape, data_offsets: [0, values.length] } });
  const text = new TextEncoder().encode(header.padEnd(Math.ceil(header.length / 8) * 8));
  const file = new Uint8Array(8 + text.length + values.length);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  file.set(values, 8 + text.length);
  return file;
}

/** Random latents of unit variance, the size of a small picture or video, as a safetensors file. */
export function randomLatents(model) {
  const shape = model.temporal_factor ? [1, model.latent_channels, 2, 16, 16] : [1, model.latent_channels, 32, 32];
  const values = Float32Array.from({ length: volume(shape) }, () => {
    // Box and Muller.
    const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
    return radius * Math.cos(2 * Math.PI * Math.random());
  });
  // Safetensors are little-endian, and so is every machine that browsers run on.
  return writeSafetensors("latents", shape, "F32", new Uint8Array(values.buffer));
}
