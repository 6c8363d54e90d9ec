// The form: what was chosen, and the request that follows from it.

import { find, make } from "./dom.js";
import { BASE, key } from "./server.js";

const value = (id) => find(`#${id}`).value.trim();
const show = (id, isShown) => {
  find(`#${id}`).hidden = !isShown;
};

/** The format that is chosen: png, jpg, webp or mp4. */
export const format = () => find('input[name="format"]:checked').value;

/** Fills the list of models. */
export function listModels(models) {
  find("#model").replaceChildren(...models.map(({ name }) => make("option", { value: name }, name)));
}

/** Which latents want which scaling. */
const SCALINGS = {
  model: "For latents of a pipeline: the model's own factors undo what it has done to them.",
  factors: "For latents that were scaled for another model or program.",
  none: "For latents as the decoder takes them.",
};

/** Whether a model makes pictures with alpha. */
const hasAlpha = (model) => model?.out_channels === 4;

/** Shows which options this model and this input have. */
export function update(model, item) {
  const isVideo = Boolean(model?.temporal_factor);
  const isKnown = Boolean(model?.latent_channels);
  for (const input of document.querySelectorAll('input[name="format"]')) {
    // A JPEG file holds no alpha.
    const isLost = input.value === "jpg" && hasAlpha(model);
    const fits = !isKnown || ((input.value === "mp4") === isVideo && !isLost);
    input.parentElement.hidden = !fits;
    if (!fits && input.checked) find(`input[name="format"][value="${isVideo ? "mp4" : "png"}"]`).checked = true;
  }
  show("quality-field", format() !== "png");
  find("#quality").placeholder = { jpg: "75", webp: "80" }[format()] ?? "automatic";
  show("fps-field", format() === "mp4");
  show("one-pass-field", isVideo);
  show("factors", value("scaling") === "factors");
  find("#scaling-help").textContent = SCALINGS[value("scaling")];
  show("size-field", item?.packed);
}

/** Puts the factors of a model into the fields for other ones, as a beginning. */
export function suggestFactors(model) {
  find("#scaling-factor").value = model.scaling_factor ?? 1;
  find("#shift-factor").value = model.shift_factor ?? "";
}

/** Whether a file chose the scaling that is set, and no person. */
let isSuggested = false;

/** Scales as a file's program needs it: "model", "none" or a factor; `undefined` of a program that is not known. */
export function suggestScaling(scaling) {
  if (scaling === undefined && !isSuggested) return;
  isSuggested = scaling !== undefined;
  const isFactor = typeof scaling === "number";
  find("#scaling").value = isFactor ? "factors" : scaling ?? "model";
  if (isFactor) {
    find("#scaling-factor").value = scaling;
    find("#shift-factor").value = "";
  }
}

/** The query's part that scales, as pairs. A model's own factors are said as numbers where there are two of them. */
function scaling(model) {
  const chosen = value("scaling");
  if (chosen === "none") return [];
  if (chosen === "model" && (model.latents_mean || !model.scaling_factor)) return [["do_scaling", "True"]];
  const [factor, shift] = chosen === "model"
    ? [model.scaling_factor, model.shift_factor ?? ""]
    : [value("scaling-factor"), value("shift-factor")];
  return [["scaling_factor", String(factor)], ...(shift === "" ? [] : [["shift_factor", String(shift)]])];
}

const ACCEPT = { png: "image/png", jpg: "image/jpeg", webp: "image/webp", mp4: "video/mp4" };

/**
 * The request for one item of a tensor: { url, path, query, accept, hasPreview, dtype, item, source, output, hasAlpha, hasKey }.
 * `item` has its shape with a batch of one, and `source` the place of its bytes in the file.
 */
export function request(model, tensor, item, source) {
  const chosen = format();
  const query = [
    ["output_type", chosen === "mp4" ? "mp4" : "pil"],
    ...(chosen === "mp4" ? [] : [["image_format", chosen]]),
    ...(chosen === "png" || value("quality") === "" ? [] : [["quality", value("quality")]]),
    ...(chosen === "mp4" && value("fps") !== "" ? [["fps", value("fps")]] : []),
    ...scaling(model),
    ...(find("#tiling").checked ? [["tiling", "True"]] : []),
    ...(model.temporal_factor && find("#one-pass").checked ? [["framewise", "False"]] : []),
    ...(item.packed ? [["height", value("height")], ["width", value("width")]] : []),
    ...item.shape.map((axis) => ["shape", String(axis)]),
    ["dtype", tensor.dtype],
  ];
  return {
    url: `${BASE}/${model.name}`,
    path: `/${model.name}`,
    query,
    accept: ACCEPT[chosen],
    hasPreview: Boolean(model.preview) && chosen !== "mp4",
    dtype: tensor.dtype,
    item,
    source,
    output: chosen === "mp4" ? "video.mp4" : `picture.${chosen}`,
    hasAlpha: hasAlpha(model),
    hasKey: key.get() !== "",
  };
}
