// Files of latents: what tensors they hold and where. The bytes themselves are never changed.
//
// A tensor is { name, shape, dtype, offset, length }, with `offset` and `length` in bytes of the file, `problem` where the
// server could not take it, and `layout` where the program is known that wrote it. One that lies compressed in the file has
// its bytes in `content`, in which `offset` and `length` count, and `entry`, its path in the archive.

import { FileError } from "./error.js";
import { otherKind } from "./kinds.js";
import { ofNpz, ofSafetensors, ofTorch } from "./layout.js";
import { readTorch } from "./torch.js";
import { numpyType, safetensorsType } from "./types.js";
import { entries, isZip, unpack } from "./zip.js";

/** That of ComfyUI holds the whole workflow, which may have some megabytes. */
const MAX_HEADER = 32 << 20;

const isNumpy = (bytes) => bytes.length > 6 && bytes[0] === 0x93 && String.fromCharCode(...bytes.subarray(1, 6)) === "NUMPY";

/** What all arrays of an .npz file may have when they are unpacked: as for the command line. */
const unpackedAtMost = (length) => Math.max(256 << 20, 100 * length);

/** The tensors of a file by its content: { format, tensors }, where the format is safetensors, npy, npz or pt. */
export async function readTensors(path, bytes) {
  const other = otherKind(path, bytes);
  if (other) throw new FileError(other);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (isZip(bytes)) return readZip(path, bytes, view);
  if (isNumpy(bytes)) return { format: "npy", tensors: [readNumpy(path, bytes)] };
  return { format: "safetensors", tensors: readSafetensors(path, bytes, view) };
}

/** A zip file: one of torch.save, or one of numpy.savez. */
async function readZip(file, bytes, view) {
  let found;
  let tensors;
  try {
    found = entries(bytes, view);
    tensors = readTorch(bytes, found);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new FileError(`${file} is a file of PyTorch or NumPy that cannot be read: ${error.message}.`);
  }
  if (tensors?.length === 0) throw new FileError(`${file} is a file of PyTorch that holds no tensor.`);
  if (tensors) return { format: "pt", tensors: tensors.map((one) => ({ ...one, layout: ofTorch(one) })) };
  const arrays = [...found].filter(([path]) => path.endsWith(".npy"));
  if (arrays.length === 0) throw new FileError(`${file} is a zip file with no array of NumPy and no tensor of PyTorch in it.`);
  let left = unpackedAtMost(bytes.length);
  const read = [];
  for (const [path, entry] of arrays) {
    read.push(await readZippedNumpy(file, path, entry, bytes, left));
    left -= read.at(-1).content?.length ?? 0;
  }
  const names = read.map(({ name }) => name);
  return { format: "npz", tensors: read.map((one) => ({ ...one, layout: ofNpz(file, one, names) })) };
}

async function readZippedNumpy(file, path, entry, bytes, limit) {
  const name = path.replace(/\.npy$/, "");
  const useless = (dtype, problem) => ({ name, shape: [], dtype, offset: entry.offset, length: entry.length, problem });
  let array;
  try {
    array = await unpack(bytes, entry, limit);
  } catch (error) {
    return useless("compressed", error.message);
  }
  if (!isNumpy(array)) return useless("unknown", "it is no array of NumPy");
  const tensor = { ...readNumpy(`${file}/${path}`, array), name };
  return entry.isStored ? { ...tensor, offset: entry.offset + tensor.offset } : { ...tensor, content: array, entry: path };
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

const size = (count) => `${count.toLocaleString("en")} bytes`;
const volume = (shape) => shape.reduce((product, axis) => product * axis, 1);
const isShape = (shape) => Array.isArray(shape) && shape.every((axis) => Number.isSafeInteger(axis) && axis >= 0);

function readSafetensors(file, bytes, view) {
  const unknown = new FileError(`${file} is none of the files of latents that are known here: .safetensors, .npy, .npz and .pt, whatever they are called.`);
  const damaged = (what) => new FileError(`${file} is a safetensors file that is damaged: ${what}. Save or download it again.`);
  const cutOff = (needed) => new FileError(`${file} is a safetensors file that is cut off: it should have ${size(needed)}, and has ${size(bytes.length)}. Copy or download it again.`);
  // Its header, an object of JSON, follows its length.
  if (bytes.length < 9 || bytes[8] !== 0x7b) throw unknown;
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER)) throw unknown;
  const start = 8 + Number(length);
  if (start > bytes.length) throw cutOff(start);
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, start)));
  } catch {
    throw damaged("the list of its tensors cannot be read");
  }
  const names = Object.keys(header);
  const metadata = header.__metadata__ ?? {};
  const listed = Object.entries(header).filter(([name]) => name !== "__metadata__");
  if (listed.length === 0) throw new FileError(`${file} holds no tensor.`);
  for (const [name, entry] of listed) {
    const { dtype, shape, data_offsets: range } = entry ?? {};
    const isRange = isShape(range) && range.length === 2 && range[0] <= range[1];
    if (typeof dtype !== "string" || !isShape(shape) || !isRange) throw damaged(`what it says of tensor "${name}" makes no sense`);
  }
  const needed = start + listed.reduce((most, [, { data_offsets: range }]) => Math.max(most, range[1]), 0);
  if (needed > bytes.length) throw cutOff(needed);
  const tensors = listed.map(([name, { dtype: stored, shape, data_offsets: range }]) => {
    const { dtype, width, problem } = safetensorsType(stored);
    const tensor = { name, shape, dtype, offset: start + range[0], length: range[1] - range[0] };
    if (problem) return { ...tensor, problem };
    if (tensor.length !== volume(shape) * width) throw damaged(`tensor "${name}" has not as many bytes as its shape asks for`);
    return { ...tensor, layout: ofSafetensors(file, tensor, names, metadata) };
  });
  return tensors.sort((a, b) => a.offset - b.offset);
}

/** A .npy file, or an array of an .npz file. */
function readNumpy(file, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const damaged = (what) => new FileError(`${file} is a .npy file that cannot be read: ${what}.`);
  const isFirst = bytes[6] === 1;
  if (bytes.length < 12) throw damaged("it is cut off; copy or download it again");
  const before = isFirst ? 10 : 12;
  const offset = before + (isFirst ? view.getUint16(8, true) : view.getUint32(8, true));
  if (offset > bytes.length) throw damaged("it is cut off; copy or download it again");
  const header = new TextDecoder().decode(bytes.subarray(before, offset));
  const order = header.match(/'fortran_order'\s*:\s*(True|False)/)?.[1];
  const axes = header.match(/'shape'\s*:\s*\(([^)]*)\)/)?.[1];
  if (order === undefined || axes === undefined) throw damaged("it does not say its shape and order");
  const shape = axes.split(",").map((axis) => axis.trim()).filter((axis) => axis !== "").map(Number);
  if (!isShape(shape)) throw damaged(`its shape is (${axes})`);
  const { dtype, width, problem } = numpyType(header.match(/'descr'\s*:\s*'([^']*)'/)?.[1]);
  const tensor = { name: "", shape, dtype, offset, length: bytes.length - offset };
  if (problem) return { ...tensor, problem };
  if (order === "True") return { ...tensor, problem: "its values are in Fortran order; save numpy.ascontiguousarray(x)" };
  const length = volume(shape) * width;
  if (tensor.length < length) throw damaged(`it is cut off: it should have ${size(offset + length)}, and has ${size(bytes.length)}; copy or download it again`);
  return { ...tensor, length };
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
