//! What the server says of itself: the description of the API, and the pages.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::Value;

use super::fake::{info, model};
use super::{Reply, TestServer};
use crate::openapi::document;
use crate::router::{ROOT, routes};
use crate::{AccessConfig, Config, page};

async fn server() -> TestServer {
    let (mut model, _) = model("fake", info());
    model.example = Some(b"latents");
    TestServer::open(Config::default(), vec![model]).await
}

async fn get(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Body::empty()).unwrap()).await
}

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

#[tokio::test]
async fn the_document_has_the_routes_of_the_router_and_no_others() {
    let server = server().await;
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    // The files of the page are no part of the API, and their path could be taken for that of a model.
    let served: BTreeSet<_> = routes()
        .into_iter()
        .map(|(path, _)| path)
        .chain([ROOT])
        .filter(|path| *path != page::FILES)
        .collect();
    assert_eq!(paths.keys().map(String::as_str).collect::<BTreeSet<_>>(), served);
    for (path, operations) in paths {
        let uri = path.replace("{model}", "fake");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let request = Request::builder().method(&method).uri(&uri).body(Body::empty()).unwrap();
            let status = server.send(request).await.status;
            let described = operations.get(method.as_str().to_lowercase()).is_some();
            assert_eq!(status != 405, described, "{method} {path} is answered with {status}");
            assert_ne!(status, 404, "{method} {path}");
        }
    }
}

/// Every value in the document with this key.
fn all<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, one)| (name == key).then_some(one).into_iter().chain(all(one, key)))
            .collect(),
        Value::Array(items) => items.iter().flat_map(|one| all(one, key)).collect(),
        _ => Vec::new(),
    }
}

/// What generators of clients need, each of which has failed for want of one of these.
#[test]
fn generators_understand_the_document() {
    let document = document();
    let names = all(&document["paths"], "operationId");
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(names.iter().map(|name| name.as_str().unwrap()).collect::<BTreeSet<_>>().len(), operations);
    for content in all(&document, "content") {
        for (media_type, described) in content.as_object().unwrap() {
            let schema = &described["schema"];
            let is_text = media_type.starts_with("text/") || media_type.contains("openmetrics");
            let is_json = [wire::JSON, wire::TENSOR_BASE64].contains(&media_type.as_str());
            let expected = if is_json || is_text { Value::Null } else { "binary".into() };
            assert!(schema.is_object(), "{media_type}");
            assert_eq!(schema["format"], expected, "{media_type}");
            assert_eq!(schema["type"] == "string", !is_json, "{media_type}");
        }
    }
    // A method that is generated has one type of body.
    for body in all(&document, "requestBody") {
        let types = body["content"].as_object().unwrap();
        assert!(types.contains_key(wire::JSON) != types.contains_key(wire::OCTET_STREAM), "{types:?}");
    }
    // A generated client may send every default with every request, so one must not spoil another.
    let query: Vec<_> = wire::PARAMETERS
        .iter()
        .filter_map(|parameter| parameter.default.map(|value| format!("{}={value}", parameter.name)))
        .collect();
    for more in ["", "&output_type=pt", "&partial_postprocess=true"] {
        let (name, _) = more.trim_start_matches('&').split_once('=').unwrap_or_default();
        let query: Vec<_> =
            query.iter().filter(|one| more.is_empty() || !one.starts_with(name)).cloned().collect();
        let query = format!("shape=1&shape=4&shape=8&shape=8&dtype=float16&{}{more}", query.join("&"));
        let head = wire::RequestHead::read(&query, Some(wire::TENSOR_BINARY), None).unwrap();
        assert!(head.params().is_ok(), "{query}: {:?}", head.params().err());
    }
}

#[tokio::test]
async fn bytes_come_before_json_in_the_text_of_the_document() {
    let text = String::from_utf8(server().await.get("/openapi.json").await.body.to_vec()).unwrap();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}"));
    let answers = &text[at("\"/predict\"")..];
    let at = |what: &str| answers.find(what).unwrap_or_else(|| panic!("{what}"));
    assert!(
        at("\"image/jpeg\":{")
            < at("\"application/json\":{\"schema\":{\"$ref\":\"#/components/schemas/JsonAnswer")
    );
}

#[test]
fn the_document_has_every_key_of_a_request() {
    let document = document();
    for path in ["/", "/predict", "/{model}", "/{model}/predict"] {
        let parameters = document["paths"][path]["post"]["parameters"].as_array().unwrap();
        let described: BTreeSet<_> = parameters
            .iter()
            .map(|parameter| match parameter["$ref"].as_str() {
                Some(reference) => document.pointer(&reference[1..]).expect(reference),
                None => parameter,
            })
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        for parameter in wire::PARAMETERS {
            assert!(described.contains(parameter.name), "{} at {path}", parameter.name);
        }
    }
    let body = &document["components"]["schemas"]["JsonBody"]["properties"]["parameters"]["properties"];
    for parameter in wire::PARAMETERS {
        assert!(body[parameter.name]["description"].is_string(), "{}", parameter.name);
    }
}

#[tokio::test]
async fn the_document_is_served() {
    let server = server().await;
    let served: Value =
        serde_json::from_slice(server.get("/openapi.json").await.content("application/json")).unwrap();
    assert_eq!(served, document());
}

#[tokio::test]
async fn a_browser_gets_the_page_and_others_do_not() {
    let server = server().await;
    for headers in [&[][..], &[("accept", "*/*")], &[("accept", "image/png, */*")]] {
        assert_eq!(get(&server, "/", headers).await.body, "Ok");
    }
    let reply = get(&server, "/", &[BROWSER]).await;
    assert!(reply.content("text/html; charset=utf-8").starts_with(b"<!doctype html>"));
    assert_eq!(reply.header("vary"), "accept");
    let policy = reply.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    // A browser asks again with what it has.
    let tag = reply.header("etag");
    let again = get(&server, "/", &[BROWSER, ("if-none-match", tag)]).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(again.header("cache-control"), "no-cache");
    assert_eq!(get(&server, "/", &[BROWSER, ("if-none-match", "\"other\"")]).await.status, 200);
}

#[tokio::test]
async fn the_address_of_a_model_is_the_page_for_a_browser() {
    let server = server().await;
    let reply = get(&server, "/fake", &[BROWSER]).await;
    assert!(reply.content("text/html; charset=utf-8").starts_with(b"<!doctype html>"));
    assert_eq!(reply.header("vary"), "accept");
    // The page names its files relative to its address.
    let slash = get(&server, "/fake/?api_key=k", &[BROWSER]).await;
    assert_eq!((slash.status.as_u16(), slash.header("location")), (308, "../fake?api_key=k"));
    assert!(get(&server, "/other", &[BROWSER]).await.error(404).contains("this server has fake"));
    for path in ["/fake", "/fake/"] {
        let reply = get(&server, path, &[]).await;
        assert_eq!((reply.header("vary"), reply.header("allow")), ("accept", "POST"));
        assert!(reply.error(405).contains("use POST"));
    }
    for path in ["/predict", "/fake/predict"] {
        get(&server, path, &[BROWSER]).await.error(405);
    }
}

#[tokio::test]
async fn everything_that_the_pages_name_is_there() {
    let server = server().await;
    let mut seen = BTreeSet::new();
    let mut to_see = Vec::new();
    for page in ["/", "/docs"] {
        let html = String::from_utf8(get(&server, page, &[BROWSER]).await.body.to_vec()).unwrap();
        assert!(!html.contains("//"), "{page} names another place");
        to_see
            .extend(html.split('"').filter(|text| text.starts_with("page/")).map(|text| format!("/{text}")));
    }
    while let Some(path) = to_see.pop() {
        let reply = get(&server, &path, &[]).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        // Modules name each other.
        let imports =
            text.split('"').filter_map(|text| text.strip_prefix("./")).filter(|t| t.ends_with(".js"));
        to_see.extend(imports.map(|name| format!("/page/{name}")).filter(|path| !seen.contains(path)));
        seen.insert(path);
    }
    assert!(seen.len() > 5, "{seen:?}");
    get(&server, "/page/nothing.js", &[]).await.error(404);
    let slash = get(&server, "/docs/", &[]).await;
    assert_eq!((slash.status.as_u16(), slash.header("location")), (308, "../docs"));
}

#[tokio::test]
async fn the_pages_need_no_key_and_show_nothing_of_the_server() {
    let keys = vec!["0123456789abcdef".parse().unwrap()];
    let access = AccessConfig { keys, ..AccessConfig::default() };
    let server =
        TestServer::open(Config { access, ..Config::default() }, vec![model("secret", info()).0]).await;
    // The address of a model tells nobody whether there is one.
    for path in ["/", "/docs", "/openapi.json", "/page/app.js", "/secret", "/other"] {
        let reply = get(&server, path, &[BROWSER]).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.body.windows(6).any(|word| word == b"secret"), "{path}");
    }
    for path in ["/models", "/metrics", "/models/secret/example", "/predict", "/secret/predict"] {
        get(&server, path, &[BROWSER]).await.error(401);
    }
    get(&server, "/secret", &[]).await.error(401);
    server.post("/", "", vec![0; 4]).await.error(401);
    server.post("/page/predict", "", vec![0; 4]).await.error(401);
}

#[tokio::test]
async fn a_model_may_have_an_example() {
    let server = server().await;
    assert_eq!(server.get("/models/fake/example").await.content("application/octet-stream"), b"latents");
    assert!(server.get("/models/other/example").await.error(404).contains("fake"));
    let models: Value = serde_json::from_slice(&server.get("/models").await.body).unwrap();
    assert_eq!(models["models"][0]["has_example"], true);
    let plain = TestServer::open(Config::default(), vec![model("plain", info()).0]).await;
    assert!(plain.get("/models/plain/example").await.error(404).contains("no example"));
}
