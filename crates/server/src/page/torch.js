// Files of torch.save: a zip file of storages, and of a pickle that says which tensors lie in them.

import { Tensor, unpickle } from "./pickle.js";
import { torchType } from "./types.js";

/** How deep containers may lie in each other. */
const MAX_DEPTH = 8;

/** The tensors of the zip file whose entries these are, or undefined if it is none of PyTorch's. Errors say what is wrong. */
export function readTorch(bytes, entries) {
  const description = [...entries.keys()].find((name) => /^[^/]*\/data\.pkl$/.test(name));
  if (!description) return undefined;
  const root = description.slice(0, -"data.pkl".length);
  const part = (name) => {
    const entry = entries.get(root + name);
    return entry && bytes.subarray(entry.offset, entry.offset + entry.length);
  };
  const order = part("byteorder");
  if (order && new TextDecoder().decode(order).trim() !== "little") throw new Error("its values are big-endian");
  return collect(unpickle(part("data.pkl"))).map(([path, tensor]) => place(path, tensor, entries.get(`${root}data/${tensor.storage.key}`)));
}

/** All tensors with the keys and numbers that lead to them. */
function collect(value, path = [], seen = new Set()) {
  if (value instanceof Tensor) return [[path, value]];
  // What lies in two places is found once, so that a short file cannot unfold to a long list.
  if (value === null || typeof value !== "object" || seen.has(value) || path.length > MAX_DEPTH) return [];
  seen.add(value);
  const inside = value instanceof Map || Array.isArray(value) ? [...value.entries()] : [];
  return inside.flatMap(([key, one]) => collect(one, [...path, key], seen));
}

/** A tensor as latents.js describes them; `access` is how Python gets it from what torch.load returns. */
function place(path, { storage, offset, shape, stride }, entry) {
  const { dtype, width: size, problem } = torchType(storage.type);
  const count = shape.reduce((product, axis) => product * axis, 1);
  const tensor = {
    name: path.join("."),
    access: path.map((key) => `[${JSON.stringify(key)}]`).join(""),
    shape,
    dtype,
    offset: (entry?.offset ?? 0) + offset * (size ?? 1),
    length: count * (size ?? 1),
  };
  if (problem) return { ...tensor, problem };
  if (!entry?.isStored || offset * size + tensor.length > entry.length) throw new Error(`the values of tensor "${tensor.name}" are not in it`);
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis -= 1) {
    if (shape[axis] !== 1 && stride[axis] !== expected) return { ...tensor, problem: "its values are not in order; save x.contiguous()" };
    expected *= shape[axis];
  }
  return tensor;
}
