//! What clients write in other ways than diffusers, and what they write wrongly.

use axum::body::Body;
use axum::http::{Method, Request};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use vae::VaeInfo;

use super::fake::{info, model};
use super::{Reply, TestServer};
use crate::{AccessConfig, Config};

/// A model with two pixels a latent, and one with three.
async fn server() -> TestServer {
    let wide = VaeInfo { spatial_factor: 3, ..info() };
    TestServer::open(Config::default(), vec![model("fake", info()).0, model("wide", wide).0]).await
}

/// The values of a tensor answer in float16.
#[track_caller]
fn first_value(reply: &Reply) -> f32 {
    let body = reply.content("tensor/binary");
    half::f16::from_le_bytes(body[..2].try_into().unwrap()).to_f32()
}

async fn json(server: &TestServer, uri: &str, content_type: &str, parameters: serde_json::Value) -> Reply {
    let body = json!({"inputs": BASE64_STANDARD.encode([8; 4]), "parameters": parameters}).to_string();
    let request = Request::post(uri).header("content-type", content_type);
    server.send(request.body(body.into()).unwrap()).await
}

/// One rule for JSON bodies: what the body says holds, and the query says what the body does not.
#[tokio::test]
async fn json_bodies_and_their_queries() {
    let server = server().await;
    let whole = json!({"shape": [1, 4, 1, 1], "dtype": "uint8"});
    let with = |key: &str, value: &str| {
        let mut parameters = whole.clone();
        parameters[key] = value.into();
        parameters
    };
    for content_type in ["application/json", "tensor/base64"] {
        let send = async |query: &str, parameters| {
            json(&server, &format!("/?{query}"), content_type, parameters).await
        };
        // 8 / 0.5 + 0.125 by the model's configuration, which is the default of the first generation only.
        let otherwise = if content_type == "application/json" { 16.125 } else { 8.0 };
        assert_eq!(first_value(&send("output_type=pt", whole.clone()).await), otherwise);
        assert_eq!(first_value(&send("output_type=pt&do_scaling=False", whole.clone()).await), 8.0);
        assert_eq!(first_value(&send("output_type=pt&do_scaling=True", whole.clone()).await), 16.125);
        assert_eq!(first_value(&send("output_type=pt&scaling_factor=2", whole.clone()).await), 4.0);
        let body = with("scaling_factor", "4");
        assert_eq!(first_value(&send("output_type=pt&scaling_factor=2", body).await), 2.0);
        send("image_format=png", whole.clone()).await.content("image/png");
        send("image_format=png", with("image_format", "webp")).await.content("image/webp");
        send("output_type=pt", with("output_type", "pil")).await.content("image/jpeg");
        // Shape and type, each from where it is.
        send("shape=1&shape=4&shape=1&shape=1&dtype=uint8", json!({})).await.content("image/jpeg");
        send("dtype=uint8&shape=[9,9]", json!({"shape": [1, 4, 1, 1]})).await.content("image/jpeg");

        // The model too, and it is the one that is counted.
        let side = |reply: Reply| reply.header("shape").to_owned();
        assert_eq!(side(send("output_type=pt&model=wide", whole.clone()).await), "[1, 3, 3, 3]");
        assert_eq!(side(send("output_type=pt&model=fake", with("model", "wide")).await), "[1, 3, 3, 3]");
        assert_eq!(side(send("output_type=pt&model=nobody", with("model", "wide")).await), "[1, 3, 3, 3]");
        send("model=nobody", whole.clone()).await.error(404);
    }
    json(&server, "/fake", "application/json", with("model", "wide")).await.error(400);
    let text = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    let counted =
        |model: &str| text.contains(&format!("model=\"{model}\",task=\"decode\",output=\"tensor/binary\""));
    assert!(counted("wide") && counted("fake"), "{text}");
}

#[tokio::test]
async fn base64_and_lists_as_others_write_them() {
    let server = server().await;
    let latents: Vec<u8> = (0..=255).collect();
    let plain = BASE64_STANDARD.encode(&latents);
    let query =
        "/?dtype=uint8&shape[]=1&shape[]=4&shape[]=8&shape[]=8&output_type=pt".replace("[]", "%5B%5D");
    let expected = server.post("/?dtype=uint8&shape=[1,4,8,8]&output_type=pt", "", latents).await.body;
    let lines: Vec<_> = plain.as_bytes().chunks(76).map(|line| str::from_utf8(line).unwrap()).collect();
    for inputs in
        [plain.clone(), lines.join("\n") + "\n", format!("data:application/octet-stream;base64,{plain}")]
    {
        let request = Request::post(&query).header("content-type", "tensor/base64");
        let reply = server.send(request.body(json!({"inputs": inputs}).to_string().into()).unwrap()).await;
        assert_eq!(reply.content("tensor/binary"), &*expected, "{inputs}");
    }
}

/// The header that axios and Angular send with every request.
#[tokio::test]
async fn a_picture_is_a_picture_for_axios() {
    let server = server().await;
    let accept = "application/json, text/plain, */*";
    let uri = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pil";
    server.post(uri, accept, vec![0; 4]).await.content("image/jpeg");
    server.post(&format!("{uri}&image_format=png"), accept, vec![0; 4]).await.content("image/png");
    server.post(&format!("{uri}&image_format=jpeg"), accept, vec![0; 4]).await.content("image/jpeg");
    server.post(uri, "application/json", vec![0; 4]).await.content("application/json");
}

#[tokio::test]
async fn empty_segments_of_a_path_do_not_count() {
    let keys = vec!["0123456789abcdef".parse().unwrap()];
    let locked = AccessConfig { keys, ..AccessConfig::default() };
    let locked =
        TestServer::open(Config { access: locked, ..Config::default() }, vec![model("fake", info()).0]).await;
    let server = server().await;
    let query = "dtype=uint8&shape=[1,4,1,1]&output_type=pt";
    for (path, side) in [
        ("//", 2),
        ("//fake", 2),
        ("/wide//", 3),
        ("//wide", 3),
        ("//wide//predict//", 3),
        ("//predict", 2),
        ("/?model=wide&x=a//b", 3),
    ] {
        let sign = if path.contains('?') { '&' } else { '?' };
        let reply = server.post(&format!("{path}{sign}{query}"), "", vec![0; 4]).await;
        reply.content("tensor/binary");
        assert_eq!(reply.header("shape"), format!("[1, 3, {side}, {side}]"), "{path}");
        assert_eq!(locked.post(&format!("{path}{sign}{query}"), "", vec![0; 4]).await.status, 401, "{path}");
    }
    for path in ["//health", "/ready//", "//"] {
        assert_eq!(server.get(path).await.body, "Ok", "{path}");
        assert_eq!(locked.get(path).await.body, "Ok", "{path}");
    }
    server.get("//models").await.content("application/json");
    locked.get("//models").await.error(401);
    for path in ["//fake", "/fake//"] {
        let request = Request::builder().method(Method::GET).uri(path).body(Body::empty()).unwrap();
        assert_eq!(server.send(request).await.header("allow"), "POST");
    }
    server.post(&format!("//a//b?{query}"), "", vec![0; 4]).await.error(404);
}

#[tokio::test]
async fn a_key_that_is_nearly_one_is_named() {
    let server = server().await;
    let uri = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";
    let warnings = |reply: &Reply| -> Vec<String> {
        reply.headers.get_all("x-warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let reply = server.post(&format!("{uri}&scaling_facto=2&doScaling=True"), "", vec![0; 4]).await;
    reply.content("tensor/binary");
    assert_eq!(
        warnings(&reply),
        [
            "`scaling_facto` has no meaning here: did you mean `scaling_factor`?",
            "`doScaling` has no meaning here: did you mean `do_scaling`?"
        ]
    );
    // Also where it is the reason of a refusal.
    let reply = server.post("/?dtpye=uint8&shape=[1,4,1,1]", "", vec![0; 4]).await;
    reply.error(400);
    assert_eq!(warnings(&reply), ["`dtpye` has no meaning here: did you mean `dtype`?"]);
    // Keys of other clients have no meaning either, but nobody mistook them.
    let reply = server
        .post(
            &format!("{uri}&input_tensor_type=binary&output_tensor_type=binary&api_key=x&_=1"),
            "",
            vec![0; 4],
        )
        .await;
    assert!(warnings(&reply).is_empty(), "{reply:?}");
    let parameters = json!({"shape": [1, 4, 1, 1], "dtype": "uint8", "imageFormat": "png"});
    let reply = json(&server, "/?do_scalin=False", "application/json", parameters).await;
    reply.content("image/jpeg");
    assert_eq!(warnings(&reply).len(), 2, "{reply:?}");

    // A page of another site can read it.
    let cors_origins = vec!["https://example.org".to_owned()];
    let access = AccessConfig { cors_origins, ..AccessConfig::default() };
    let server =
        TestServer::open(Config { access, ..Config::default() }, vec![model("fake", info()).0]).await;
    let request = Request::post(format!("{uri}&doScaling=False"))
        .header("origin", "https://example.org")
        .header("content-type", "tensor/binary");
    let reply = server.send(request.body(vec![0; 4].into()).unwrap()).await;
    assert_eq!(reply.header("access-control-expose-headers"), "*");
}

/// SD.Next, which its key `input_tensor_type` tells, opens the body of an answer as one picture.
#[tokio::test]
async fn sd_next_gets_the_first_picture_of_a_batch() {
    let (fake, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![fake]).await;
    let latents: Vec<u8> = (0..32).collect();
    let post = async |shape: &str, more: &str, accept: &str| {
        let uri = format!("/?dtype=uint8&shape={shape}&scaling_factor=20{more}");
        server.post(&uri, accept, latents.clone()).await
    };
    let one = server
        .post("/?dtype=uint8&shape=[1,4,2,2]&scaling_factor=20", "image/png", latents[..16].to_vec())
        .await;
    let first = post("[2,4,2,2]", "&input_tensor_type=binary&output_type=pil", "image/png").await;
    assert_eq!(first.content("image/png"), one.content("image/png"));
    assert!(first.header("x-warning").contains("the batch has 2 pictures and this is the first"));

    // Packed, as it sends what a Flux pipeline gives it.
    let packed = "&height=4&width=4&input_tensor_type=binary&output_type=pil";
    let one = server
        .post(
            "/?dtype=uint8&shape=[1,1,16]&scaling_factor=20&height=4&width=4",
            "image/jpeg",
            latents[..16].to_vec(),
        )
        .await;
    let first = post("[2,1,16]", packed, "image/jpeg").await;
    assert_eq!(first.content("image/jpeg"), one.content("image/jpeg"));

    // One item is one item, and who can read more gets more or is told.
    let single = post("[4,2,4]", "&input_tensor_type=binary", "image/png").await;
    single.content("image/png");
    assert!(!single.headers.contains_key("x-warning"));
    let raw = post("[2,4,2,2]", "&input_tensor_type=binary&output_type=pt", "tensor/binary").await;
    raw.content("tensor/binary");
    assert_eq!(raw.header("shape"), "[2, 3, 4, 4]");
    post("[2,4,2,2]", "&input_tensor_type=binary", "application/zip").await.content("application/zip");
    let before = handle.started();
    assert!(post("[2,4,2,2]", "", "image/png").await.error(422).contains("2 pictures"));
    assert_eq!(handle.started(), before);
}
