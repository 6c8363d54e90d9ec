//! Values that are no latents and no pixels.

use half::{bf16, f16};
use wire::DType;

use super::fake::{info, model};
use super::{Reply, TestServer};
use crate::Config;

/// Values such as latents have: both signs, up to 3.
fn latents() -> Vec<f32> {
    (0..4 * 8 * 8).map(|index| (index * 37 % 97) as f32 / 16.0 - 3.0).collect()
}

fn bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| match dtype {
            DType::Float16 => f16::from_f32(value).to_le_bytes().to_vec(),
            DType::BFloat16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            DType::Float32 => value.to_le_bytes().to_vec(),
            DType::Float64 => f64::from(value).to_le_bytes().to_vec(),
            DType::UInt8 => vec![value as u8],
        })
        .collect()
}

const FLOATS: [DType; 4] = [DType::Float16, DType::BFloat16, DType::Float32, DType::Float64];

async fn post(server: &TestServer, values: &[f32], dtype: DType, more: &str) -> Reply {
    let channels = values.len() / 64;
    let uri = format!("/?shape=[1,{channels},8,8]&dtype={dtype}&output_type=pt{more}");
    server.post(&uri, "", bytes(values, dtype)).await
}

#[tokio::test]
async fn latents_that_are_no_numbers_are_refused_with_where_they_are() {
    let (fake, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![fake]).await;
    for dtype in FLOATS {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = latents();
            values[200] = odd;
            values[255] = odd;
            let error = post(&server, &values, dtype, "").await.error(422);
            assert_eq!(
                error,
                "2 of the 256 values of the latents are NaN or infinite, the first at [0, 3, 1, 0], [0, 3, 7, 7]; the \
                 option --allow-non-finite lets them through"
            );
            // At the start of the body there is a known reason.
            values[1] = odd;
            let error = post(&server, &values, dtype, "").await.error(422);
            for says in [
                "3 of the 256",
                "[0, 0, 0, 1]",
                "freed",
                "diffusers 0.39.0 to 0.42.1",
                "latents.cpu().contiguous()",
            ] {
                assert!(error.contains(says), "{error}");
            }
        }
        post(&server, &latents(), dtype, "").await.content("tensor/binary");
    }
    assert_eq!(handle.started(), FLOATS.len(), "what is refused is not decoded");

    let allow = Config {
        service: service::Config { allow_non_finite: true, ..service::Config::default() },
        ..Config::default()
    };
    let server = TestServer::open(allow, vec![model("fake", info()).0]).await;
    post(&server, &[f32::NAN; 256], DType::Float16, "").await.content("tensor/binary");
    post(&server, &[1.0; 256], DType::Float32, "&scaling_factor=1e-39").await.content("tensor/binary");
}

#[tokio::test]
async fn every_way_to_send_them_is_looked_at() {
    let server = TestServer::open(Config::default(), vec![model("fake", info()).0]).await;
    let mut values = latents();
    values[100] = f32::NAN;
    let tensor = wire::Tensor::new(DType::Float32, vec![1, 4, 8, 8], bytes(&values, DType::Float32).into());
    let json = wire::write_base64_answer(&tensor.unwrap());
    for content_type in ["application/json", "tensor/base64"] {
        let request =
            axum::http::Request::post("/?shape=[1,4,8,8]&dtype=float32").header("content-type", content_type);
        let error = server.send(request.body(json.clone().into()).unwrap()).await.error(422);
        assert!(
            error.starts_with("1 of the 256 values of the latents is NaN or infinite, at [0, 1, 4, 4]"),
            "{error}"
        );
    }
    let request = axum::http::Request::post("/?shape=[1,4,8,8]&dtype=float32");
    let error = server.send(request.body(bytes(&values, DType::Float32).into()).unwrap()).await.error(422);
    assert!(error.contains("latents"), "{error}");
}

#[tokio::test]
async fn pixels_that_are_no_numbers_are_refused() {
    let (fake, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![fake]).await;
    let mut values = vec![0.5; 3 * 64];
    values[64] = f32::NAN;
    for dtype in FLOATS {
        let error = post(&server, &values, dtype, "&task=encode").await.error(422);
        assert!(
            error.starts_with("1 of the 192 values of the pixels is NaN or infinite, at [0, 1, 0, 0]"),
            "{error}"
        );
    }
    values[0] = f32::INFINITY;
    let error = post(&server, &values, DType::Float32, "&task=encode").await.error(422);
    assert!(error.contains("image.cpu().contiguous()"), "{error}");
    assert_eq!(handle.started(), 0);
}

#[tokio::test]
async fn a_start_that_cannot_be_right_is_decoded_and_told_of() {
    let server = TestServer::open(Config::default(), vec![model("fake", info()).0]).await;
    for dtype in FLOATS {
        let mut values = latents();
        values[2] = 30000.0;
        let reply = post(&server, &values, dtype, "").await;
        reply.content("tensor/binary");
        let warning = reply.header("x-warning");
        for says in ["first 64 values of the latents", "up to 3e0", "latents.cpu().contiguous()"] {
            assert!(warning.contains(says), "{warning}");
        }
        let ordinary = post(&server, &latents(), dtype, "").await;
        assert!(!ordinary.headers.contains_key("x-warning"), "{ordinary:?}");
    }
    let mut pixels = vec![0.0; 3 * 64];
    pixels[..8].fill(1.0);
    let reply = post(&server, &pixels, DType::Float32, "&task=encode").await;
    assert!(!reply.headers.contains_key("x-warning"), "a black picture may begin with white");
    pixels[0] = 3e20;
    let reply = post(&server, &pixels, DType::Float32, "&task=encode").await;
    reply.content("tensor/binary");
    assert!(reply.header("x-warning").contains("image.cpu().contiguous()"));
}

#[tokio::test]
async fn latents_that_become_infinite_by_their_factor_are_refused() {
    let (fake, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![fake]).await;
    let error = post(&server, &latents(), DType::Float16, "&scaling_factor=1e-39").await.error(422);
    assert_eq!(
        error,
        "the latents go up to 3e0 and become infinite when they are scaled with `scaling_factor` 1e-39; the option \
         --allow-non-finite lets them through"
    );
    let error = post(&server, &[3e38; 256], DType::Float32, "&do_scaling=True").await.error(422);
    assert!(error.contains("5e-1"), "the model's own: {error}");
    assert_eq!(handle.started(), 0);
    post(&server, &latents(), DType::Float16, "&scaling_factor=1e-37").await.content("tensor/binary");
}

#[tokio::test]
async fn float64_is_taken_as_the_model_takes_it() {
    let server = TestServer::open(Config::default(), vec![model("fake", info()).0]).await;
    let single = post(&server, &latents(), DType::Float32, "&out_dtype=float32").await;
    let double = post(&server, &latents(), DType::Float64, "&out_dtype=float32").await;
    assert_eq!(double.content("tensor/binary"), single.content("tensor/binary"));
    let named = "/?shape=[1,4,8,8]&dtype=torch.float64&output_type=pt&out_dtype=torch.float32";
    let torch = server.post(named, "", bytes(&latents(), DType::Float64)).await;
    assert_eq!(torch.content("tensor/binary"), &*single.body);
    assert!(
        post(&server, &latents(), DType::Float64, "&out_dtype=float64").await.error(400).contains("float64")
    );
}
