// Files and folders that people drop or choose.

/** A folder may have any number; more than this nobody chooses from. */
const MOST = 1000;

/** What may be latents or a picture, by its name; a file that was dropped by itself is looked at in any case. */
const USEFUL = /\.(safetensors|sft|latent|npy|npz|pt|pth|png|jpe?g|webp)$/i;

/** The files of a drop, with those in its folders: { file, path }, where the path begins with the folder that was dropped. */
export async function dropped(transfer) {
  // The list is empty as soon as anything was waited for.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...transfer.files];
  if (!entries.some((entry) => entry.isDirectory)) return chosen(files);
  const found = [];
  for (const entry of entries) await collect(entry, found);
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Files that were chosen one by one. */
export const chosen = (files) => [...files].map((file) => ({ file, path: file.name }));

async function collect(entry, found) {
  if (found.length >= MOST) return;
  if (entry.isFile) {
    if (USEFUL.test(entry.name)) found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // It gives a hundred at a time.
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0 || found.length >= MOST) return;
    for (const one of some) await collect(one, found);
  }
}
