//! Models of pictures with alpha: what they decode to, and what they encode.

use media::Channels::{Rgb, Rgba};
use media::{Image, ImageFile};
use vae::{HostTensor, VaeInfo};

use super::answers::{bytes, latents, round8, rounded, shape_query, tensor, unit};
use super::encode::{assert_latents, f32_bytes, mode, post};
use super::fake::{self, enlarged, model, moments};
use super::{Reply, TestServer};
use crate::Config;

fn info() -> VaeInfo {
    VaeInfo { out_channels: 4, latent_channels: 5, ..fake::info() }
}

async fn server(info: VaeInfo) -> TestServer {
    TestServer::open(Config::default(), vec![model("fake", info).0]).await
}

/// The pixels of a picture file.
#[track_caller]
fn pixels(file: &[u8]) -> Image {
    let file = ImageFile::open(file).unwrap();
    assert_eq!(file.channels(), Rgba);
    file.decode(Rgba).unwrap()
}

fn as_bytes(values: &HostTensor) -> Vec<u8> {
    values.data.iter().map(|&value| value as u8).collect()
}

#[tokio::test]
async fn pictures_have_alpha_in_all_answers_that_can_hold_it() {
    let server = server(info()).await;
    let input = latents(&[1, 5, 8, 9]);
    let decoded = enlarged(&input, &info());
    let expected = as_bytes(&round8(&decoded));
    let base = format!("/?dtype=float32{}", shape_query(&input.shape));
    let post = async |query: &str, accept: &str| -> Reply {
        server.post(&format!("{base}{query}"), accept, bytes(&input, "float32")).await
    };

    let reply = post("&image_format=png", "").await;
    let png = pixels(reply.content("image/png"));
    assert_eq!((png.width, png.height), (18, 16));
    assert!(png.pixels == expected);
    assert_eq!(post("", "image/png").await.body, reply.body);

    let reply = post("&image_format=webp", "").await;
    let webp = pixels(reply.content("image/webp"));
    let alpha = |pixels: &[u8]| pixels.iter().skip(3).step_by(4).copied().collect::<Vec<_>>();
    assert!(alpha(&webp.pixels) == alpha(&expected), "alpha is kept without loss");
    assert!(reply.body == media::encode_webp(&expected, 18, 16, 80).unwrap());

    for (query, out, expected) in [
        ("&output_type=pt", "float16", decoded.clone()),
        ("&output_type=pt&out_dtype=float32", "float32", decoded.clone()),
        ("&output_type=pt&partial_postprocess=True", "uint8", round8(&decoded)),
        ("&output_type=pil", "float16", unit(decoded.clone())),
    ] {
        assert_eq!(
            tensor(&post(query, "tensor/binary").await),
            (out.to_owned(), rounded(expected, out)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_batch_of_pictures_with_alpha() {
    let server = server(info()).await;
    let input = latents(&[3, 5, 2, 2]);
    let expected = as_bytes(&round8(&enlarged(&input, &info())));
    let uri = format!("/?dtype=float32&image_format=png{}", shape_query(&input.shape));
    let reply = server.post(&uri, "application/zip", bytes(&input, "float32")).await;
    let archive = rawzip::ZipArchive::from_slice(reply.content("application/zip")).unwrap();
    let mut entries = archive.entries();
    for expected in expected.chunks_exact(4 * 4 * 4) {
        let entry = entries.next_entry().unwrap().unwrap();
        assert!(pixels(archive.get_entry(entry.wayfinder()).unwrap().data()).pixels == expected);
    }
    assert!(entries.next_entry().unwrap().is_none());
}

#[tokio::test]
async fn what_cannot_hold_alpha_is_refused_with_what_can() {
    let picture = server(info()).await;
    let input = latents(&[1, 5, 2, 2]);
    let uri = format!("/?dtype=float32{}", shape_query(&input.shape));
    for (query, accept, name) in [
        ("", "", "JPEG"),
        ("&output_type=pil&image_format=jpg", "", "JPEG"),
        ("&image_format=png", "image/jpeg", "JPEG"),
        ("", "application/zip", "JPEG"),
        ("&output_type=mp4", "", "mp4"),
    ] {
        let reply = picture.post(&format!("{uri}{query}"), accept, bytes(&input, "float32")).await;
        let error = reply.error(422);
        assert!(error.contains(name) && error.contains("alpha"), "{query} {accept}: {error}");
        assert!(error.contains("image_format=png or webp"), "{query} {accept}: {error}");
    }
    let video = server(VaeInfo { temporal_factor: Some(4), ..info() }).await;
    let input = latents(&[1, 5, 2, 2, 2]);
    let uri = format!("/?dtype=float32&output_type=mp4{}", shape_query(&input.shape));
    let error = video.post(&uri, "", bytes(&input, "float32")).await.error(422);
    assert!(error.contains("mp4") && error.contains("output_type=pt"), "{error}");
}

/// Pixels `[height, width, 4]` with all sorts of alpha.
fn rgba(width: usize, height: usize) -> Image {
    let pixels = (0..width * height * 4).map(|index| (index * 37 % 251) as u8).collect();
    Image { width, height, channels: Rgba, pixels }
}

/// What the model finds most likely for this picture.
fn mode_of(image: &Image) -> HostTensor {
    let planes = media::planes_from_pixels(&image.pixels, Rgba);
    mode(HostTensor::new(vec![1, 4, image.height, image.width], planes), &info())
}

#[tokio::test]
async fn files_are_encoded_with_their_alpha() {
    let server = server(info()).await;
    let uri = "/?sample_mode=argmax";
    let image = rgba(6, 4);
    let png = media::encode_png(&image.pixels, 6, 4).unwrap();
    assert_latents(&post(&server, uri, None, png).await, &mode_of(&image));
    let webp = media::encode_webp(&image.pixels, 6, 4, 80).unwrap();
    assert_latents(&post(&server, uri, None, webp.clone()).await, &mode_of(&pixels(&webp)));

    // Sides that are no whole latents are resized as Pillow does it, where colours count by their alpha.
    let odd = rgba(7, 5);
    let png = media::encode_png(&odd.pixels, 7, 5).unwrap();
    assert_latents(&post(&server, uri, None, png).await, &mode_of(&media::resize_lanczos(odd, 6, 4)));

    // What has no alpha is opaque.
    let rgb: Vec<u8> = (0..6 * 4 * 3).map(|index| (index * 37 % 251) as u8).collect();
    let files = [
        media::encode_png(&rgb, 6, 4).unwrap(),
        media::encode_jpeg(&rgb, 6, 4, 90).unwrap(),
        media::encode_webp(&rgb, 6, 4, 90).unwrap(),
    ];
    for file in files {
        let colours = ImageFile::open(&file).unwrap().decode(Rgb).unwrap().pixels;
        let pixels = colours.as_chunks().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
        let opaque = Image { pixels, ..rgba(6, 4) };
        assert_latents(&post(&server, uri, None, file).await, &mode_of(&opaque));
    }
}

#[tokio::test]
async fn tensors_of_three_channels_gain_an_opaque_one() {
    let server = server(info()).await;
    let four: Vec<f32> =
        (0..2 * 4 * 4 * 6).map(|index| (index * 37 % 251) as f32 / 251.0 * 2.0 - 1.0).collect();
    let shape = |channels: usize| vec![2, channels, 4, 6];
    let expected = mode(HostTensor::new(shape(4), four.clone()), &info());
    let uri = "/?sample_mode=argmax&dtype=float32&task=encode";
    let reply = post(&server, &format!("{uri}&shape=[2,4,4,6]"), None, f32_bytes(&four)).await;
    assert_latents(&reply, &expected);
    assert!(!reply.headers.contains_key("x-warning"));

    let three: Vec<f32> = four.chunks_exact(4 * 24).flat_map(|item| &item[..3 * 24]).copied().collect();
    let opaque: Vec<f32> =
        three.chunks_exact(3 * 24).flat_map(|item| item.iter().copied().chain([1.0; 24])).collect();
    let expected = HostTensor::new(shape(4), opaque);
    let reply = post(&server, &format!("{uri}&shape=[2,3,4,6]"), None, f32_bytes(&three)).await;
    assert_latents(&reply, &mode(expected.clone(), &info()));
    // In [0, 1] alpha is as opaque.
    let unit: Vec<f32> = three.iter().map(|value| value / 2.0 + 0.5).collect();
    let back = unit.iter().map(|value| 2.0 * value - 1.0).collect::<Vec<_>>();
    let opaque = back.chunks_exact(3 * 24).flat_map(|item| item.iter().copied().chain([1.0; 24])).collect();
    let reply = post(&server, &format!("{uri}&shape=[2,3,4,6]"), None, f32_bytes(&unit)).await;
    assert_latents(&reply, &mode(HostTensor::new(shape(4), opaque), &info()));
    // As the encoder takes it.
    let raw = "/?sample_mode=moments&dtype=float32&task=encode&shape=[2,3,4,6]";
    assert_latents(&post(&server, raw, None, f32_bytes(&three)).await, &moments(&expected, &info()));

    // One picture, and sides that are no whole latents.
    let bytes: Vec<u8> = (0..3 * 5 * 7).map(|index| (index * 37 % 251) as u8).collect();
    let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let cut: Vec<f32> =
        media::resize_nearest(&values, (5, 7), (4, 6)).iter().map(|value| 2.0 * value - 1.0).collect();
    let opaque = HostTensor::new(vec![1, 4, 4, 6], [cut, vec![1.0; 24]].concat());
    let reply = post(&server, "/?sample_mode=argmax&dtype=uint8&shape=[3,5,7]", None, bytes).await;
    assert_latents(&reply, &mode(opaque, &info()));

    let error = post(&server, &format!("{uri}&shape=[1,2,4,6]"), None, vec![0; 4 * 48]).await.error(422);
    assert!(error.contains("[B, 4, H, W]"), "{error}");
}

#[tokio::test]
async fn videos_with_alpha() {
    let video = VaeInfo { temporal_factor: Some(4), ..info() };
    let server = server(video.clone()).await;
    let three: Vec<f32> = (0..3 * 5 * 2 * 2).map(|value| value as f32 / 64.0 - 0.5).collect();
    let opaque = [three.clone(), vec![1.0; 5 * 2 * 2]].concat();
    let expected = mode(HostTensor::new(vec![1, 4, 5, 2, 2], opaque.clone()), &video);
    let uri = "/?sample_mode=argmax&dtype=float32&task=encode";
    let reply = post(&server, &format!("{uri}&shape=[1,3,5,2,2]"), None, f32_bytes(&three)).await;
    assert_latents(&reply, &expected);
    let reply = post(&server, &format!("{uri}&shape=[1,4,5,2,2]"), None, f32_bytes(&opaque)).await;
    assert_latents(&reply, &expected);
}

/// `remote_encode` sends a tensor without a content type. Of four channels it is a picture of this model, with its alpha, as
/// long as it cannot be latents.
#[tokio::test]
async fn a_tensor_without_a_name_keeps_its_alpha() {
    let ambiguous = VaeInfo { latent_channels: 4, ..info() };
    let models = vec![model("fake", info()).0, model("ambiguous", ambiguous).0];
    let server = TestServer::open(Config::default(), models).await;
    let values: Vec<f32> = (0..4 * 64 * 64).map(|index| (index * 37 % 251) as f32 / 251.0).collect();
    let expected = values.iter().map(|value| 2.0 * value - 1.0).collect();
    let expected = mode(HostTensor::new(vec![1, 4, 64, 64], expected), &info());
    let query = "?sample_mode=argmax&dtype=float32&shape=1&shape=4&shape=64&shape=64";
    let reply = post(&server, &format!("/{query}"), None, f32_bytes(&values)).await;
    assert_latents(&reply, &expected);
    assert!(!reply.headers.contains_key("x-warning"));

    let error = post(&server, &format!("/ambiguous{query}"), None, f32_bytes(&values)).await.error(422);
    assert!(error.contains("two ways") && error.contains("RGBA picture of 64 x 64"), "{error}");
    let latents: Vec<f32> = values.iter().map(|value| 8.0 * value - 4.0).collect();
    let reply =
        post(&server, &format!("/ambiguous{query}&image_format=png"), None, f32_bytes(&latents)).await;
    assert_eq!(pixels(reply.content("image/png")).width, 128);
}

#[tokio::test]
async fn one_frame_of_a_video_model_is_a_picture() {
    let video = VaeInfo { temporal_factor: Some(4), ..fake::info() };
    let server = server(video.clone()).await;
    for shape in [vec![1, 4, 1, 2, 3], vec![1, 4, 2, 3]] {
        let input = latents(&shape);
        let frame = HostTensor::new(vec![1, 4, 1, 2, 3], input.data.clone());
        let decoded = enlarged(&frame, &video);
        assert_eq!(decoded.shape, [1, 3, 1, 4, 6]);
        let expected = as_bytes(&round8(&HostTensor::new(vec![1, 3, 4, 6], decoded.data)));
        let uri = format!("/?dtype=float32{}", shape_query(&shape));
        let reply = server.post(&format!("{uri}&image_format=png"), "", bytes(&input, "float32")).await;
        let png = ImageFile::open(reply.content("image/png")).unwrap().decode(Rgb).unwrap();
        assert_eq!((png.width, png.height), (6, 4));
        assert!(png.pixels == expected);
        let reply = server.post(&uri, "", bytes(&input, "float32")).await;
        assert!(reply.content("image/jpeg") == media::encode_jpeg(&expected, 6, 4, 75).unwrap());
    }
    let several = latents(&[1, 4, 2, 2, 3]);
    let uri = format!("/?dtype=float32{}", shape_query(&several.shape));
    let error = server.post(&uri, "", bytes(&several, "float32")).await.error(422);
    assert!(error.contains("does not fit into a picture"), "{error}");
}
