//! What an encode answers, for pictures in every form.

use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use half::f16;
use media::Channels::Rgb;
use vae::latents::{LatentFormat, Normalization, Scaling};
use vae::{DiagonalGaussianDistribution, HostTensor, VaeInfo};

use super::fake::{info, model, moments};
use super::{Reply, TestServer};
use crate::Config;

async fn server() -> TestServer {
    TestServer::open(Config::default(), vec![model("fake", info()).0]).await
}

/// Sends `body` with this content type, if any.
pub(super) async fn post(
    server: &TestServer,
    uri: &str,
    content_type: Option<&str>,
    body: impl Into<Body>,
) -> Reply {
    let mut request = Request::post(uri);
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    server.send(request.body(body.into()).unwrap()).await
}

/// Pixels of a picture of this size, `[height, width, 3]`.
fn rgb(width: usize, height: usize) -> Vec<u8> {
    (0..width * height * 3).map(|index| (index * 37 % 251) as u8).collect()
}

/// What the model finds most likely for pixels `[B, 3, H, W]` or `[B, 3, F, H, W]` in [-1, 1].
pub(super) fn mode(pixels: HostTensor, info: &VaeInfo) -> HostTensor {
    DiagonalGaussianDistribution::new(moments(&pixels, info)).mode()
}

/// The same for the pixels of a picture.
fn mode_of_rgb(width: usize, height: usize) -> HostTensor {
    mode(
        HostTensor::new(vec![1, 3, height, width], media::planes_from_pixels(&rgb(width, height), Rgb)),
        &info(),
    )
}

fn halves(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| f16::from_f32(value).to_f32()).collect()
}

/// The latents of a binary answer in float16.
#[track_caller]
pub(super) fn latents(reply: &Reply) -> HostTensor {
    let body = reply.content("tensor/binary");
    assert_eq!(reply.header("dtype"), "float16");
    let shape = serde_json::from_str(reply.header("shape")).unwrap();
    HostTensor::new(shape, body.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect())
}

#[track_caller]
pub(super) fn assert_latents(reply: &Reply, expected: &HostTensor) {
    let latents = latents(reply);
    assert_eq!((latents.shape, latents.data), (expected.shape.clone(), halves(&expected.data)));
}

#[tokio::test]
async fn a_picture_file_in_every_wrapping() {
    let server = server().await;
    let expected = mode_of_rgb(6, 4);
    let png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    for path in ["/", "/predict", "/fake", "/fake/", "/fake/predict"] {
        let uri = format!("{path}?sample_mode=argmax&model=fake");
        for content_type in
            [None, Some("application/octet-stream"), Some("image/png"), Some("image/whatever")]
        {
            let reply = post(&server, &uri, content_type, png.clone()).await;
            assert_latents(&reply, &expected);
            assert!(!reply.headers.contains_key("seed"));
        }
    }
    let json = serde_json::json!({"inputs": BASE64_STANDARD.encode(&png)}).to_string();
    let uri = "/?task=encode&sample_mode=argmax";
    assert_latents(&post(&server, uri, Some("tensor/base64"), json).await, &expected);
    // The first generation gets latents as a pipeline has them: (x - shift) * scale of the model.
    let parameters = serde_json::json!({"sample_mode": "argmax"});
    let json =
        serde_json::json!({"inputs": BASE64_STANDARD.encode(&png), "parameters": parameters}).to_string();
    let mut scaled = expected.clone();
    scaled.data.iter_mut().for_each(|x| *x = (*x - 0.125) * 0.5);
    assert_latents(&post(&server, "/", Some("application/json"), json).await, &scaled);
}

#[tokio::test]
async fn files_of_every_format_are_told_by_their_bytes() {
    let server = server().await;
    for file in
        [media::encode_jpeg(&rgb(6, 4), 6, 4, 90).unwrap(), media::encode_webp(&rgb(6, 4), 6, 4, 90).unwrap()]
    {
        let pixels = media::ImageFile::open(&file).unwrap().decode(Rgb).unwrap().pixels;
        let expected =
            mode(HostTensor::new(vec![1, 3, 4, 6], media::planes_from_pixels(&pixels, Rgb)), &info());
        assert_latents(&post(&server, "/?sample_mode=argmax", None, file).await, &expected);
    }
}

#[tokio::test]
async fn odd_sizes_are_brought_to_whole_latents() {
    let server = server().await;
    let image = media::Image { width: 7, height: 5, channels: Rgb, pixels: rgb(7, 5) };
    let pixels = media::planes_from_pixels(&media::resize_lanczos(image, 6, 4).pixels, Rgb);
    let png = media::encode_png(&rgb(7, 5), 7, 5).unwrap();
    let reply = post(&server, "/?sample_mode=argmax", None, png).await;
    assert_latents(&reply, &mode(HostTensor::new(vec![1, 3, 4, 6], pixels), &info()));

    // A tensor takes the nearest values: rows 0, 1, 2, 3 of 5 and columns 0, 1, 2, 3, 4, 5 of 7.
    let values: Vec<f32> = (0..105).map(|value| value as f32 / 128.0 - 0.5).collect();
    let cut = media::resize_nearest(&values, (5, 7), (4, 6));
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let uri = "/?sample_mode=argmax&dtype=float32&shape=1&shape=3&shape=5&shape=7";
    let reply = post(&server, uri, None, bytes).await;
    assert_latents(&reply, &mode(HostTensor::new(vec![1, 3, 4, 6], cut), &info()));
}

#[tokio::test]
async fn the_moments_of_pixels_as_the_encoder_takes_them() {
    let server = server().await;
    // All above 0: a picture in [-1, 1] that is bright everywhere.
    let pixels: Vec<f32> = (0..48).map(|value| value as f32 / 64.0).collect();
    let body: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let uri = "/?task=encode&sample_mode=moments&dtype=float32";
    let reply = post(&server, &format!("{uri}&shape=[2,3,2,4]"), None, body.clone()).await;
    let expected = moments(&HostTensor::new(vec![2, 3, 2, 4], pixels), &info());
    assert_eq!(expected.shape[1], 2 * info().latent_channels);
    assert_latents(&reply, &expected);
    assert!(!reply.headers.contains_key("seed"));

    // Bytes and files say what they mean, as ever.
    let bytes: Vec<u8> = rgb(4, 2);
    let planes = media::planes_from_pixels(&bytes, Rgb);
    let expected = moments(&HostTensor::new(vec![1, 3, 2, 4], planes.clone()), &info());
    let png = media::encode_png(&bytes, 4, 2).unwrap();
    assert_latents(&post(&server, "/?sample_mode=moments", None, png).await, &expected);
    let planar: Vec<u8> = planes.iter().map(|value| ((value + 1.0) * 127.5).round() as u8).collect();
    let uint8 = "/?task=encode&sample_mode=moments&dtype=uint8&shape=[1,3,2,4]";
    assert_latents(&post(&server, uint8, None, planar).await, &expected);

    // Nothing is resized or scaled.
    let error = post(&server, &format!("{uri}&shape=[2,3,8,1]"), None, body.clone()).await.error(422);
    assert!(error.contains("no whole latent"), "{error}");
    let error =
        post(&server, &format!("{uri}&shape=[1,3,2,8]&scaling_factor=2"), None, body).await.error(400);
    assert!(error.contains("not scaled"), "{error}");
    let odd = vec![0; 4 * 3 * 3 * 4];
    let error = post(&server, &format!("{uri}&shape=[1,3,3,4]"), None, odd).await.error(422);
    assert!(error.contains("multiples of 2, but they are 3 x 4"), "{error}");
    // In JSON of the first generation, whose latents are scaled unless it says otherwise, moments are not.
    let json = serde_json::json!({
        "inputs": BASE64_STANDARD.encode(media::encode_png(&bytes, 4, 2).unwrap()),
        "parameters": {"sample_mode": "moments"},
    });
    assert_latents(&post(&server, "/", Some("application/json"), json.to_string()).await, &expected);
}

#[tokio::test]
async fn tensors_in_every_form() {
    let server = server().await;
    let unit: Vec<f32> = (0..24).map(|value| value as f32 / 32.0).collect();
    let full: Vec<f32> = unit.iter().map(|value| 2.0 * value - 1.0).collect();
    let of = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    };
    let expected = mode(HostTensor::new(vec![2, 3, 2, 2], full.clone()), &info());
    let uri = "/?sample_mode=argmax&dtype=float16&shape=[2,3,2,2]";
    // Values from 0 to 1 are spread, others are taken as they are.
    assert_latents(&post(&server, uri, None, of(&unit)).await, &expected);
    assert_latents(&post(&server, uri, Some("application/octet-stream"), of(&full)).await, &expected);
    // With a content type that names a tensor, it must be said that it is no latent.
    let named = format!("{uri}&task=encode");
    assert_latents(&post(&server, &named, Some("tensor/binary"), of(&full)).await, &expected);
    post(&server, uri, Some("tensor/binary"), of(&full)).await.error(422);
    let json = serde_json::json!({"inputs": BASE64_STANDARD.encode(of(&full))}).to_string();
    assert_latents(&post(&server, &named, Some("tensor/base64"), json).await, &expected);
    // One picture without its batch, as bytes.
    let one = "/?sample_mode=argmax&dtype=uint8&shape=[3,2,2]";
    let bytes: Vec<u8> = (0..12).map(|value| value * 20).collect();
    let values = bytes.iter().map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0).collect();
    let expected = mode(HostTensor::new(vec![1, 3, 2, 2], values), &info());
    assert_latents(&post(&server, one, None, bytes).await, &expected);
}

/// The values of an RGBA picture and of the RGB that Pillow's `convert("RGB")` makes of it: the same without alpha.
fn rgba(batch: usize, side: usize) -> [Vec<f32>; 2] {
    let area = side * side;
    let value = |index: usize| (index * 37 % 251) as f32 / 256.0;
    let item = |item: usize, channels: usize| (0..channels * area).map(move |at| value(item * 7 + at));
    [4, 3].map(|channels| (0..batch).flat_map(|index| item(index, channels)).collect())
}

pub(super) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test]
async fn an_rgba_picture_is_encoded_from_its_rgb() {
    let server = server().await;
    for (shape, batch) in [("[1,4,6,6]", 1), ("[4,6,6]", 1), ("[2,4,6,6]", 2)] {
        let [values, rgb] = rgba(batch, 6);
        let rgb = rgb.iter().map(|value| 2.0 * value - 1.0).collect();
        let uri = format!("/?sample_mode=argmax&dtype=float32&shape={shape}&task=encode");
        let reply = post(&server, &uri, None, f32_bytes(&values)).await;
        assert_latents(&reply, &mode(HostTensor::new(vec![batch, 3, 6, 6], rgb), &info()));
        assert!(reply.header("x-warning").contains("fourth channel"), "{reply:?}");
    }
    // What can be three channels is.
    let bytes = vec![9; 4 * 3 * 4 * 4];
    let reply = post(&server, "/?dtype=uint8&shape=[4,3,4,4]&task=encode", None, bytes).await;
    assert_eq!(latents(&reply).shape, [4, 4, 2, 2]);
    assert!(!reply.headers.contains_key("x-warning"));

    let video = VaeInfo { temporal_factor: Some(4), ..info() };
    let server = TestServer::open(Config::default(), vec![model("fake", video.clone()).0]).await;
    let values: Vec<f32> = (0..4 * 5 * 4).map(|value| value as f32 / 64.0 - 0.5).collect();
    let expected = mode(HostTensor::new(vec![1, 3, 5, 2, 2], values[..60].to_vec()), &video);
    let uri = "/?sample_mode=argmax&dtype=float32&shape=[1,4,5,2,2]&task=encode";
    assert_latents(&post(&server, uri, None, f32_bytes(&values)).await, &expected);
}

/// `remote_encode` sends a tensor without a content type, so that one of four channels may be RGBA or latents.
#[tokio::test]
async fn a_picture_of_four_channels_is_not_taken_for_latents() {
    let other = VaeInfo { latent_channels: 16, ..info() };
    let decoder = VaeInfo { latent_channels: 16, can_encode: false, ..info() };
    let models = vec![model("fake", info()).0, model("other", other).0, model("decoder", decoder).0];
    let server = TestServer::open(Config::default(), models).await;
    let [unit, _] = rgba(1, 80);
    let full: Vec<f32> = unit.iter().map(|value| 2.0 * value - 1.0).collect();
    let bytes: Vec<f32> = unit.iter().map(|value| 255.0 * value).collect();
    let latents: Vec<f32> = unit.iter().map(|value| 8.0 * value - 4.0).collect();
    let uri = "/?scaling_factor=0.5&dtype=float32&shape=1&shape=4&shape=80&shape=80";
    for picture in [&unit, &full, &bytes] {
        for content_type in [None, Some("application/octet-stream")] {
            let error = post(&server, uri, content_type, f32_bytes(picture)).await.error(422);
            for says in ["160 x 160", "RGBA picture of 80 x 80", "task=decode", "task=encode"] {
                assert!(error.contains(says), "{error}");
            }
        }
    }
    let error = post(&server, "/?dtype=uint8&shape=[4,80,80]", None, vec![7; 4 * 80 * 80]).await.error(422);
    assert!(error.contains("two ways"), "{error}");

    // Latents are decoded, and whatever says what it is.
    post(&server, uri, None, f32_bytes(&latents)).await.content("image/jpeg");
    post(&server, &format!("{uri}&task=decode"), None, f32_bytes(&unit)).await.content("image/jpeg");
    post(&server, &format!("{uri}&image_format=png"), None, f32_bytes(&unit)).await.content("image/png");
    post(&server, uri, Some("tensor/binary"), f32_bytes(&unit)).await.content("image/jpeg");
    post(&server, &format!("{uri}&task=encode"), None, f32_bytes(&unit)).await.content("tensor/binary");
    let small = "/?dtype=float32&shape=[1,4,32,32]";
    post(&server, small, None, vec![0; 4 * 4 * 32 * 32]).await.content("image/jpeg");

    // A model whose latents have other channels can take it for a picture only, but no latents of another model.
    let other = uri.replacen('/', "/other", 1);
    let reply = post(&server, &other, None, f32_bytes(&unit)).await;
    assert_eq!(self::latents(&reply).shape, [1, 16, 40, 40]);
    assert!(reply.header("x-warning").contains("fourth channel"));
    let text = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(text.contains("model=\"other\",task=\"encode\",output=\"tensor/binary\""), "{text}");
    let error = post(&server, &other, None, f32_bytes(&latents)).await.error(422);
    assert!(error.contains("[B, 16, h, w]"), "{error}");
    let error = post(&server, &uri.replacen('/', "/decoder", 1), None, f32_bytes(&unit)).await.error(422);
    assert!(error.contains("[B, 16, h, w]"), "{error}");
}

/// Where limits refuse it as latents, what else it may be is said as well.
#[tokio::test]
async fn latents_that_are_too_large_may_be_a_picture() {
    let limits = wire::Limits { max_pixels: 100 * 100, ..wire::Limits::default() };
    let server = TestServer::open(
        Config { service: service::Config { limits, ..service::Config::default() }, ..Config::default() },
        vec![model("fake", info()).0],
    )
    .await;
    let values: Vec<f32> = (0..4 * 80 * 80).map(|index| (index % 9) as f32 - 4.0).collect();
    let uri = "/?dtype=float32&shape=[1,4,80,80]";
    let error = post(&server, uri, None, f32_bytes(&values)).await.error(413);
    assert!(error.contains("160 x 160") && error.contains("RGBA picture of 80 x 80"), "{error}");
    let error = post(&server, uri, Some("tensor/binary"), f32_bytes(&values)).await.error(413);
    assert!(!error.contains("RGBA"), "{error}");
}

#[tokio::test]
async fn videos_and_stills_for_a_video_model() {
    let video = VaeInfo { temporal_factor: Some(4), ..info() };
    let server = TestServer::open(Config::default(), vec![model("fake", video.clone()).0]).await;
    let values: Vec<f32> = (0..60).map(|value| value as f32 / 64.0 - 0.5).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let expected = mode(HostTensor::new(vec![1, 3, 5, 2, 2], values), &video);
    assert_eq!(expected.shape, [1, 4, 2, 1, 1]);
    let uri = "/?sample_mode=argmax&dtype=float16";
    assert_latents(&post(&server, &format!("{uri}&shape=[1,3,5,2,2]"), None, bytes.clone()).await, &expected);
    assert_latents(
        &post(&server, &format!("{uri}&shape=[3,5,2,2]&task=encode"), None, bytes).await,
        &expected,
    );
    // Pictures of a batch are videos of one frame each.
    let values: Vec<f32> = (0..2 * 3 * 2 * 4).map(|value| value as f32 / 64.0 - 0.5).collect();
    let stills = mode(HostTensor::new(vec![2, 3, 1, 2, 4], values.clone()), &video);
    assert_eq!(stills.shape, [2, 4, 1, 1, 2]);
    for shape in ["[2,3,2,4]", "[2,3,1,2,4]"] {
        let uri = format!("/?sample_mode=argmax&dtype=float32&shape={shape}");
        assert_latents(&post(&server, &uri, None, f32_bytes(&values)).await, &stills);
    }
    let png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    let still = HostTensor::new(vec![1, 3, 1, 4, 6], media::planes_from_pixels(&rgb(6, 4), Rgb));
    assert_latents(&post(&server, "/?sample_mode=argmax", None, png).await, &mode(still, &video));
}

#[tokio::test]
async fn scaling_is_the_decodes_way_back() {
    let server = server().await;
    let png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    for (query, scale, shift) in [
        ("", 1.0, 0.0),
        ("&do_scaling=False", 1.0, 0.0),
        ("&scaling_factor=0.25", 0.25, 0.0),
        ("&scaling_factor=2&shift_factor=-0.5", 2.0, -0.5),
        ("&do_scaling=True", 0.5, 0.125),
    ] {
        let mut expected = mode_of_rgb(6, 4);
        expected.data.iter_mut().for_each(|x| *x = (*x - shift) * scale);
        let reply = post(&server, &format!("/?sample_mode=argmax{query}"), None, png.clone()).await;
        assert_latents(&reply, &expected);
    }
}

#[tokio::test]
async fn a_seed_repeats_and_without_one_it_is_told() {
    let server = server().await;
    let png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    let pixels = HostTensor::new(vec![1, 3, 4, 6], media::planes_from_pixels(&rgb(6, 4), Rgb));
    let expected = DiagonalGaussianDistribution::new(moments(&pixels, &info())).sample(7);
    let reply = post(&server, "/?seed=7", None, png.clone()).await;
    assert_eq!(reply.header("seed"), "7");
    assert_latents(&reply, &expected);

    let (one, other) =
        (post(&server, "/", None, png.clone()).await, post(&server, "/", None, png.clone()).await);
    assert_ne!(one.body, other.body);
    let again = post(&server, &format!("/?seed={}", one.header("seed")), None, png).await;
    assert_eq!(one.body, again.body);
}

#[tokio::test]
async fn types_and_wrappings_of_the_answer() {
    let server = server().await;
    let png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    let expected = mode_of_rgb(6, 4);
    let reply = post(&server, "/?sample_mode=argmax&out_dtype=float32", None, png.clone()).await;
    let body = reply.content("tensor/binary");
    let values: Vec<f32> = body.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!((reply.header("dtype"), values), ("float32", expected.data));
    let binary = post(&server, "/?sample_mode=argmax", None, png.clone()).await;
    for accept in ["tensor/base64", "application/json"] {
        let request = Request::post("/?sample_mode=argmax").header("accept", accept);
        let reply = server.send(request.body(png.clone().into()).unwrap()).await;
        let tensor = wire::read_base64_answer(reply.content(accept)).unwrap();
        assert_eq!((tensor.bytes, tensor.head.shape_header()), (binary.body.clone(), "[1, 4, 2, 3]".into()));
    }
}

#[tokio::test]
async fn what_cannot_be_encoded() {
    let limits = wire::Limits { max_pixels: 100, max_batch: 2, ..wire::Limits::default() };
    let decoder = VaeInfo { can_encode: false, ..info() };
    let models = vec![model("fake", info()).0, model("decoder", decoder).0];
    let server = TestServer::open(
        Config { service: service::Config { limits, ..service::Config::default() }, ..Config::default() },
        models,
    )
    .await;
    let png = |width, height| media::encode_png(&rgb(width, height), width, height).unwrap();
    let mut damaged = png(6, 4);
    damaged.truncate(damaged.len() - 45);
    for (uri, body, status, says) in [
        ("/", b"GIF89a".to_vec(), 400, "PNG, JPEG or WebP"),
        ("/", Vec::new(), 400, "PNG, JPEG or WebP"),
        ("/", b"\x89PNG\r\n\x1a\n".to_vec(), 422, "PNG file is cut off"),
        ("/", damaged, 422, "PNG file is cut off"),
        ("/", png(1, 4), 422, "1 x 4 pixels"),
        ("/", png(11, 10), 413, "110 pixels"),
        ("/decoder", png(6, 4), 422, "decoder only"),
        ("/?seed=x", png(6, 4), 400, "`seed`"),
        ("/?shape=[3,3,2,2]&dtype=uint8", vec![0; 36], 413, "3 items"),
        ("/?shape=[1,5,2,2]&dtype=uint8&task=encode", vec![0; 20], 422, "[B, 3, H, W]"),
        ("/?shape=[1,3,2,2]&dtype=uint8", vec![0; 11], 400, "12"),
    ] {
        let error = post(&server, uri, None, body).await.error(status);
        assert!(error.contains(says), "{uri}: {error}");
    }
}

/// A file that is cut off has a part of its picture only, and would be encoded to other latents.
#[tokio::test]
async fn a_file_that_is_cut_off_is_refused() {
    let server = server().await;
    // Larger than what libjpeg looks ahead.
    let rgb = rgb(96, 64);
    for (file, format) in [
        (media::encode_jpeg(&rgb, 96, 64, 90).unwrap(), "JPEG"),
        (media::encode_png(&rgb, 96, 64).unwrap(), "PNG"),
        (media::encode_webp(&rgb, 96, 64, 90).unwrap(), "WebP"),
    ] {
        assert_latents(&post(&server, "/?sample_mode=argmax", None, file.clone()).await, &{
            let pixels = media::ImageFile::open(&file).unwrap().decode(Rgb).unwrap().pixels;
            mode(HostTensor::new(vec![1, 3, 64, 96], media::planes_from_pixels(&pixels, Rgb)), &info())
        });
        for percent in [30, 60, 90, 97] {
            let cut = file[..file.len() * percent / 100].to_vec();
            let error = post(&server, "/", None, cut).await.error(422);
            let expected = format!(
                "the {format} file is cut off, it ends before its picture does: copy or download it again"
            );
            assert_eq!(error, expected, "{percent} %");
        }
    }
}

/// Sizes that no memory could hold meet the limit, not the decoder.
#[tokio::test]
async fn the_largest_pictures_that_headers_can_promise_are_too_large() {
    let server = server().await;
    let mut png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    png[16..24].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]);
    let webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff".to_vec();
    for (file, size) in [(png, "2147483647 x 2147483647"), (webp, "16777216 x 16777216")] {
        let error = post(&server, "/", None, file).await.error(413);
        assert!(error.contains(size), "{error}");
    }
}

/// A small file with very many pixels is refused by its header.
#[tokio::test]
async fn an_image_bomb_does_not_go_off() {
    let server = server().await;
    // 50,000 x 50,000 pixels, one bit each: the header, and no pixels at all.
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 50_000, 50_000);
    encoder.set_depth(png::BitDepth::One);
    encoder.write_header().unwrap().write_chunk(png::chunk::IDAT, &[0; 64]).unwrap();
    let error = post(&server, "/", None, file).await.error(413);
    assert!(error.contains("50000 x 50000"), "{error}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_of_encoding() {
    let (fake, handle) = model("fake", info());
    let server = TestServer::open(Config::default(), vec![fake]).await;
    handle.hold();
    let router = server.router.clone();
    let png = media::encode_png(&rgb(6, 4), 6, 4).unwrap();
    let request = Request::post("/").body(Body::from(png)).unwrap();
    let running = tokio::spawn(tower::ServiceExt::oneshot(router, request));
    server.until(|_| handle.started() == 1).await;
    running.abort();
    server.until(|app| app.service().is_idle()).await;
    assert_eq!((handle.started(), handle.finished()), (1, 0));
    handle.let_go();
    let text = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(
        text.contains(
            "model=\"fake\",task=\"encode\",output=\"tensor/binary\",mode=\"exact\",status=\"499\"} 1"
        ),
        "{text}"
    );
}

/// FLUX.2's pipelines work with normalised patches of 2 x 2 latents, so that a picture has to be whole patches.
#[tokio::test]
async fn latents_in_patches_have_the_shape_of_patches() {
    let statistic = |from: f32| (0..16).map(|channel| from + channel as f32 / 8.0).collect::<Vec<_>>();
    let normalization = |plain_is_normalized| Normalization::BatchNorm {
        running_mean: statistic(-1.0),
        running_var: statistic(0.5),
        eps: 0.25,
        plain_is_normalized,
    };
    let with = |plain_is_normalized| VaeInfo {
        latents: LatentFormat {
            normalization: normalization(plain_is_normalized),
            ..LatentFormat::default()
        },
        ..info()
    };
    let (patches, plain) = (with(false), with(true));
    let models = vec![model("patches", patches.clone()).0, model("plain", plain.clone()).0];
    let server = TestServer::open(Config::default(), models).await;
    // One latent stands for 2 x 2 pixels, and a patch for 4 x 4.
    let image = media::Image { width: 11, height: 6, channels: Rgb, pixels: rgb(11, 6) };
    let png = media::encode_png(&image.pixels, 11, 6).unwrap();
    let expected = |width, height, info: &VaeInfo, scaling: Scaling| {
        let pixels = media::resize_lanczos(image.clone(), width, height).pixels;
        let planes = media::planes_from_pixels(&pixels, Rgb);
        let mut latents = mode(HostTensor::new(vec![1, 3, height, width], planes), info);
        scaling.undo(&mut latents, info).unwrap();
        latents
    };
    let uri = "/patches?sample_mode=argmax";
    let reply = post(&server, &format!("{uri}&do_scaling=True"), None, png.clone()).await;
    assert_eq!(reply.header("shape"), "[1, 16, 1, 2]");
    assert_latents(&reply, &expected(8, 4, &patches, Scaling::Model));
    // As they are, and moments, latents are no patches.
    let reply = post(&server, uri, None, png.clone()).await;
    assert_eq!(reply.header("shape"), "[1, 4, 3, 5]");
    assert_latents(&reply, &expected(10, 6, &patches, Scaling::Unchanged));
    let reply = post(&server, "/patches?sample_mode=moments", None, png.clone()).await;
    assert_eq!(reply.header("shape"), "[1, 8, 3, 5]");
    // Some pipelines have them normalised and unpacked.
    let reply = post(&server, "/plain?sample_mode=argmax&do_scaling=True", None, png).await;
    assert_eq!(reply.header("shape"), "[1, 4, 3, 5]");
    assert_latents(&reply, &expected(10, 6, &plain, Scaling::Model));

    // What comes back goes in again.
    let values: Vec<f32> = (0..32).map(|value| value as f32 / 16.0 - 1.0).collect();
    let query = "/patches?do_scaling=True&output_type=pt&dtype=float32&shape=[1,16,1,2]";
    let reply = post(&server, query, Some("tensor/binary"), f32_bytes(&values)).await;
    assert_eq!(reply.header("shape"), "[1, 3, 4, 8]");

    let small = media::encode_png(&rgb(11, 3), 11, 3).unwrap();
    let error = post(&server, &format!("{uri}&do_scaling=True"), None, small.clone()).await.error(422);
    assert!(error.contains("11 x 3 pixels has no whole patch of 2 x 2 latents"), "{error}");
    assert!(error.ends_with("stands for 4 x 4"), "{error}");
    assert_eq!(latents(&post(&server, uri, None, small).await).shape, [1, 4, 1, 5]);
}
