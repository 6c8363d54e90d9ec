use super::*;
use crate::{Answer, DType, ImageFormat, Packaging, Transfer, Values, VideoFormat};

fn head(query: &str, content_type: Option<&str>) -> Result<RequestHead, WireError> {
    RequestHead::read(query, content_type, None)
}

/// The request of a head that must be one to decode.
fn decode(head: &RequestHead, body: Bytes) -> DecodeRequest {
    match head.request(body) {
        Ok(Request::Decode(request)) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn decode_or_encode() {
    use BodyFormat::{Binary, Image};
    use Task::{Decode, Encode};
    let latents = "dtype=float16&shape=[1,4,8,8]";
    let picture = "dtype=float16&shape=[1,3,8,8]";
    let octets = Some("application/octet-stream");
    for (query, content_type, expected) in [
        (latents, Some("tensor/binary"), (Decode, Binary)),
        (picture, Some("Tensor/Binary; charset=binary"), (Decode, Binary)),
        ("", None, (Encode, Image)),
        ("", octets, (Encode, Image)),
        ("", Some("image/png"), (Encode, Image)),
        (latents, Some("image/png"), (Encode, Image)),
        (latents, None, (Decode, Binary)),
        (latents, octets, (Decode, Binary)),
        (picture, None, (Encode, Binary)),
        (picture, octets, (Encode, Binary)),
        ("dtype=uint8&shape=[3,8,8]", None, (Encode, Binary)),
        ("dtype=uint8&shape=[2,3,5,8,8]", octets, (Encode, Binary)),
        ("dtype=float16&shape=[1,3,8,8]&task=decode", None, (Decode, Binary)),
        ("dtype=float16&shape=[1,4,8,8]&task=encode", Some("tensor/binary"), (Encode, Binary)),
    ] {
        let head = head(query, content_type).unwrap();
        assert_eq!((head.task, head.body), (Some(expected.0), expected.1), "{query} {content_type:?}");
    }
    for (content_type, body) in
        [("application/json; charset=utf-8", BodyFormat::Json), ("tensor/base64", BodyFormat::Base64)]
    {
        for query in ["", latents, "task=encode"] {
            let head = head(query, Some(content_type)).unwrap();
            assert_eq!((head.task, head.body), (None, body), "the body goes before the query: {query}");
        }
    }
}

#[test]
fn heads_that_cannot_be_read() {
    for (query, content_type, status) in [
        ("", Some("tensor/binary"), 400),
        ("shape=1", Some("tensor/binary"), 400),
        ("shape=1", None, 400),
        ("shape=1&dtype=float16", Some("text/plain"), 415),
        ("shape=1&dtype=float16", Some("application/x-www-form-urlencoded"), 415),
        ("shape=1&dtype=float16&task=paint", Some("tensor/binary"), 400),
    ] {
        let error = head(query, content_type).unwrap_err();
        assert_eq!(error.status(), status, "{query} {content_type:?}: {error}");
    }
}

#[test]
fn what_is_printed_reads_the_same() {
    let answers = [
        Answer::default(),
        Answer::Image(ImageFormat::Png),
        Answer::Images(ImageFormat::Jpeg { quality: Some(30) }, Packaging::Zip),
        Answer::Tensor { values: Values::Raw, dtype: DType::BFloat16, transfer: Transfer::Binary },
        Answer::Tensor { values: Values::Round8, dtype: DType::UInt8, transfer: Transfer::Base64 },
        Answer::Tensor { values: Values::Unit, dtype: DType::Float16, transfer: Transfer::Json },
        Answer::Video(VideoFormat { fps: Some(8), quality: None }),
    ];
    let scalings = [
        Scaling::None,
        Scaling::Model,
        Scaling::Factors { scaling_factor: 0.18215, shift_factor: None },
        // The smallest and the least even numbers must come through unharmed.
        Scaling::Factors { scaling_factor: f32::MIN_POSITIVE, shift_factor: Some(-1.0 / 3.0) },
    ];
    let shapes =
        [(vec![1, 4, 2, 3], None, None), (vec![1, 6, 16], Some(32), Some(48)), (vec![5], None, None)];
    for dtype in DType::ALL {
        for answer in answers {
            for scaling in scalings {
                for (shape, height, width) in shapes.clone() {
                    let bytes = vec![7; shape.iter().product::<usize>() * dtype.size()];
                    let latents = Tensor::new(dtype, shape, bytes.into()).unwrap();
                    let model = (dtype == DType::UInt8).then(|| "a model & more=1".to_owned());
                    let (tiling, framewise) = (dtype == DType::Float16, dtype != DType::Float32);
                    let (preview, first_picture) = (dtype == DType::Float32, dtype == DType::BFloat16);
                    let params = Params {
                        model,
                        scaling,
                        height,
                        width,
                        answer,
                        tiling,
                        framewise,
                        preview,
                        first_picture,
                    };
                    let request = DecodeRequest { latents, params };
                    let head = RequestHead::read(
                        &request.query(),
                        Some(request.content_type()),
                        Some(request.accept()),
                    )
                    .unwrap();
                    assert_eq!(head.request(request.latents.bytes.clone()), Ok(Request::Decode(request)));
                }
            }
        }
    }
}

/// A request as `diffusers.utils.remote_utils.remote_decode` (0.42.1) with `requests` puts it on the wire.
#[test]
fn the_query_of_diffusers() {
    let query = "image_format=jpg&output_type=pil&partial_postprocess=False&shape=1&shape=4096&shape=64\
                 &dtype=bfloat16&scaling_factor=0.3611&shift_factor=0.1159&height=1024&width=1024";
    let head = RequestHead::read(query, Some("tensor/binary"), Some("image/jpeg")).unwrap();
    let request = decode(&head, vec![0; 4096 * 64 * 2].into());
    assert_eq!(request.latents.head, TensorHead::new(DType::BFloat16, vec![1, 4096, 64]).unwrap());
    assert_eq!(
        request.params,
        Params {
            model: None,
            scaling: Scaling::Factors { scaling_factor: 0.3611, shift_factor: Some(0.1159) },
            height: Some(1024),
            width: Some(1024),
            answer: Answer::Image(ImageFormat::Jpeg { quality: None }),
            ..Params::default()
        }
    );
}

#[test]
fn base64_and_the_first_generation() {
    let base64 = head("shape=[1,2]&dtype=uint8", Some("tensor/base64")).unwrap();
    let json = head("model=b", Some("application/json")).unwrap();
    let body =
        r#"{"inputs": "AQI=", "parameters": {"shape": [1, 2], "dtype": "uint8", "output_type": "pt"}}"#;
    let expected = Tensor::new(DType::UInt8, vec![1, 2], vec![1, 2].into()).unwrap();

    let request = decode(&base64, body.into());
    assert_eq!((request.latents, request.params.scaling), (expected.clone(), Scaling::None));
    assert!(matches!(request.params.answer, Answer::Tensor { values: Values::Raw, .. }));

    let request = decode(&json, body.into());
    assert_eq!((request.latents, request.params.scaling), (expected, Scaling::Model));
    assert!(matches!(request.params.answer, Answer::Tensor { values: Values::Raw, .. }));
    assert_eq!(request.params.model.as_deref(), Some("b"));
}

#[test]
fn bodies_that_are_not_what_the_head_says() {
    let query = "shape=[1,2]&dtype=uint8";
    for (content_type, body) in [
        ("tensor/binary", "x"),
        ("tensor/binary", "xyz"),
        ("tensor/base64", "AQI="),
        ("tensor/base64", r#"{"inputs": "AQI=", "parameters": {"dtype": "int3"}}"#),
        ("tensor/base64", r#"{"inputs": "AQI=", "parameters": {"shape": [1, 3]}}"#),
        ("tensor/base64", r#"{"inputs": "AQ=="}"#),
        ("tensor/base64", r#"{"inputs": "?"}"#),
        ("tensor/base64", r#"{"input": "AQI="}"#),
        ("application/json", r#"{"inputs": "AQI=", "parameters": {"task": "paint"}}"#),
        ("application/json", r#"{"inputs": "AQI=", "parameters": {"shape": [1, 3], "dtype": "uint8"}}"#),
        ("application/json", r#"{"inputs": "AQI=", "parameters": {"shape": "no", "dtype": "uint8"}}"#),
        ("application/json", r#"{"inputs": "AQI=", "parameters": []}"#),
        ("application/json", "[1, 2"),
    ] {
        let error = head(query, Some(content_type)).unwrap().request(body.into()).unwrap_err();
        assert_eq!(error.status(), 400, "{content_type} {body}: {error}");
    }
}

#[test]
fn the_body_goes_before_the_query_and_the_query_says_what_is_missing() {
    let pt = Answer::Tensor { values: Values::Raw, dtype: DType::Float16, transfer: Transfer::Binary };
    let png = Answer::Image(ImageFormat::Png);
    let jpeg = Answer::Image(ImageFormat::Jpeg { quality: None });
    let model = |name: &str| Some(name.to_owned());
    for content_type in ["application/json", "tensor/base64"] {
        let otherwise = if content_type == "application/json" { Scaling::Model } else { Scaling::None };
        for (query, parameters, expected) in [
            ("", "", Params { scaling: otherwise, ..Params::new(jpeg) }),
            ("do_scaling=False", "", Params { scaling: Scaling::None, ..Params::new(jpeg) }),
            ("do_scaling=True", "", Params { scaling: Scaling::Model, ..Params::new(jpeg) }),
            ("output_type=pt", "", Params { scaling: otherwise, ..Params::new(pt) }),
            ("image_format=png", "", Params { scaling: otherwise, ..Params::new(png) }),
            (
                "image_format=png&do_scaling=True&model=q",
                r#", "image_format": "jpg", "do_scaling": false, "model": "b""#,
                Params { model: model("b"), scaling: Scaling::None, ..Params::new(jpeg) },
            ),
            // `null` and `None` say nothing.
            (
                "output_type=pt&model=q",
                r#", "output_type": null, "model": "None""#,
                Params { model: model("q"), scaling: otherwise, ..Params::new(pt) },
            ),
            // What is wrong in the query has no effect where the body says it right.
            (
                "output_type=gif&task=sing",
                r#", "output_type": "pt", "task": "decode""#,
                Params { scaling: otherwise, ..Params::new(pt) },
            ),
        ] {
            // Shape and type too may stand in either, and each by itself.
            for (said, told) in [
                ("", r#""shape": [1, 2], "dtype": "uint8""#),
                ("shape=1&shape=2&dtype=uint8", r#""x": 1"#),
                ("shape[]=1&shape[]=2", r#""dtype": "uint8""#),
                ("dtype=uint8", r#""shape": "[1, 2]""#),
                ("shape=[7]&dtype=float32", r#""shape": [1, 2], "dtype": "uint8""#),
            ] {
                let head = head(&format!("{query}&{said}"), Some(content_type)).unwrap();
                let body = format!(r#"{{"inputs": "AQI=", "parameters": {{{told}{parameters}}}}}"#);
                let request = decode(&head, body.clone().into());
                assert_eq!(request.latents.head.to_string(), "uint8 [1, 2]", "{query} {said} {body}");
                assert_eq!(request.params, expected, "{content_type} {query} {said} {body}");
            }
        }
    }
}

#[test]
fn parameters_of_a_body_are_few() {
    let json = head("", Some("application/json")).unwrap();
    let body = |axes: usize| {
        format!(
            r#"{{"inputs": "AQI=", "parameters": {{"shape": [{}1], "dtype": "uint8"}}}}"#,
            "1,".repeat(axes)
        )
    };
    let error = json.request(body(40_000).into()).unwrap_err();
    assert_eq!((error.status(), error.to_string().contains("65536 at most")), (413, true), "{error}");
    assert_eq!(json.request(body(1000).into()).unwrap_err().status(), 400);
}

#[test]
fn slips_in_the_body_are_told_too() {
    let json = head("", Some("application/json")).unwrap();
    let body = r#"{"inputs": "AQI=", "parameters": {"shape": [1, 2], "dtype": "uint8", "outputType": "pt"}}"#;
    let (_, slips) = json.request_with_slips(body.into()).unwrap();
    assert_eq!(slips, ["`outputType` has no meaning here: did you mean `output_type`?"]);
}

#[test]
fn only_a_tensor_that_nothing_names_may_be_rgba() {
    let open = |query: &str, content_type| head(query, content_type).unwrap().may_be_rgba;
    for shape in ["[1,4,8,8]", "[4,8,8]", "[1,4,5,8,8]"] {
        let query = format!("dtype=float32&shape={shape}");
        assert!(open(&query, None) && open(&query, Some("application/octet-stream")), "{shape}");
        assert!(open(&format!("{query}&scaling_factor=2&shift_factor=1"), None), "as remote_encode sends it");
        assert!(!open(&query, Some("tensor/binary")));
        for more in ["task=decode", "task=encode", "output_type=pt", "image_format=png", "height=8"] {
            assert!(!open(&format!("{query}&{more}"), None), "{more}");
        }
    }
    for shape in ["[1,3,8,8]", "[1,16,8,8]", "[8,4]", "[1,1,4,8,8]"] {
        assert!(!open(&format!("dtype=float32&shape={shape}"), None), "{shape}");
    }
}

#[test]
fn the_limit_of_a_body_is_known_before_it_comes() {
    let limits = Limits { max_body_bytes: 100, ..Limits::default() };
    let read = |content_type, shape| {
        head(&format!("dtype=uint8&shape={shape}"), Some(content_type)).unwrap().max_body_bytes(&limits)
    };
    assert_eq!(read("tensor/binary", 99), Ok(99));
    assert_eq!(read("tensor/base64", 99), Ok(limits.max_base64_body_bytes()));
    assert_eq!(read("application/json", 1), Ok(limits.max_base64_body_bytes()));
    for content_type in ["tensor/binary", "tensor/base64"] {
        assert_eq!(read(content_type, 101).unwrap_err().status(), 413);
    }

    let check = |content_type, length| {
        let head = head("dtype=uint8&shape=99", Some(content_type)).unwrap();
        head.check_body_length(length, &limits).map_err(|error| error.status())
    };
    assert_eq!(check("tensor/binary", 99), Ok(()));
    assert_eq!(check("tensor/binary", 98), Err(400));
    assert_eq!(check("tensor/binary", 100), Err(400));
    assert_eq!(check("tensor/base64", 150), Ok(()));
    assert_eq!(check("application/json", limits.max_base64_body_bytes() + 1), Err(413));
}

/// Whatever is sent, the outcome is a request or an error that blames the sender: no panic, and no fault of ours.
#[test]
fn damaged_requests_are_refused_or_read() {
    let query = "image_format=jpg&output_type=pil&partial_postprocess=False&shape=1&shape=4&shape=[1,2]&dtype=float16\
                 &scaling_factor=0.18215&shift_factor=0.1&do_scaling=True&height=8&width=8&quality=75&out_dtype=float32\
                 &task=decode&model=a%20b";
    let body =
        r#"{"inputs": "AQI=", "parameters": {"shape": [1, 2], "dtype": "uint8", "x": [null, {}, 1e9]}}"#;
    let accept = "image/png;q=0.5, tensor/binary, */*;q=0.1";
    let content_types = ["tensor/binary", "tensor/base64", "application/json", "image/png", ""];
    // xorshift64: the same damage on every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut damaged = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..random(6) {
            let at = random(bytes.len().max(1));
            match random(4) {
                0 if at < bytes.len() => bytes[at] = random(256) as u8,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"&=%[],.-+0e;\"{}"[random(15)]),
                _ => bytes.truncate(at),
            }
        }
        (String::from_utf8_lossy(&bytes).into_owned(), random(5))
    };
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let ((query, which), (accept, _), (body, _)) = (damaged(query), damaged(accept), damaged(body));
        let outcome = RequestHead::read(&query, Some(content_types[which]), Some(&accept)).and_then(|head| {
            head.params()?;
            head.max_body_bytes(&Limits::default())?;
            head.request(body.into_bytes().into())
        });
        match outcome {
            Ok(_) => read += 1,
            Err(error) => {
                assert!(matches!(error.status(), 400 | 413 | 415), "{query}: {error}");
                refused += 1;
            }
        }
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused: the damage tests one side only");
}

#[test]
fn pictures_of_the_first_generation() {
    let json = head("model=b", Some("application/json")).unwrap();
    let pixels = Tensor::new(DType::UInt8, vec![3, 1, 2], vec![1, 2, 3, 4, 5, 6].into()).unwrap();
    for (body, expected) in [
        (r#"{"inputs": "AQI="}"#, Picture::File(vec![1, 2].into())),
        (
            r#"{"inputs": "AQIDBAUG", "parameters": {"shape": [3, 1, 2], "dtype": "uint8"}}"#,
            Picture::Tensor(pixels),
        ),
    ] {
        let Ok(Request::Encode(request)) = json.request(body.into()) else { panic!("{body}") };
        assert_eq!(request.picture, expected);
        assert_eq!((request.params.scaling, request.params.model.as_deref()), (Scaling::Model, Some("b")));
    }
    // `task` settles it, in the body or else in the query.
    let told = head("task=encode", Some("application/json")).unwrap();
    let body =
        r#"{"inputs": "AQIDBAUG", "parameters": {"shape": [3, 1, 2], "dtype": "uint8", "task": "decode"}}"#;
    decode(&json, body.into());
    decode(&told, body.into());
    let body = r#"{"inputs": "AQIDBAUG", "parameters": {"shape": [1, 6], "dtype": "uint8"}}"#;
    assert!(matches!(told.request(body.into()), Ok(Request::Encode(_))));
}
