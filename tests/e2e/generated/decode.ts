// Decodes and encodes with the clients that openapi-ts has made, and with openapi-fetch over the types that
// openapi-typescript has made, as somebody would who follows their types.
//
//     node decode.js URL LATENTS FOLDER      # LATENTS: float16 [1, 16, 8, 12]; PICTURE is in FOLDER

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";

import createFetchClient from "openapi-fetch";

import { getHealth, listModels, predict, predictJsonWithModel, predictWithModel } from "./client";
import { client } from "./client/client.gen";
import type { paths } from "./types";

const [url, file, folder] = process.argv.slice(2) as [string, string, string];
const latents = readFileSync(file);
const blob = new Blob([latents]);
const shape = [1, 16, 8, 12];
const save = async (name: string, answer: Blob) => writeFileSync(`${folder}/${name}`, Buffer.from(await answer.arrayBuffer()));

async function withItsClient() {
  client.setConfig({ baseUrl: url, throwOnError: true });
  assert.equal((await getHealth({ throwOnError: true })).data, "Ok");
  const { data: { models } } = await listModels({ throwOnError: true });
  const [model] = models;
  assert(model && model.name === "demo" && model.latent_channels === 16);
  const tensor = { shape, dtype: "float16" as const, scaling_factor: model.scaling_factor ?? undefined, shift_factor: model.shift_factor ?? undefined };
  const path = { model: "demo" };

  const picture = await predictWithModel({ path, query: { ...tensor, image_format: "png" }, body: blob, throwOnError: true });
  await save("picture.png", picture.data);
  // A type that the client knows; it takes `tensor/binary` for JSON.
  const headers = { Accept: "application/octet-stream" };
  const values = await predictWithModel({ path, query: { ...tensor, output_type: "pt" }, body: blob, headers, throwOnError: true });
  assert.equal(values.response.headers.get("shape"), "[1, 3, 64, 96]");
  await save("values", values.data);
  const bytes = await predictWithModel({ path, query: { ...tensor, partial_postprocess: true }, body: blob, headers, throwOnError: true });
  await save("bytes", bytes.data);

  const body = { inputs: latents.toString("base64"), parameters: { shape, dtype: "float16" as const, output_type: "pt" as const } };
  const json = await predictJsonWithModel({ path, body, headers: { Accept: "application/json" }, throwOnError: true });
  assert.deepEqual(json.data.parameters, { shape: [1, 3, 64, 96], dtype: "float16" });
  writeFileSync(`${folder}/by-json`, Buffer.from(json.data.inputs, "base64"));

  const original = new Blob([readFileSync(`${folder}/original.png`)]);
  const encoded = await predict({ query: { seed: 7 }, body: original, headers, throwOnError: true });
  assert.equal(encoded.response.headers.get("seed"), "7");
  await save("encoded", encoded.data);

  const wrong = await predictWithModel({ path, query: tensor, body: new Blob([]), throwOnError: false });
  assert(wrong.error && wrong.error.error.includes("3072"), JSON.stringify(wrong.error));
}

async function withItsTypes() {
  const { POST } = createFetchClient<paths>({ baseUrl: url });
  const { data, error } = await POST("/{model}", {
    params: { path: { model: "demo" }, query: { shape, dtype: "float16", do_scaling: true, image_format: "png" } },
    // Its types have text where OpenAPI has `format: binary`.
    body: blob as unknown as string,
    bodySerializer: (body) => body,
    headers: { "Content-Type": "application/octet-stream" },
    parseAs: "blob",
  });
  assert(data, error?.error);
  await save("by-types.png", data as unknown as Blob);
}

withItsClient().then(withItsTypes).catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
