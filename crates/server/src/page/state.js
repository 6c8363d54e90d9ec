// What is chosen on the page: the model, the file, the tensor in it, and of a batch the picture.

import { find } from "./dom.js";
import { arrange } from "./fit.js";
import * as options from "./options.js";

export const state = {
  models: [],
  /** The files that were dropped or chosen: { file, path }. */
  files: [],
  /** That of them which is worked with: { name, size, bytes, format, tensors, example } for latents, { name, size, blob } for a picture. */
  input: null,
  /** Of a batch, which picture is shown, from 0 on. */
  shown: 0,
  running: null,
};

export const model = () => state.models.find(({ name }) => name === find("#model").value);
/** Whether a model takes pictures here. One that makes videos gives a video back, which nothing can be laid over. */
export const canEncode = (served) => Boolean(served?.can_encode && !served.temporal_factor);
export const tensor = () => state.input?.tensors?.[Number(find("#tensor").value)];

/** Tells the page that something in here is another. */
export const changed = () => document.dispatchEvent(new Event("changed"));

/** Which pictures of a batch are wanted, from 0 on: one, or without a number all. */
export function wanted() {
  const batch = item()?.batch ?? 1;
  const number = Math.trunc(Number(find("#item").value));
  if (number > 0) return [Math.min(number, batch) - 1];
  return [...Array(batch).keys()];
}

/** An item as the server will get it: its shape has a batch of one. Without an index, the one that is shown or chosen. */
export function item(index) {
  const one = tensor();
  if (!one || !model()) return null;
  if (one.problem) return { problem: one.problem };
  const arranged = arrange(one, model());
  if (arranged.problem) return arranged;
  const { batch, batched } = arranged;
  const number = Math.trunc(Number(find("#item").value)) - 1;
  const at = Math.min(index ?? (number >= 0 ? number : state.shown), batch - 1);
  const shape = [1, ...(batched ? one.shape.slice(1) : one.shape)];
  const length = one.length / batch;
  return { ...arranged, index: at, shape, offset: one.offset + at * length, length };
}

/** The bytes that an item's offset counts in: those of the file, or of what lay compressed in it. */
export const content = () => tensor().content ?? state.input.bytes;

/** The request for an item. */
export function request(one) {
  const { name, format, example } = state.input;
  const { name: inside, access, entry } = tensor();
  const source = { file: name, format, name: inside, access, entry, offset: one.offset, length: one.length, example };
  return options.request(model(), tensor(), one, source);
}
