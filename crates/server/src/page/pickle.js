// Pickles, of which nothing is run. A pickle is a program that builds values; here only those of its instructions are
// followed that make containers, numbers, text and PyTorch's tensors. What else it would call is remembered by its name.

/** Something of Python's that is named and not made. */
class Named {
  constructor(name) {
    this.name = name;
  }
}

/** A tensor's storage: the type of its values by PyTorch's name, and the name of its entry in the zip file. */
class Storage {
  constructor(type, key) {
    this.type = type;
    this.key = key;
  }
}

/** A tensor over a storage; `offset` and `stride` count values. */
export class Tensor {
  constructor(storage, offset, shape, stride) {
    Object.assign(this, { storage, offset, shape, stride });
  }
}

const MARK = Symbol("mark");

/** What a pickle describes: Map for dict, arrays for lists and tuples. Throws an Error that says what is wrong with it. */
export function unpickle(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const decoder = new TextDecoder();
  const stack = [];
  const memo = new Map();
  let at = 0;

  const step = (length) => {
    if (!(length >= 0) || at + length > bytes.length) throw new Error("its description of the tensors ends too early");
    at += length;
    return at - length;
  };
  const byte = () => bytes[step(1)];
  const u32 = () => view.getUint32(step(4), true);
  const u64 = () => Number(view.getBigUint64(step(8), true));
  const text = (length) => decoder.decode(bytes.subarray(step(length), at));
  const line = () => {
    const end = bytes.indexOf(0x0a, at);
    const found = text(end - at);
    step(1);
    return found;
  };
  const pop = () => {
    if (stack.length === 0) throw new Error("its description of the tensors makes no sense");
    return stack.pop();
  };
  const top = () => stack.at(-1);
  const marked = () => {
    const from = stack.lastIndexOf(MARK);
    if (from < 0) throw new Error("its description of the tensors makes no sense");
    return stack.splice(from).slice(1);
  };
  const put = (key) => memo.set(key, top());
  const set = (pairs) => {
    const target = top();
    for (let index = 0; target instanceof Map && index + 1 < pairs.length; index += 2) target.set(pairs[index], pairs[index + 1]);
  };
  const append = (items) => {
    if (Array.isArray(top())) for (const item of items) top().push(item);
  };
  const integer = (length) => {
    let value = 0n;
    const start = step(length);
    for (let index = length - 1; index >= 0; index -= 1) value = (value << 8n) | BigInt(bytes[start + index]);
    return Number(length ? BigInt.asIntN(8 * length, value) : 0n);
  };

  const instructions = {
    0x80: () => step(1), // PROTO
    0x95: () => step(8), // FRAME
    0x28: () => stack.push(MARK),
    0x30: () => pop(),
    0x31: () => marked(),
    0x4a: () => stack.push(view.getInt32(step(4), true)),
    0x4b: () => stack.push(byte()),
    0x4d: () => stack.push(view.getUint16(step(2), true)),
    0x8a: () => stack.push(integer(byte())), // LONG1
    0x47: () => stack.push(view.getFloat64(step(8))),
    0x4e: () => stack.push(null),
    0x88: () => stack.push(true),
    0x89: () => stack.push(false),
    0x58: () => stack.push(text(u32())), // BINUNICODE
    0x8c: () => stack.push(text(byte())),
    0x8d: () => stack.push(text(u64())),
    0x55: () => stack.push(text(byte())), // SHORT_BINSTRING and those of bytes, which no tensor needs
    0x43: () => stack.push(text(byte())),
    0x42: () => stack.push(text(u32())),
    0x7d: () => stack.push(new Map()),
    0x5d: () => stack.push([]),
    0x29: () => stack.push([]),
    0x8f: () => stack.push([]),
    0x74: () => stack.push(marked()), // TUPLE
    0x6c: () => stack.push(marked()), // LIST
    0x85: () => stack.push([pop()]),
    0x86: () => stack.push([pop(), pop()].reverse()),
    0x87: () => stack.push([pop(), pop(), pop()].reverse()),
    0x64: () => {
      const pairs = marked();
      stack.push(new Map());
      set(pairs);
    },
    0x61: () => append([pop()]),
    0x65: () => append(marked()),
    0x90: () => append(marked()),
    0x73: () => set([pop(), pop()].reverse()),
    0x75: () => set(marked()),
    0x71: () => put(byte()),
    0x72: () => put(u32()),
    0x94: () => put(memo.size),
    0x68: () => stack.push(memo.get(byte())),
    0x6a: () => stack.push(memo.get(u32())),
    0x63: () => stack.push(new Named(`${line()}.${line()}`)),
    0x93: () => stack.push(new Named([pop(), pop()].reverse().join("."))),
    0x51: () => stack.push(storage(pop())), // BINPERSID
    0x52: () => stack.push(call(pop(), pop())), // REDUCE
    0x81: () => stack.push(call(pop(), pop())), // NEWOBJ
    0x62: () => pop(), // BUILD: the state of an object that was not made
  };

  for (;;) {
    const code = byte();
    if (code === 0x2e) return pop();
    const instruction = instructions[code];
    if (!instruction) throw new Error(`its description has an instruction that this page does not know (${code})`);
    instruction();
  }
}

function storage(id) {
  const [kind, type, key] = Array.isArray(id) ? id : [];
  if (kind !== "storage" || !(type instanceof Named)) throw new Error("it names values that are not in it");
  return new Storage(type.name.split(".").at(-1), String(key));
}

const isCounts = (list) => Array.isArray(list) && list.every((one) => Number.isSafeInteger(one) && one >= 0);

/** What a call would give, for the few that tensors need; for all others what was to be called. */
function call(args, { name } = {}) {
  const [first, ...rest] = Array.isArray(args) ? args : [];
  if (name === "collections.OrderedDict") return new Map();
  if (name === "torch._utils._rebuild_parameter") return first;
  if (name === "torch._utils._rebuild_tensor_v2" && first instanceof Storage) {
    const [offset, shape, stride] = rest;
    if (isCounts([offset]) && isCounts(shape) && isCounts(stride)) return new Tensor(first, offset, shape, stride);
  }
  return new Named(name);
}
