//! The API as an OpenAPI 3.1 document: the routes of [`crate::router`], the keys that `wire` reads, and the types that
//! are sent. The tests hold it to all of them.
// JSON is indexed by keys, and all of it is our own: nothing that strangers send comes here.
#![allow(clippy::indexing_slicing)]

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use wire::routes::{DOCS, HEALTH, METRICS, MODELS, OPENAPI, PREDICT, READY};
use wire::{ErrorBody, JsonAnswer, JsonBody, PARAMETERS, Parameter, ParameterKind};

use crate::page;
use crate::router::{EXAMPLE, ModelList, ROOT};

/// `GET /openapi.json`.
pub(crate) async fn serve() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    ([(header::CONTENT_TYPE, wire::JSON), (header::CACHE_CONTROL, "no-cache")], TEXT.as_str()).into_response()
}

/// What can go wrong with a decode, by status.
const FAILURES: [(&str, &str); 10] = [
    ("400", "The request cannot be read."),
    ("401", "This server wants an API key."),
    ("404", "There is no such model."),
    ("408", "The body came too slowly."),
    ("413", "More than the limits of the server allow."),
    ("415", "A content type that has no meaning here."),
    ("422", "Understood, but this model cannot do it."),
    ("429", "Too much work is waiting, or too many requests of this client; see `Retry-After`."),
    ("500", "Our fault."),
    ("503", "Loading, stopping, or out of time; see `Retry-After`."),
];

pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut schemas = settings.into_generator();
    let paths = paths(&mut schemas);
    let error = reference::<ErrorBody>(&mut schemas);
    let failures: Map<String, Value> = FAILURES
        .iter()
        .map(|(status, description)| {
            let mut failure = json!({
                "description": description,
                "content": { wire::JSON: { "schema": error } },
            });
            if matches!(*status, "429" | "503") {
                failure["headers"] = json!({ "Retry-After": {
                    "description": "Seconds after which another try makes sense.", "schema": { "type": "integer" },
                }});
            }
            ((*status).to_owned(), failure)
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "remote-vae",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Latents of diffusion models to pictures and videos, and back.",
            "description": "The protocol of diffusers' `remote_decode`. The body of a request is a tensor, and its \
                            query says what tensor it is and what to answer with. Keys that have no meaning are \
                            ignored, and every path works with and without a slash at its end.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "." }],
        // An empty requirement: a server without keys wants none.
        "security": [{}, { "bearer": [] }, { "basic": [] }, { "query": [] }],
        "tags": [
            { "name": "work", "description": "What the server is for." },
            { "name": "state", "description": "What it serves, and how it is." },
            { "name": "page", "description": "For people with a browser." },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "responses": failures,
            "parameters": PARAMETERS.iter().map(|p| (p.name.to_owned(), parameter(p))).collect::<Map<_, _>>(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "basic": { "type": "http", "scheme": "basic", "description": "`https://user:KEY@host/`" },
                "query": { "type": "apiKey", "in": "query", "name": "api_key" },
            },
        },
    })
}

fn paths(schemas: &mut SchemaGenerator) -> Value {
    let named = "name of a model";
    json!({
        ROOT: {
            "get": public(read("page", "The web page for a browser, `Ok` for everybody else.", json!({
                "text/html": {}, "text/plain": { "schema": { "const": "Ok" } },
            }))),
            "post": work(schemas, "With the first model served.", None),
        },
        PREDICT: { "post": work(schemas, "With the first model served.", None) },
        "/{model}": { "post": work(schemas, "With a named model.", Some(named)) },
        "/{model}/predict": { "post": work(schemas, "With a named model.", Some(named)) },
        MODELS: { "get": read("state", "What is served, the default model first.", json!({
            wire::JSON: { "schema": reference::<ModelList<'static>>(schemas) },
        })) },
        EXAMPLE: { "get": {
            "tags": ["state"],
            "summary": "Latents to try a model with, where there are any: a safetensors file.",
            "parameters": [in_path("model", named)],
            "responses": {
                "200": { "description": "The file.", "content": { "application/octet-stream": {} } },
                "401": failure("401"),
                "404": failure("404"),
            },
        } },
        METRICS: { "get": read("state", "Figures for Prometheus.", json!({
            "text/plain": { "schema": { "type": "string" } },
            "application/openmetrics-text": { "schema": { "type": "string" } },
        })) },
        HEALTH: { "get": probe("`Ok` while the process lives.", false) },
        READY: { "get": probe("`Ok` once every model is loaded and work is accepted.", true) },
        OPENAPI: { "get": public(read("page", "This document.", json!({ wire::JSON: {} }))) },
        DOCS: { "get": public(read("page", "This document for people.", json!({ "text/html": {} }))) },
        page::FILES: { "get": {
            "tags": ["page"],
            "summary": "A file of the page.",
            "security": [],
            "parameters": [in_path("file", "name of the file")],
            "responses": { "200": { "description": "The file." }, "404": failure("404") },
        } },
    })
}

/// A request for work.
fn work(schemas: &mut SchemaGenerator, summary: &str, model: Option<&str>) -> Value {
    let mut parameters: Vec<_> = model.map(|text| in_path("model", text)).into_iter().collect();
    parameters.extend(
        PARAMETERS
            .iter()
            // The path says it already.
            .filter(|p| model.is_none() || p.name != "model")
            .map(|p| json!({ "$ref": format!("#/components/parameters/{}", p.name) })),
    );
    parameters.push(json!({
        "name": "x-request-timeout", "in": "header",
        "description": "For how many seconds the client will wait; what is not done by then is dropped.",
        "schema": { "type": "number", "exclusiveMinimum": 0 },
    }));
    let body = reference::<JsonBody>(schemas);
    let answer = reference::<JsonAnswer>(schemas);
    let file = json!({});
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let mut responses: Map<String, Value> =
        FAILURES.iter().map(|(status, _)| ((*status).to_owned(), failure(status))).collect();
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "What was asked for.",
            "headers": {
                "server-timing": text("Milliseconds in the queue, in the model, and for the file."),
                "x-decode-mode": text("How it was done: `exact`, `lean` or `tile`."),
                "seed": text("Of sampled latents: what the noise was made of."),
                "x-request-id": text("The id of the request in the log."),
                "x-warning": text("What is odd about the request, one sentence each time: a key that has no meaning but \
                                   nearly one, or values that cannot be right."),
                "shape": text("Of a tensor: its shape, as a JSON list."),
                "dtype": text("Of a tensor: the type of its values."),
            },
            "content": {
                "image/jpeg": file, "image/png": file, "image/webp": file, "video/mp4": file, "multipart/mixed": file,
                "application/zip": file, wire::TENSOR_BINARY: file,
                wire::TENSOR_BASE64: { "schema": answer }, wire::JSON: { "schema": answer },
            },
        }),
    );
    json!({
        "tags": ["work"],
        "summary": summary,
        "description": "A tensor of latents is decoded; a picture file, and pixels that say so by their shape or by \
                        `task`, are encoded to latents `[B, C, h, w]`. Latents are `[B, C, h, w]`, `[C, h, w]`, packed `[B, tokens, 4C]` with `height` and `width`, \
                        and of videos `[B, C, f, h, w]` or `[C, f, h, w]`.",
        "parameters": parameters,
        "requestBody": {
            "required": true,
            "content": {
                wire::TENSOR_BINARY: { "schema": { "description": "The raw tensor, little-endian, in C order." } },
                wire::TENSOR_BASE64: { "schema": body },
                wire::JSON: { "schema": body },
                "image/*": { "schema": { "description": "A PNG, JPEG or WebP file to encode." } },
                "application/octet-stream": { "schema": {
                    "description": "The same; or with `shape` and `dtype` a raw tensor of pixels or latents.",
                } },
            },
        },
        "responses": responses,
    })
}

fn read(tag: &str, summary: &str, content: Value) -> Value {
    json!({
        "tags": [tag],
        "summary": summary,
        "responses": { "200": { "description": summary, "content": content }, "401": failure("401") },
    })
}

fn probe(summary: &str, can_fail: bool) -> Value {
    let mut operation =
        public(read("state", summary, json!({ "text/plain": { "schema": { "const": "Ok" } } })));
    if can_fail {
        operation["responses"]["503"] = failure("503");
    }
    operation
}

/// The same for everybody, with a key or without one.
fn public(mut operation: Value) -> Value {
    operation["security"] = json!([]);
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.remove("401");
    }
    operation
}

fn failure(status: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{status}") })
}

fn in_path(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" },
    })
}

fn parameter(parameter: &Parameter) -> Value {
    let mut schema = match parameter.kind {
        ParameterKind::Shape => json!({ "type": "array", "items": { "type": "integer", "minimum": 1 } }),
        ParameterKind::Choice(words) => json!({ "type": "string", "enum": words }),
        ParameterKind::Flag => json!({ "type": "string", "enum": ["True", "False"] }),
        ParameterKind::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        ParameterKind::Number => json!({ "type": "number" }),
        ParameterKind::Text => json!({ "type": "string" }),
    };
    if let Some(default) = parameter.default {
        let number =
            default.parse::<u64>().ok().filter(|_| matches!(parameter.kind, ParameterKind::Integer(..)));
        schema["default"] = number.map_or(json!(default), |number| json!(number));
    }
    json!({
        "name": parameter.name, "in": "query", "description": parameter.description, "schema": schema,
    })
}

/// A reference to the schema of a type, which is written down once.
fn reference<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}
