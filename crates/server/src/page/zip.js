// Zip files: what is in them and where. PyTorch and NumPy store their tensors as they are; numpy.savez_compressed does not.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
/** The longest comment that can follow the record at the end, and the record itself. */
const MAX_TAIL = 0xffff + 22;

export const isZip = (bytes) => bytes.length > 3 && bytes[0] === 0x50 && bytes[1] === 0x4b && bytes[2] < 9 && bytes[3] < 9;

/** Methods of compression. */
const STORED = 0;
const DEFLATED = 8;

/** The entries of a zip file by name: { offset, length, size, crc, method, isStored }, with `size` as it is unpacked. Throws an Error that says what is wrong with it. */
export function entries(bytes, view) {
  const broken = () => new Error("its list of contents makes no sense: it may be cut short");
  const within = (offset, length) => {
    if (offset < 0 || offset + length > bytes.length) throw broken();
    return offset;
  };
  let end = bytes.length - 22;
  while (end >= 0 && end >= bytes.length - MAX_TAIL && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0 || end < bytes.length - MAX_TAIL) throw broken();
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  const found = new Map();
  for (let index = 0; index < count; index += 1) {
    within(at, 46);
    if (view.getUint32(at, true) !== ENTRY) throw broken();
    const method = view.getUint16(at + 10, true);
    const crc = view.getUint32(at + 16, true);
    const length = view.getUint32(at + 20, true);
    const size = view.getUint32(at + 24, true);
    const [name, extra, comment] = [28, 30, 32].map((place) => view.getUint16(at + place, true));
    const local = view.getUint32(at + 42, true);
    if (length === 0xffffffff || local === 0xffffffff) throw new Error("it is larger than 4 GiB, which is too much for a browser");
    within(at + 46, name);
    const path = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + name));
    within(local, 30);
    if (view.getUint32(local, true) !== LOCAL) throw broken();
    const offset = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    within(offset, length);
    found.set(path, { offset, length, size, crc, method, isStored: method === STORED });
    at += 46 + name + extra + comment;
  }
  return found;
}

/** The bytes of an entry. Throws an Error that says why there are none; more than `limit` bytes are never unpacked. */
export async function unpack(bytes, { offset, length, size, crc, method, isStored }, limit) {
  const stored = bytes.subarray(offset, offset + length);
  if (isStored) return stored;
  if (method !== DEFLATED) throw new Error("it is compressed in a way that is not known here; save it with numpy.savez");
  if (size > limit) throw new Error(`unpacked it would have ${size.toLocaleString("en")} bytes, which is too much for this page; save it with numpy.savez`);
  if (!("DecompressionStream" in globalThis)) throw new Error("it is compressed, which this browser cannot unpack; save it with numpy.savez");
  const damaged = new Error("it is damaged, and cannot be unpacked; save or download it again");
  const whole = new Uint8Array(size);
  let at = 0;
  const reader = new Blob([stored]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (at + part.value.length > size) throw damaged;
      whole.set(part.value, at);
      at += part.value.length;
    }
  } catch {
    reader.cancel().catch(() => {});
    throw damaged;
  }
  if (at !== size || checksum(whole) !== crc) throw damaged;
  return whole;
}

const CRC = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** The CRC-32 of zip files. */
function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
