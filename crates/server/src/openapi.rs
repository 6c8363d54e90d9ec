//! The API as an OpenAPI 3.1 document: the routes of [`crate::router`], the keys that `wire` reads, and the types that
//! are sent. The tests hold it to all of them.
//!
//! Programs make clients of it, and these want more than the specification does. Bytes are `type: string, format:
//! binary`. Each operation has a name. And each takes one kind of body, because a generated method has one type of
//! argument: raw bytes at `/` and `/{model}`, JSON at `/predict` and `/{model}/predict`, though the server takes
//! both at all four.
// JSON is indexed by keys, and all of it is our own: nothing that strangers send comes here.
#![allow(clippy::indexing_slicing)]

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use wire::routes::{DOCS, HEALTH, METRICS, MODELS, OPENAPI, PREDICT, READY};
use wire::{ErrorBody, JsonAnswer, JsonBody, PARAMETERS, Parameter, ParameterKind};

use crate::router::{EXAMPLE, ModelList, ROOT};

/// `GET /openapi.json`.
pub(crate) async fn serve() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(text);
    ([(header::CONTENT_TYPE, wire::JSON), (header::CACHE_CONTROL, "no-cache")], TEXT.as_str()).into_response()
}

fn text() -> String {
    serde_json::to_string(&BytesFirst(&document())).unwrap_or_default()
}

/// JSON with media types in this order: bytes before JSON. Generators take the first type that they know, and the
/// server sends JSON only to clients that ask for it.
struct BytesFirst<'a>(&'a Value);

impl Serialize for BytesFirst<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(name, _)| [wire::JSON, wire::TENSOR_BASE64].contains(&name.as_str()));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, &BytesFirst(value))?;
                }
                map.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(BytesFirst)),
            other => other.serialize(serializer),
        }
    }
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
    let mut definitions = schemas.take_definitions(true);
    definitions[JsonBody::schema_name().as_ref()]["properties"]["parameters"]["properties"] =
        PARAMETERS.iter().map(|p| (p.name.to_owned(), body_parameter(p))).collect::<Map<_, _>>().into();
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
                            ignored, and every path works with and without a slash at its end. Generators of \
                            clients make one method of each path, so raw bodies are described at `/` and `/{model}` \
                            and JSON at `/predict` and `/{model}/predict`; all four take both.",
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
            "schemas": definitions,
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
    let plain = json!({ "text/plain": { "schema": { "type": "string" } } });
    let html = json!({ "text/html": { "schema": { "type": "string" } } });
    let either = json!({ "text/html": html["text/html"], "text/plain": plain["text/plain"] });
    json!({
        ROOT: {
            "get": public(read("getPage", "page", "The web page for a browser, `Ok` for everybody else.", either)),
            "post": work(schemas, "predict", Form::Raw, None),
        },
        PREDICT: { "post": work(schemas, "predictJson", Form::Json, None) },
        "/{model}": { "post": work(schemas, "predictWithModel", Form::Raw, Some(NAME)) },
        "/{model}/predict": { "post": work(schemas, "predictJsonWithModel", Form::Json, Some(NAME)) },
        MODELS: { "get": read("listModels", "state", "What is served, the default model first.", json!({
            wire::JSON: { "schema": reference::<ModelList<'static>>(schemas) },
        })) },
        EXAMPLE: { "get": {
            "operationId": "getExample",
            "tags": ["state"],
            "summary": "Latents to try a model with, where there are any: a safetensors file.",
            "parameters": [in_path("model", NAME)],
            "responses": {
                "200": { "description": "The file.", "content": { wire::OCTET_STREAM: bytes("A safetensors file.") } },
                "401": failure("401"),
                "404": failure("404"),
            },
        } },
        METRICS: { "get": read("getMetrics", "state", "Figures for Prometheus.", json!({
            "text/plain": plain["text/plain"],
            "application/openmetrics-text": plain["text/plain"],
        })) },
        HEALTH: { "get": probe("getHealth", "`Ok` while the process lives.", false) },
        READY: { "get": probe("getReady", "`Ok` once every model is loaded and work is accepted.", true) },
        OPENAPI: { "get": public(read("getDocument", "page", "This document.", json!({
            wire::JSON: { "schema": { "type": "object" } },
        }))) },
        DOCS: { "get": public(read("getDocs", "page", "This document for people.", html)) },
    })
}

const NAME: &str = "Name of a model.";

/// What the body of a request for work is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The bytes of a tensor or of a picture file.
    Raw,
    /// Base64 within JSON.
    Json,
}

/// A request for work.
fn work(schemas: &mut SchemaGenerator, id: &str, form: Form, model: Option<&str>) -> Value {
    let mut parameters: Vec<_> = model.map(|text| in_path("model", text)).into_iter().collect();
    parameters.extend(
        PARAMETERS
            .iter()
            // The path says it already.
            .filter(|p| model.is_none() || p.name != "model")
            .map(|p| match form {
                Form::Raw => json!({ "$ref": format!("#/components/parameters/{}", p.name) }),
                // What the query leaves open may stand in the body, so nothing is said about it.
                Form::Json => parameter(&Parameter { default: None, ..*p }),
            }),
    );
    parameters.push(json!({
        "name": "x-request-timeout", "in": "header",
        "description": "For how many seconds the client will wait; what is not done by then is dropped.",
        "schema": { "type": "number", "exclusiveMinimum": 0 },
    }));
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let mut responses: Map<String, Value> =
        FAILURES.iter().map(|(status, _)| ((*status).to_owned(), failure(status))).collect();
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "A picture, a video, or a tensor.",
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
            "content": answers(schemas, form),
        }),
    );
    let with = model.map_or("the first model served", |_| "a named model");
    let summary = match form {
        Form::Raw => format!("Decode or encode with {with}: raw bytes."),
        Form::Json => format!("Decode or encode with {with}: JSON with base64."),
    };
    json!({
        "operationId": id,
        "tags": ["work"],
        "summary": summary,
        "description": "A tensor of latents is decoded; a picture file, and pixels that say so by their shape or by \
                        `task`, are encoded to latents `[B, C, h, w]`. Latents are `[B, C, h, w]`, `[C, h, w]`, packed `[B, tokens, 4C]` with `height` and `width`, \
                        and of videos `[B, C, f, h, w]` or `[C, f, h, w]`.",
        "parameters": parameters,
        "requestBody": { "required": true, "content": bodies(schemas, form) },
        "responses": responses,
    })
}

fn bodies(schemas: &mut SchemaGenerator, form: Form) -> Value {
    match form {
        Form::Raw => json!({
            wire::OCTET_STREAM: bytes(
                "A picture file to encode; or with `shape` and `dtype` the raw tensor of latents or pixels, which of \
                 the two by its shape or by `task`.",
            ),
            wire::TENSOR_BINARY: bytes("The raw tensor, little-endian, in C order; latents unless `task` says more."),
            "image/*": bytes("A PNG, JPEG or WebP file to encode, with its alpha where the model has one."),
        }),
        Form::Json => {
            let body = reference::<JsonBody>(schemas);
            json!({ wire::TENSOR_BASE64: { "schema": body }, wire::JSON: { "schema": body } })
        }
    }
}

/// By media type. What JSON there is, is described where requests are JSON too.
fn answers(schemas: &mut SchemaGenerator, form: Form) -> Value {
    let picture = bytes("A picture file; PNG and WebP with alpha where the model has it.");
    let tensor = bytes("The raw tensor, little-endian, in C order; what it is stands in the headers.");
    let mut content = json!({
        "image/jpeg": picture, "image/png": picture, "image/webp": picture,
        wire::VIDEO_MP4: bytes("A video file."),
        "multipart/mixed": bytes("A picture file for each of a batch."),
        "application/zip": bytes("The same in a zip file."),
        wire::TENSOR_BINARY: tensor, wire::OCTET_STREAM: tensor,
    });
    if form == Form::Json {
        let answer = reference::<JsonAnswer>(schemas);
        content[wire::TENSOR_BASE64] = json!({ "schema": answer });
        content[wire::JSON] = json!({ "schema": answer });
    }
    content
}

/// A body that is no text. OpenAPI 3.1 would have no schema here, which generators take for JSON.
fn bytes(description: &str) -> Value {
    json!({ "schema": { "type": "string", "format": "binary", "description": description } })
}

fn read(id: &str, tag: &str, summary: &str, content: Value) -> Value {
    json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "responses": { "200": { "description": summary, "content": content }, "401": failure("401") },
    })
}

fn probe(id: &str, summary: &str, can_fail: bool) -> Value {
    let mut operation = public(read(
        id,
        "state",
        summary,
        json!({ "text/plain": { "schema": { "const": "Ok", "type": "string" } } }),
    ));
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
    json!({
        "name": parameter.name, "in": "query", "description": parameter.description, "schema": values(parameter),
    })
}

/// The same key in the `parameters` of a JSON body.
fn body_parameter(parameter: &Parameter) -> Value {
    let mut schema = values(&Parameter { default: None, ..*parameter });
    schema["description"] = parameter.description.into();
    schema
}

/// The values that a key takes.
fn values(parameter: &Parameter) -> Value {
    let mut schema = match parameter.kind {
        ParameterKind::Shape => json!({ "type": "array", "items": { "type": "integer", "minimum": 1 } }),
        ParameterKind::Choice(words) => json!({ "type": "string", "enum": words }),
        ParameterKind::Flag => json!({ "type": "boolean" }),
        ParameterKind::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        ParameterKind::Number => json!({ "type": "number" }),
        ParameterKind::Text => json!({ "type": "string" }),
    };
    if let Some(default) = parameter.default {
        schema["default"] = match parameter.kind {
            ParameterKind::Flag => default.eq_ignore_ascii_case("true").into(),
            ParameterKind::Integer(..) => {
                default.parse::<u64>().map_or(json!(default), |number| json!(number))
            }
            _ => json!(default),
        };
    }
    schema
}

/// A reference to the schema of a type, which is written down once.
fn reference<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}
