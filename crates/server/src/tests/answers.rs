//! What a decode answers, for every combination of parameters.

use half::{bf16, f16};
use vae::{HostTensor, VaeInfo};

use super::fake::{enlarged, info, model};
use super::{Reply, TestServer};
use crate::Config;

async fn server() -> TestServer {
    TestServer::open(Config::default(), vec![model("fake", info()).0]).await
}

/// Latents with values from -1.5 to 1.5, all of which float16 and bfloat16 can say.
pub(super) fn latents(shape: &[usize]) -> HostTensor {
    let count = shape.iter().product();
    HostTensor::new(shape.to_vec(), (0..count).map(|i: usize| (i * 7 % 97) as f32 / 32.0 - 1.5).collect())
}

pub(super) fn bytes(latents: &HostTensor, dtype: &str) -> Vec<u8> {
    let values = latents.data.iter();
    match dtype {
        "float32" => values.flat_map(|x| x.to_le_bytes()).collect(),
        "float16" => values.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        "bfloat16" => values.flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        other => panic!("{other}"),
    }
}

pub(super) fn shape_query(shape: &[usize]) -> String {
    shape.iter().map(|axis| format!("&shape={axis}")).collect()
}

/// The tensor of a binary answer.
#[track_caller]
pub(super) fn tensor(reply: &Reply) -> (String, HostTensor) {
    let body = reply.content("tensor/binary");
    read_tensor(reply.header("dtype"), reply.header("shape"), body)
}

fn read_tensor(dtype: &str, shape: &str, body: &[u8]) -> (String, HostTensor) {
    let shape: Vec<usize> = serde_json::from_str(shape).unwrap();
    let data = match dtype {
        "uint8" => body.iter().map(|&byte| f32::from(byte)).collect(),
        "float16" => body.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        "bfloat16" => body.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        "float32" => body.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        other => panic!("{other}"),
    };
    (dtype.to_owned(), HostTensor::new(shape, data))
}

/// `[B, 3, H, W]` in [-1, 1] to bytes `[B, H, W, 3]`, written as the protocol puts it.
pub(super) fn round8(pixels: &HostTensor) -> HostTensor {
    let &[batch, channels, height, width] = pixels.shape.as_slice() else { panic!() };
    let mut data = Vec::new();
    for item in 0..batch {
        for pixel in 0..height * width {
            for channel in 0..channels {
                let value = pixels.data[(item * channels + channel) * height * width + pixel];
                data.push(((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even());
            }
        }
    }
    HostTensor::new(vec![batch, height, width, channels], data)
}

pub(super) fn unit(mut pixels: HostTensor) -> HostTensor {
    pixels.data.iter_mut().for_each(|x| *x = (*x / 2.0 + 0.5).clamp(0.0, 1.0));
    pixels
}

pub(super) fn rounded(mut pixels: HostTensor, dtype: &str) -> HostTensor {
    for x in &mut pixels.data {
        *x = match dtype {
            "float16" => f16::from_f32(*x).to_f32(),
            "bfloat16" => bf16::from_f32(*x).to_f32(),
            _ => *x,
        };
    }
    pixels
}

fn png_pixels(file: &[u8]) -> (usize, usize, Vec<f32>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    (frame.height as usize, frame.width as usize, pixels.iter().map(|&byte| f32::from(byte)).collect())
}

#[tokio::test]
async fn every_tensor_answer_for_every_input() {
    let server = server().await;
    for dtype in ["float32", "float16", "bfloat16"] {
        for shape in [vec![1, 4, 3, 5], vec![3, 4, 2, 2], vec![4, 3, 2]] {
            let input = latents(&shape);
            let mut batched = input.clone();
            if shape.len() == 3 {
                batched.shape.insert(0, 1);
            }
            let decoded = enlarged(&batched, &info());
            let base = format!("/?dtype={dtype}{}", shape_query(&shape));
            for (query, accept, out, expected) in [
                ("&output_type=pt", "tensor/binary", "float16", decoded.clone()),
                ("&output_type=pt&partial_postprocess=False", "*/*", "float16", decoded.clone()),
                ("&output_type=pt&out_dtype=float32", "tensor/binary", "float32", decoded.clone()),
                ("&output_type=pt&out_dtype=bfloat16", "tensor/binary", "bfloat16", decoded.clone()),
                ("&output_type=pt&partial_postprocess=True", "tensor/binary", "uint8", round8(&decoded)),
                ("&partial_postprocess=true", "", "uint8", round8(&decoded)),
                ("&output_type=pil", "tensor/binary", "float16", unit(decoded.clone())),
                ("&output_type=pil&out_dtype=float32", "tensor/binary", "float32", unit(decoded.clone())),
            ] {
                let reply = server.post(&format!("{base}{query}"), accept, bytes(&input, dtype)).await;
                let expected = rounded(expected, out);
                assert_eq!(tensor(&reply), (out.to_owned(), expected), "{base}{query}");
            }
        }
    }
}

#[tokio::test]
async fn base64_answers_have_the_same_bytes() {
    let server = server().await;
    let input = latents(&[1, 4, 2, 3]);
    let uri = format!("/?dtype=float32&output_type=pt{}", shape_query(&input.shape));
    let binary = server.post(&uri, "tensor/binary", bytes(&input, "float32")).await;
    for accept in ["tensor/base64", "application/json"] {
        let reply = server.post(&uri, accept, bytes(&input, "float32")).await;
        let answer = wire::read_base64_answer(reply.content(accept)).unwrap();
        assert_eq!(answer.bytes, binary.body);
        assert_eq!(answer.head.shape_header(), binary.header("shape"));
        assert_eq!(reply.header("shape"), binary.header("shape"));
    }
}

#[tokio::test]
async fn every_picture_file() {
    let server = server().await;
    let input = latents(&[1, 4, 8, 9]);
    let pixels = round8(&enlarged(&input, &info()));
    let rgb: Vec<u8> = pixels.data.iter().map(|&x| x as u8).collect();
    let jpeg = |quality| media::encode_jpeg(&rgb, 18, 16, quality).unwrap();
    let base = format!("/?dtype=float32{}", shape_query(&input.shape));
    for (query, accept, content_type, file) in [
        ("&output_type=pil&image_format=jpg", "image/jpeg", "image/jpeg", Some(jpeg(75))),
        ("&output_type=pil&image_format=png", "image/png", "image/png", None),
        // `Accept` goes first, `image_format` fills in.
        ("&output_type=pil&image_format=jpg", "image/png", "image/png", None),
        ("&output_type=pil&image_format=png", "image/jpeg", "image/jpeg", Some(jpeg(75))),
        ("&output_type=pil&image_format=png", "*/*", "image/png", None),
        ("&output_type=pil&image_format=png", "", "image/png", None),
        ("&output_type=pil", "*/*", "image/jpeg", Some(jpeg(75))),
        ("", "", "image/jpeg", Some(jpeg(75))),
        ("&quality=30", "", "image/jpeg", Some(jpeg(30))),
        // diffusers' client reads a file here, whatever `partial_postprocess` says.
        ("&output_type=pil&partial_postprocess=True", "image/jpeg", "image/jpeg", Some(jpeg(75))),
    ] {
        let reply = server.post(&format!("{base}{query}"), accept, bytes(&input, "float32")).await;
        let body = reply.content(content_type);
        match file {
            Some(file) => assert!(body == file, "{query} {accept}"),
            None => assert_eq!(png_pixels(body), (16, 18, pixels.data.clone()), "{query} {accept}"),
        }
    }
}

#[tokio::test]
async fn all_pictures_of_a_batch_in_one_body() {
    let server = server().await;
    let input = latents(&[3, 4, 2, 2]);
    let pixels = round8(&enlarged(&input, &info()));
    let uri = format!("/?dtype=float32&image_format=png{}", shape_query(&input.shape));

    let reply = server.post(&uri, "application/zip", bytes(&input, "float32")).await;
    let archive = rawzip::ZipArchive::from_slice(reply.content("application/zip")).unwrap();
    let mut entries = archive.entries();
    for (index, picture) in pixels.data.chunks_exact(4 * 4 * 3).enumerate() {
        let entry = entries.next_entry().unwrap().unwrap();
        assert_eq!(entry.file_path().as_bytes(), format!("{index}.png").as_bytes());
        let file = archive.get_entry(entry.wayfinder()).unwrap();
        assert_eq!(png_pixels(file.data()), (4, 4, picture.to_vec()));
    }
    assert!(entries.next_entry().unwrap().is_none());

    let reply = server.post(&uri, "multipart/mixed", bytes(&input, "float32")).await;
    let (media_type, boundary) = reply.header("content-type").split_once("; boundary=").unwrap();
    assert_eq!(media_type, "multipart/mixed");
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(text.matches(&format!("--{boundary}\r\nContent-Type: image/png\r\n")).count(), 3);
    assert!(text.ends_with(&format!("--{boundary}--\r\n")));
}

#[tokio::test]
async fn packed_latents_are_unpacked() {
    let server = server().await;
    // Two tokens of 4 * 4 values: a grid of 2 x 4 latents, 4 x 8 pixels.
    let packed = latents(&[1, 2, 16]);
    let unpacked = vae::latents::arrange(packed.clone(), &info(), Some(4), Some(8)).unwrap();
    assert_eq!(unpacked.shape, [1, 4, 2, 4]);
    let uri = "/?dtype=float32&shape=[1,2,16]&output_type=pt&out_dtype=float32";
    let reply = server.post(&format!("{uri}&height=4&width=8"), "", bytes(&packed, "float32")).await;
    assert_eq!(tensor(&reply).1, enlarged(&unpacked, &info()));

    // Without a size, or with one that does not fit, there is nothing to unpack to.
    let error = server.post(uri, "", bytes(&packed, "float32")).await.error(422);
    assert!(error.contains("height"), "{error}");
    let reply = server.post(&format!("{uri}&height=8&width=8"), "", bytes(&packed, "float32")).await;
    reply.error(422);
}

#[tokio::test]
async fn one_frame_is_a_picture() {
    let server = server().await;
    let input = latents(&[2, 4, 1, 3, 5]);
    let mut plane = input.clone();
    plane.shape.remove(2);
    let reply = server
        .post(
            "/?dtype=float32&shape=[2,4,1,3,5]&output_type=pt&out_dtype=float32",
            "",
            bytes(&input, "float32"),
        )
        .await;
    assert_eq!(tensor(&reply).1, enlarged(&plane, &info()));
    let one = latents(&[4, 1, 3, 5]);
    let reply =
        server.post("/?dtype=float32&shape=[4,1,3,5]&output_type=pt", "", bytes(&one, "float32")).await;
    assert_eq!(tensor(&reply).1.shape, [1, 3, 6, 10]);
    server
        .post("/?dtype=float32&shape=[2,4,1,3,5]&output_type=pt", "", bytes(&input, "float32"))
        .await
        .content("tensor/binary");
}

#[tokio::test]
async fn sizes_are_ignored_where_latents_say_their_own() {
    let server = server().await;
    let input = latents(&[1, 4, 2, 2]);
    let uri = "/?dtype=float32&shape=[1,4,2,2]&output_type=pt&height=-7&width=nonsense";
    assert_eq!(tensor(&server.post(uri, "", bytes(&input, "float32")).await).1.shape, [1, 3, 4, 4]);
}

#[tokio::test]
async fn scaling_by_precedence() {
    let server = server().await;
    let input = latents(&[1, 4, 1, 1]);
    let by = |factor: f32, shift: f32| {
        let mut scaled = input.clone();
        scaled.data.iter_mut().for_each(|x| *x = *x / factor + shift);
        enlarged(&scaled, &info())
    };
    for (query, expected) in [
        ("", by(1.0, 0.0)),
        ("&do_scaling=False", by(1.0, 0.0)),
        ("&do_scaling=True", by(0.5, 0.125)),
        ("&scaling_factor=0.25", by(0.25, 0.0)),
        ("&scaling_factor=0.25&shift_factor=-1", by(0.25, -1.0)),
        ("&scaling_factor=0.25&do_scaling=False", by(0.25, 0.0)),
        ("&scaling_factor=0.25&do_scaling=True", by(0.25, 0.0)),
    ] {
        let uri = format!("/?dtype=float32&shape=[1,4,1,1]&output_type=pt&out_dtype=float32{query}");
        assert_eq!(tensor(&server.post(&uri, "", bytes(&input, "float32")).await).1, expected, "{query}");
    }
}

#[tokio::test]
async fn the_first_generation_speaks_json() {
    use axum::http::Request;
    let server = server().await;
    let input = latents(&[1, 4, 2, 2]);
    let tensor =
        wire::Tensor::new(wire::DType::Float32, input.shape.clone(), bytes(&input, "float32").into());
    // An answer has the form that these clients send, so it makes a request, with one more parameter.
    let mut body: serde_json::Value =
        serde_json::from_str(&wire::write_base64_answer(&tensor.unwrap())).unwrap();
    body["parameters"]["output_type"] = "pt".into();
    let request =
        Request::post("/").header("content-type", "application/json").header("accept", "tensor/binary");
    let reply = server.send(request.body(body.to_string().into()).unwrap()).await;
    // Nothing is said of scaling, and such clients send latents as they leave the pipeline.
    let mut scaled = input;
    scaled.data.iter_mut().for_each(|x| *x = *x / 0.5 + 0.125);
    assert_eq!(self::tensor(&reply).1, rounded(enlarged(&scaled, &info()), "float16"));
}

#[tokio::test]
async fn bytes_are_latents_too() {
    let server = server().await;
    let reply = server.post("/?dtype=uint8&shape=[1,4,1,1]&output_type=pt", "", vec![0, 1, 2, 255]).await;
    assert_eq!(tensor(&reply).1.data, [[0.0; 4], [1.0; 4], [2.0; 4]].concat());
}

#[tokio::test]
async fn models_are_found_by_path_and_query() {
    let wide = VaeInfo { spatial_factor: 3, ..info() };
    let wide = VaeInfo { concluded: Some("its factors are assumed".to_owned()), ..wide };
    let models = vec![model("first", info()).0, model("second", wide).0];
    let server = TestServer::open(Config::default(), models).await;
    for (path, side) in [
        ("/?", 2),
        ("/predict?", 2),
        ("/predict/?", 2),
        ("/first?", 2),
        ("/first/predict?", 2),
        ("/second?", 3),
        ("/second/?", 3),
        ("/second/predict?", 3),
        ("/second/predict/?", 3),
        ("/?model=second&", 3),
        ("/predict?model=first&", 2),
        ("/second?model=second&", 3),
    ] {
        let reply =
            server.post(&format!("{path}dtype=uint8&shape=[1,4,1,1]&output_type=pt"), "", vec![0; 4]).await;
        assert_eq!(tensor(&reply).1.shape, [1, 3, side, side], "{path}");
    }

    let models: serde_json::Value =
        serde_json::from_slice(server.get("/models").await.content("application/json")).unwrap();
    assert_eq!(models["models"][0]["name"], "first");
    assert_eq!(models["models"][0]["default"], true);
    assert_eq!(models["models"][1]["default"], false);
    assert_eq!(models["models"][1]["spatial_factor"], 3);
    assert_eq!(models["models"][1]["scaling_factor"], 0.5);
    // What was assumed of a model is told, and only then.
    assert_eq!(models["models"][1]["concluded"], "its factors are assumed");
    assert_eq!(models["models"][0].get("concluded"), None);
}

#[tokio::test]
async fn a_video_model_answers_in_frames() {
    let video = VaeInfo { temporal_factor: Some(4), ..info() };
    let server = TestServer::open(Config::default(), vec![model("video", video.clone()).0]).await;
    let input = latents(&[1, 4, 3, 1, 2]);
    let base = format!("/?dtype=float32{}", shape_query(&input.shape));
    let decoded = enlarged(&input, &video);
    assert_eq!(decoded.shape, [1, 3, 9, 2, 4]);
    let reply = server.post(&format!("{base}&output_type=pt&height=1"), "", bytes(&input, "float32")).await;
    assert_eq!(tensor(&reply).1, rounded(decoded, "float16"));
    let reply =
        server.post(&format!("{base}&output_type=pil"), "tensor/binary", bytes(&input, "float32")).await;
    assert_eq!(tensor(&reply).1.shape, [9, 3, 2, 4]);
    let reply = server.post(&format!("{base}&partial_postprocess=True"), "", bytes(&input, "float32")).await;
    assert_eq!(tensor(&reply).1.shape, [9, 2, 4, 3]);
    let reply = server.post(&format!("{base}&output_type=pil"), "image/png", bytes(&input, "float32")).await;
    assert!(reply.error(422).contains("mp4 or pt"));

    let mp4 = format!("{base}&output_type=mp4&fps=24&quality=80");
    for accept in ["text/plain", "video/mp4", ""] {
        let reply = server.post(&mp4, accept, bytes(&input, "float32")).await;
        let file = reply.content("video/mp4");
        assert_eq!(&file[4..8], b"ftyp", "{accept}");
    }
    let two = latents(&[2, 4, 1, 1, 1]);
    let batch = format!("/?dtype=float32{}&output_type=mp4", shape_query(&two.shape));
    let reply = server.post(&batch, "", bytes(&two, "float32")).await;
    assert!(reply.error(422).contains("one by one"));
}

#[tokio::test]
async fn an_answer_says_how_long_it_took_and_which_request_it_is() {
    let server = server().await;
    let uri = "/?dtype=uint8&shape=[1,4,1,1]&output_type=pt";
    let reply = server.post(uri, "", vec![0; 4]).await;
    let timing: Vec<_> = reply.header("server-timing").split(", ").map(|part| part.split(";dur=")).collect();
    let names: Vec<_> = timing
        .into_iter()
        .map(|mut part| {
            let name = part.next().unwrap();
            assert!(part.next().unwrap().parse::<f64>().unwrap() >= 0.0);
            name
        })
        .collect();
    assert_eq!(names, ["queue", "work", "encode"]);

    let other = server.post(uri, "", vec![0; 4]).await;
    assert_ne!(reply.header("x-request-id"), other.header("x-request-id"));
    for (sent, kept) in [("abc-1", true), ("a b", false), ("\u{1b}[31m", false)] {
        let mut request = super::tensor_request(uri, "", vec![0; 4]);
        let Ok(id) = axum::http::HeaderValue::from_bytes(sent.as_bytes()) else { continue };
        request.headers_mut().insert("x-request-id", id);
        assert_eq!(server.send(request).await.header("x-request-id") == sent, kept, "{sent:?}");
    }
}

#[tokio::test]
async fn the_pages_for_machines() {
    let server = server().await;
    for path in ["/", "/health", "/health/", "/ready", "/ready/"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status.as_u16(), &*reply.body), (200, &b"Ok"[..]), "{path}");
    }
    server.get("/models/").await.content("application/json");
}
