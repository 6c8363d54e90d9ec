//! Answers that begin with a preview.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;
use vae::latents::{LatentFormat, Normalization, Scaling};
use vae::{HostTensor, VaeInfo};

use super::fake::{FAIL, Handle, enlarged, info, model};
use super::{Reply, TestServer, tensor_request};
use crate::{Config, Model};

/// A tiny model of the same latents, which takes them as pipelines have them.
fn tiny() -> VaeInfo {
    let latents = LatentFormat { normalization: Normalization::Identity, ..LatentFormat::default() };
    VaeInfo { latents, ..info() }
}

async fn server() -> (TestServer, [Handle; 2]) {
    let ((exact, of_exact), (small, of_small)) = (model("exact", info()), model("small", tiny()));
    let exact = Model { preview: Some("small".to_owned()), ..exact };
    (TestServer::open(Config::default(), vec![exact, small]).await, [of_exact, of_small])
}

fn latents() -> HostTensor {
    HostTensor::new(vec![1, 4, 1, 2], (0..8).map(|i| i as f32 / 8.0 - 0.5).collect())
}

fn bytes(latents: &HostTensor) -> Vec<u8> {
    latents.data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

const URI: &str = "/exact?preview=tiny&output_type=pt&out_dtype=float32&shape=[1,4,1,2]&dtype=float32";

/// The parts of a body: their heads and their bodies.
fn parts(content_type: &str, mut body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let boundary = content_type.strip_prefix("multipart/x-mixed-replace; boundary=").unwrap();
    let mut parts = Vec::new();
    loop {
        body = body.strip_prefix(format!("--{boundary}").as_bytes()).expect("a boundary");
        if body == b"--\r\n" {
            return parts;
        }
        let end = body.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(body[2..end].to_vec()).unwrap();
        let length: usize = line(&head, "content-length").parse().unwrap();
        body = &body[end + 4..];
        parts.push((head, body[..length].to_vec()));
        body = body[length..].strip_prefix(b"\r\n").unwrap();
    }
}

#[track_caller]
fn line<'a>(head: &'a str, name: &str) -> &'a str {
    let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {name} in {head}"))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn read(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    assert_eq!(reply.status, 200, "{reply:?}");
    parts(reply.header("content-type"), &reply.body)
}

#[tokio::test]
async fn a_preview_comes_before_the_picture() {
    let (server, _) = server().await;
    let of_pipeline = latents();
    let mut of_model = of_pipeline.clone();
    Scaling::Model.apply(&mut of_model, &info()).unwrap();
    // Whichever of the two a client sends, each model gets its own.
    for (sent, scaling) in [
        (&of_pipeline, "&do_scaling=True"),
        (&of_pipeline, "&scaling_factor=0.5&shift_factor=0.125"),
        (&of_model, ""),
    ] {
        let reply = server.post(&format!("{URI}{scaling}"), "tensor/binary", bytes(sent)).await;
        let parts = read(&reply);
        assert_eq!(parts.len(), 2, "{scaling}");
        for ((head, body), latents) in parts.iter().zip([&of_pipeline, &of_model]) {
            assert_eq!(line(head, "content-type"), "tensor/binary");
            assert_eq!(line(head, "shape"), "[1, 3, 2, 4]");
            assert!(line(head, "server-timing").starts_with("queue;"));
            assert_eq!(floats(body), enlarged(latents, &info()).data, "{scaling}");
        }
    }
    // Pictures too, and without `preview` there is one answer.
    let uri = "/exact?preview=tiny&image_format=png&do_scaling=True&shape=[1,4,1,2]&dtype=float32";
    let parts = read(&server.post(uri, "*/*", bytes(&of_pipeline)).await);
    for (head, body) in &parts {
        assert_eq!(line(head, "content-type"), "image/png");
        assert!(body.starts_with(b"\x89PNG"));
    }
    assert_eq!(parts.len(), 2);
    let one = server.post(&URI.replace("preview=tiny&", ""), "tensor/binary", bytes(&of_model)).await;
    assert_eq!(floats(one.content("tensor/binary")), enlarged(&of_model, &info()).data);
}

#[tokio::test]
async fn a_preview_does_not_wait_for_the_picture() {
    let (server, [of_exact, of_small]) = server().await;
    of_exact.hold();
    let request = tensor_request(URI, "tensor/binary", bytes(&latents()));
    let response = server.router.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body();
    let mut seen = Vec::new();
    while seen.len() < 96 {
        seen.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!((of_small.finished(), of_exact.finished()), (1, 0));
    of_exact.let_go();
    body.collect().await.unwrap();
    assert_eq!(of_exact.finished(), 1);
}

#[tokio::test]
async fn a_client_that_has_seen_enough_gives_the_picture_up() {
    let (server, [of_exact, _]) = server().await;
    of_exact.hold();
    let request = tensor_request(URI, "tensor/binary", bytes(&latents()));
    let mut body = server.router.clone().oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    server.until(|_| of_exact.started() == 1).await;
    drop(body);
    server.until(|app| app.service().is_idle()).await;
    assert_eq!(of_exact.finished(), 0);
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let (server, _) = server().await;
    // Before the first part, as in any other answer.
    let error = server.post(&URI.replace("[1,4,1,2]", "[1,5,1,2]"), "", vec![0; 40]).await.error(422);
    assert!(error.contains("[1, 5, 1, 2]"), "{error}");
    let error = server.post(&URI.replace("/exact", "/small"), "", bytes(&latents())).await.error(422);
    assert!(error.contains("\"small\" has no preview") && error.contains("--preview"), "{error}");
    let error = server.post(&URI.replace("tiny", "large"), "", bytes(&latents())).await.error(400);
    assert!(error.contains("must be tiny"), "{error}");
    // After it, as a part: the first latent makes the exact model fail, and as the pipeline has it not the tiny one.
    let mut failing = latents();
    failing.data[0] = FAIL;
    let parts = read(&server.post(URI, "tensor/binary", bytes(&failing)).await);
    let [(_, _), (head, body)] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    assert_eq!((line(head, "status"), line(head, "content-type")), ("500", "application/json"));
    assert!(String::from_utf8_lossy(body).starts_with("{\"error\":"));
    // A preview that fails is left out.
    failing.data[0] = (FAIL - 0.125) / 0.5;
    let parts = read(
        &server
            .post(
                &format!("{URI}&do_scaling=True"),
                "tensor/binary",
                bytes(&HostTensor { data: [&[FAIL], &latents().data[1..]].concat(), ..failing }),
            )
            .await,
    );
    assert_eq!(parts.len(), 1);
    assert_eq!(line(&parts[0].0, "content-type"), "tensor/binary");
}

#[tokio::test]
async fn the_list_of_models_says_which_have_previews() {
    let (server, _) = server().await;
    let request = Request::get("/models").body(Body::empty()).unwrap();
    let reply = server.send(request).await;
    let list: serde_json::Value = serde_json::from_slice(reply.content("application/json")).unwrap();
    assert_eq!(list["models"][0]["preview"], "small");
    assert_eq!(list["models"][1].get("preview"), None);
    for preview in ["exact", "missing"] {
        let exact = Model { preview: Some(preview.to_owned()), ..model("exact", info()).0 };
        let error = crate::app::App::new(&Config::default(), vec![exact]).err().unwrap().to_string();
        assert!(error.contains("previews of \"exact\""), "{error}");
    }
}
