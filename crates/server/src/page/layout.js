// Files of programs that are known: how their latents are scaled. What each program does is in its source, see
// docs/latents.md. A layout is { scaling, says, isOneItem }: a `scaling` of "model", "none" or a factor, the sentence for
// people, and whether the program leaves out the batch axis.

const UNSCALED = ["hunyuan_video", "hunyuan_video_1_5", "z_image"];
const SCALED = ["wan", "framepack", "flux_kontext", "kandinsky5", "krea2", "flux_2", "qwen_image"];

const unscaled = (program) => ({ scaling: "none", says: `${program} saves latents as the decoder takes them: they are not scaled`, isOneItem: program !== "ComfyUI" });
const scaled = (program) => ({ scaling: "model", says: `${program} has scaled them: the model's factors undo it`, isOneItem: true });
const unknown = (program) => ({ scaling: "model", says: `a file of ${program} that does not say whether its latents are scaled`, isOneItem: true });

/** Of a safetensors file, by its place, the names of its tensors and its metadata. */
export function ofSafetensors(path, { name }, names, metadata) {
  if (name === "latent_tensor") {
    if (names.includes("latent_format_version_0")) return unscaled("ComfyUI");
    return { scaling: 0.18215, says: "an old file of ComfyUI, without its marker: divided by 0.18215, as its LoadLatent does", isOneItem: false };
  }
  const architecture = metadata.architecture;
  if (architecture && name.startsWith("latents_")) {
    if (UNSCALED.includes(architecture)) return unscaled("musubi-tuner");
    if (SCALED.some((known) => architecture.startsWith(known))) return scaled("musubi-tuner");
    return unknown("musubi-tuner");
  }
  // A file that was dropped alone does not say in which folder it lies; newer ones have it in their metadata.
  const isInItsFolder = path.split("/").at(-2) === "_latent_cache";
  if (name === "latent" && (isInItsFolder || metadata.latent_space_version)) return scaled("ai-toolkit");
  return undefined;
}

/** Of an .npz file: kohya's sd-scripts write sizes beside latents, and the model's name at the end of the file's. */
export function ofNpz(path, { name, shape }, names) {
  const has = (start) => names.some((one) => one.startsWith(start));
  if (!name.startsWith("latents") || !has("original_size") || !has("crop_ltrb")) return undefined;
  const kind = path.toLowerCase().match(/_([a-z0-9]+)\.npz$/)?.[1];
  if (["sd", "sdxl", "sd3", "hi"].includes(kind)) return unscaled("sd-scripts");
  if (["flux", "lumina", "anima"].includes(kind)) return scaled("sd-scripts");
  if (name === "latents" && shape[0] === 4) return unscaled("sd-scripts");
  return unknown("sd-scripts");
}

/** Of a .pt file: OneTrainer's cache of pictures. */
export const ofTorch = ({ name }) => (name === "latent_image" ? unscaled("OneTrainer") : undefined);
