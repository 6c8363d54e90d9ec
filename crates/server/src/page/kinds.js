// What a file is, by its first bytes. Its name and the type that the system gives it say less: many are wrong.

/** How many bytes are enough to know. */
export const ENOUGH = 512;

const ascii = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

/** The media type of a picture that the server reads. */
export function pictureType(bytes) {
  if (ascii(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return "image/png";
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return "image/jpeg";
  if (ascii(bytes, 0, 4) === "RIFF" && ascii(bytes, 8, 12) === "WEBP") return "image/webp";
  return undefined;
}

const PICTURES = "pictures are taken as PNG, JPEG or WebP files";
const SAVE = 'load it in Python and save the tensor with safetensors.torch.save_file({"latents": x}, "latents.safetensors")';

/** What people have who drop something else, and what they can do. */
const OTHERS = [
  [(head) => /^GIF8[79]a/.test(head), "is a GIF picture", PICTURES],
  [(head) => /^BM.{4}\0{4}/s.test(head), "is a BMP picture", PICTURES],
  [(head) => /^(II\*\0|MM\0\*)/.test(head), "is a TIFF picture", PICTURES],
  [(head) => /^(\xff\x0a|\0{3}\x0cJXL )/.test(head), "is a JPEG XL picture", PICTURES],
  [(head) => /^.{4}ftyp(avif|avis)/s.test(head), "is an AVIF picture", PICTURES],
  [(head) => /^.{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)/s.test(head), "is a HEIC picture", PICTURES],
  [(head) => /^(.{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI )/s.test(head), "is a video file", "a video is encoded from a tensor of its frames, see the API"],
  [(head) => /^version https:\/\/git-lfs/.test(head), "is a pointer of Git LFS, not the file itself", "fetch it with `git lfs pull`"],
  [(head) => /^\s*(<!doctype html|<html)/i.test(head), "is a web page, not the file that was to be downloaded", "download it again; it may need a login"],
  [(head) => /^GGUF/.test(head), "is a GGUF file, which holds a model and no latents", "drop latents or a picture"],
  [(head) => /^\x1f\x8b/.test(head), "is compressed with gzip", "unpack it first"],
  [(head) => /^\x80[\x02-\x05]/.test(head), "is a bare pickle, as PyTorch wrote before version 1.6, and is not read here", SAVE],
];

/** Whether these are lines of text: UTF-8 without control characters, but for those that text has. */
function isText(bytes) {
  if (bytes.subarray(0, ENOUGH).some((byte) => byte < 0x20 && ![0x09, 0x0a, 0x0c, 0x0d, 0x1b].includes(byte))) return false;
  try {
    // A character may be cut in two at the end.
    new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, ENOUGH), { stream: true });
    return true;
  } catch {
    return false;
  }
}

/** A sentence for a file that is known and no use here. */
export function otherKind(name, bytes) {
  if (bytes.length === 0) return `${name} is empty: it has 0 bytes. Save or download it again.`;
  // The length of a safetensors file's header may look like anything; its header begins behind that.
  if (ascii(bytes, 4, 9) === "\0\0\0\0{") return undefined;
  const head = ascii(bytes, 0, ENOUGH);
  const found = OTHERS.find(([fits]) => fits(head));
  if (found) return `${name} ${found[1]}: ${found[2]}.`;
  return isText(bytes) ? `${name} is a text file, and holds no latents: drop a .safetensors, .npy, .npz or .pt file, or a picture.` : undefined;
}
