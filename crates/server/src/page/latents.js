// Files of latents: what tensors they hold and where. The bytes themselves are never changed.
//
// A tensor is { name, shape, dtype, offset, length }, with `offset` and `length` in bytes of the file, and `problem`
// where the server could not take it.

import { otherKind } from "./kinds.js";
import { readTorch } from "./torch.js";
import { entries, isZip } from "./zip.js";

/** Types that the server takes, by the names they have in safetensors and in NumPy. */
const SAFETENSORS = { F16: ["float16", 2], BF16: ["bfloat16", 2], F32: ["float32", 4] };
const NUMPY = { "<f2": ["float16", 2], "<f4": ["float32", 4] };

/** Headers of real files have some kilobytes; safetensors itself allows no more than this. */
const MAX_HEADER = 100_000_000;

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
  if (tensors) return { format: "pt", tensors };
  const arrays = [...found].filter(([path]) => path.endsWith(".npy"));
  if (arrays.length === 0) throw new FileError(`${file} is a zip file with no array of NumPy and no tensor of PyTorch in it.`);
  return { format: "npz", tensors: arrays.map(([path, entry]) => readZippedNumpy(file, path, entry, bytes)) };
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
  const tensors = Object.entries(header).filter(([name]) => name !== "__metadata__").map(([name, entry]) => {
    const { dtype, shape, data_offsets: range } = entry ?? {};
    const isRange = isShape(range) && range.length === 2 && range[0] <= range[1] && start + range[1] <= bytes.length;
    if (typeof dtype !== "string" || !isShape(shape) || !isRange) throw broken(`the entry of tensor "${name}" is wrong`);
    const [ours, size] = SAFETENSORS[dtype] ?? [];
    const tensor = { name, shape, dtype: ours ?? dtype, offset: start + range[0], length: range[1] - range[0] };
    if (!ours) return { ...tensor, problem: `its values are ${dtype}; send F16, BF16 or F32` };
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
  if (!dtype) return [{ ...tensor, problem: `its values are ${type}; send little-endian float16 or float32` }];
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
  const axes = temporal ? 5 : 4;
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
