// Zip files: what is in them and where. Nothing is unpacked, as PyTorch and NumPy store their tensors as they are.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
/** The longest comment that can follow the record at the end, and the record itself. */
const MAX_TAIL = 0xffff + 22;

export const isZip = (bytes) => bytes.length > 3 && bytes[0] === 0x50 && bytes[1] === 0x4b && bytes[2] < 9 && bytes[3] < 9;

/** The entries of a zip file by name: { offset, length, isStored }. Throws an Error that says what is wrong with it. */
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
    const length = view.getUint32(at + 20, true);
    const [name, extra, comment] = [28, 30, 32].map((place) => view.getUint16(at + place, true));
    const local = view.getUint32(at + 42, true);
    if (length === 0xffffffff || local === 0xffffffff) throw new Error("it is larger than 4 GiB, which is too much for a browser");
    within(at + 46, name);
    const path = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + name));
    within(local, 30);
    if (view.getUint32(local, true) !== LOCAL) throw broken();
    const offset = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    within(offset, length);
    found.set(path, { offset, length, isStored: method === 0 });
    at += 46 + name + extra + comment;
  }
  return found;
}
