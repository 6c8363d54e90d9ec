// The request on the screen as a command and as code. Every text works as it is, with the file beside it, says what it needs,
// and ends with a line break.

const quote = (word) => (/^[\w./:=+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
// JSON's escapes are Python's too.
const text = (value) => JSON.stringify(value);
// Rust has other escapes for what is not ASCII, but takes it as it is; control characters are in no sensible name.
const rustText = (value) => `"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
const KEY = "REMOTE_VAE_API_KEY";

/** The endpoint with those keys in its query that a client has no argument for. */
function endpoint({ url, query }, names) {
  const extra = query.filter(([name]) => names.includes(name));
  return extra.length ? `${url}?${new URLSearchParams(extra)}` : url;
}

const get = ({ query }, name) => query.find(([key]) => key === name)?.[1];

/** Where the bytes lie: a file, and the command that makes it if they are compressed in another. */
function place({ file, entry }) {
  if (!entry) return { file };
  const folder = file.replace(/\.[^./]*$/, "") || "unpacked";
  return { file: `${folder}/${entry}`, unpack: `python3 -m zipfile -e ${quote(file)} ${quote(folder)}` };
}

/** A float as Rust writes it. */
const float = (value) => (/[.e]/.test(value) ? value : `${value}.0`);

export function curl(request) {
  const { source, url, query, accept, hasKey, output } = request;
  const header = hasKey ? `-H "Authorization: Bearer $${KEY}" ` : "";
  const lines = source.example ? [`curl -fsS ${header}-o ${quote(source.file)} ${quote(source.example)}`] : [];
  const call = [
    `curl --fail-with-body ${quote(`${url}?${new URLSearchParams(query)}`)}`,
    ...(hasKey ? [header.trim()] : []),
    "-H 'Content-Type: tensor/binary'",
    `-H 'Accept: ${accept}'`,
    `--data-binary @- -o ${output}`,
  ].join(" \\\n    ");
  const { file, unpack } = place(source);
  if (unpack) lines.push(unpack);
  lines.push(`tail -c +${source.offset + 1} ${quote(file)} | head -c ${source.length} |\n  ${call}\n`);
  return lines.join("\n");
}

export function python(request) {
  const { source, url, hasKey, output, item } = request;
  const isVideo = get(request, "output_type") === "mp4";
  const lines = ['# pip install "diffusers>=0.39" "safetensors>=0.8" torch pillow requests numpy'];
  if (hasKey) lines.push("import os");
  const file = text(source.file);
  const key = `[${text(source.name)}]`;
  // Bfloat16 as ml_dtypes writes it, of which NumPy knows only the size.
  const array = (loaded) => (request.dtype === "bfloat16" ? `torch.from_numpy(${loaded}.view("u2")).view(torch.bfloat16)` : `torch.from_numpy(${loaded})`);
  const { imports, load } = {
    npy: { imports: ["import numpy", "import torch"], load: array(`numpy.load(${file})`) },
    npz: { imports: ["import numpy", "import torch"], load: array(`numpy.load(${file})${key}`) },
    pt: { imports: ["import torch"], load: `torch.load(${file}, map_location="cpu", weights_only=True)${source.access}` },
    safetensors: { imports: [], load: `load_file(${file})${key}` },
  }[source.format];
  lines.push(...imports, "from diffusers.utils.remote_utils import remote_decode");
  if (source.format === "safetensors") lines.push("from safetensors.torch import load_file");
  const which = item.batched ? (item.batch > 1 ? `[${item.index}:${item.index + 1}]` : "") : "[None]";
  lines.push("", `latents = ${load}${which}`);
  // Its client knows png and jpg only. A PNG has lost nothing yet, and Pillow writes WebP as the server does.
  const isWebp = get(request, "image_format") === "webp";
  const quality = get(request, "quality");
  let address = text(endpoint(request, [...(isWebp ? [] : ["quality"]), "fps", "tiling", "framewise"]));
  if (hasKey) address = `f${address.replace("://", `://user:{os.environ['${KEY}']}@`)}`;
  const args = [address, "latents"];
  const factor = get(request, "scaling_factor");
  const shift = get(request, "shift_factor");
  if (factor !== undefined) args.push(`scaling_factor=${factor}`);
  if (shift !== undefined) args.push(`shift_factor=${shift}`);
  if (factor === undefined && get(request, "do_scaling") !== "True") args.push("do_scaling=False");
  if (isVideo) args.push('output_type="mp4"', 'return_type="mp4"');
  // Of a picture file it drops alpha, but not of bytes.
  else if (request.hasAlpha) args.push('output_type="pt"', 'return_type="pil"', "partial_postprocess=True");
  else args.push(`image_format=${text(isWebp ? "png" : get(request, "image_format"))}`);
  for (const side of ["height", "width"]) if (get(request, side)) args.push(`${side}=${get(request, side)}`);
  const call = `remote_decode(\n    ${args.join(",\n    ")},\n)`;
  if (isVideo) lines.push(`with open(${text(output)}, "wb") as file:`, `    file.write(${call.replaceAll("\n", "\n    ")})`);
  else lines.push(`image = ${call}`, `image.save(${text(output)}${isWebp && quality ? `, quality=${quality}` : ""})`);
  return `${lines.join("\n")}\n`;
}

const DTYPES = { float16: "Float16", bfloat16: "BFloat16", float32: "Float32", float64: "Float64" };

export function rust(request) {
  const { source, hasKey, output, item } = request;
  const isVideo = get(request, "output_type") === "mp4";
  const quality = get(request, "quality");
  const options = [];
  const factor = get(request, "scaling_factor");
  const shift = get(request, "shift_factor");
  if (factor !== undefined) options.push(`scaling_factor(${float(factor)})`);
  if (shift !== undefined) options.push(`shift_factor(${float(shift)})`);
  if (factor === undefined && get(request, "do_scaling") !== "True") options.push("do_scaling(false)");
  if (isVideo) {
    options.push("output_type(OutputType::Mp4)");
    for (const name of ["fps", "quality"]) if (get(request, name)) options.push(`${name}(${get(request, name)})`);
  } else {
    const lossy = `{ quality: ${quality ? `Some(${quality})` : "None"} }`;
    const format = { png: "Png", jpg: `Jpeg ${lossy}`, webp: `WebP ${lossy}` }[get(request, "image_format")];
    options.push(`image_format(ImageFormat::${format})`);
  }
  for (const side of ["height", "width"]) if (get(request, side)) options.push(`${side}(${get(request, side)})`);
  const address = rustText(endpoint(request, ["tiling", "framewise"]));
  const vae = hasKey
    ? `RemoteVae::builder(${address}).api_key(&std::env::var("${KEY}")?).build()?`
    : `RemoteVae::new(${address})?`;
  const { file, unpack } = place(source);
  return `// In Cargo.toml: remote-vae-client = { path = "../remote-vae/crates/client" }, where remote-vae lies beside this project.
${unpack ? `// The file is compressed; before this: ${unpack}\n` : ""}use client::{DType, DecodeOptions, ${isVideo ? "OutputType" : "ImageFormat"}, Tensor, blocking::RemoteVae};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::read(${rustText(file)})?;
    let bytes = file[${source.offset}..${source.offset + source.length}].to_vec();
    let latents = Tensor::new(DType::${DTYPES[request.dtype]}, vec![${item.shape.join(", ")}], bytes.into())?;
    let options = DecodeOptions::new()
        .${options.join("\n        .")};
    let vae = ${vae};
    std::fs::write(${rustText(output)}, vae.decode(&latents, &options)?.bytes())?;
    Ok(())
}
`;
}
