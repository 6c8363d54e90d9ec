// Shows openapi.json: each path with its parameters, bodies and answers, and the schemas behind them.

import { find, make } from "./dom.js";

const content = find("#content");

/** `code` in texts of the document. */
function prose(text = "") {
  return text.split(/(`[^`]+`)/).map((part) => (part.startsWith("`") ? make("code", {}, part.slice(1, -1)) : part));
}

/** The values that a schema takes, in a few words. */
function kind(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" | ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  if (schema.format === "binary") return "bytes";
  const types = [schema.type ?? "anything"].flat().join(" | ");
  if (schema.minimum !== undefined && schema.maximum !== undefined) {
    return `${types}, ${schema.minimum} to ${schema.maximum}`;
  }
  return types;
}

const item = (name, type, text) =>
  make("div", { class: "item" }, make("dt", {}, name), make("dd", {}, make("span", { class: "kind" }, type), prose(text)));

const list = (title, items) => (items.length ? [make("h3", {}, title), make("dl", {}, items)] : []);

const media = (body = {}) =>
  Object.entries(body.content ?? {}).map(([type, { schema }]) => item(type, kind(schema), schema?.description));

function operation(document, path, method, { summary, description, parameters = [], requestBody, responses }) {
  const resolve = (value) => (value.$ref ? value.$ref.slice(2).split("/").reduce((at, key) => at[key], document) : value);
  const needed = parameters.map(resolve).map(({ name, in: place, schema, description: text }) => {
    const otherwise = schema.default === undefined ? "" : `; ${schema.default} unless said`;
    return item(name, `${place}: ${kind(schema)}${otherwise}`, text);
  });
  const answers = Object.entries(responses).map(([status, response]) => [status, resolve(response)]);
  const good = answers.filter(([status]) => status < 400).map(([, response]) => response);
  const bad = answers.filter(([status]) => status >= 400);
  return make("details", { class: "card" },
    make("summary", {},
      make("span", { class: "method" }, method.toUpperCase()),
      make("span", { class: "path" }, path),
      make("span", { class: "soft" }, prose(summary))),
    make("div", { class: "inside" },
      description && make("p", { class: "soft" }, prose(description)),
      list("Parameters", needed),
      list("Body", media(requestBody)),
      list("Answer", good.flatMap(media)),
      list("Headers of the answer",
        good.flatMap(({ headers = {} }) => Object.entries(headers).map(([name, h]) => item(name, kind(h.schema), h.description)))),
      list("Errors", bad.map(([status, { description: text, content: body }]) => item(status, kind(Object.values(body)[0].schema), text)))));
}

function show(document) {
  find("#description").replaceChildren(...prose(`${document.info.summary} ${document.info.description}`));
  for (const { name, description } of document.tags) {
    const section = make("section", {}, make("h2", {}, name), make("p", { class: "soft" }, description));
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const [method, described] of Object.entries(methods)) {
        if (described.tags.includes(name)) section.append(operation(document, path, method, described));
      }
    }
    content.append(section);
  }
  const types = make("section", {}, make("h2", {}, "types"), make("p", { class: "soft" }, "JSON that is sent and answered."));
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    const fields = Object.entries(schema.properties ?? {});
    types.append(make("details", { class: "card" },
      make("summary", {}, make("span", { class: "path" }, name), make("span", { class: "soft" }, prose(schema.description))),
      make("div", { class: "inside" }, make("dl", {}, fields.map(([field, of]) => item(field, kind(of), of.description))))));
  }
  content.append(types);
  const keys = Object.values(document.components.securitySchemes).map(({ type, scheme, name, in: place, description }) =>
    item(scheme ?? name, `${type}${place ? ` in the ${place}` : ""}`, description));
  content.append(make("section", {}, make("h2", {}, "keys"),
    make("p", { class: "soft" }, "Where the server wants an API key, one of these carries it."), make("dl", {}, keys)));
  content.removeAttribute("aria-busy");
}

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the server answered with ${answer.status}`);
  show(await answer.json());
} catch (error) {
  const failure = find("#failure");
  failure.hidden = false;
  failure.textContent = `The description of the API cannot be shown: ${error.message}.`;
}
