//! Heads of requests.

use wire::{Limits, Request, RequestHead, WireError, routes};

use crate::{KIB, sentence, within};

/// Lines: the query, `Content-Type`, `Accept`, the path. A body of the length that the head asks for is put behind it; what
/// comes of both must come again from the query that it prints itself.
pub fn query(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(4, '\n');
    let query = lines.next().unwrap_or_default();
    let [content_type, accept, path] = std::array::from_fn(|_| lines.next().filter(|line| !line.is_empty()));
    // What is refused quotes what it does not understand.
    within(64 * input.len() + 64 * KIB, || {
        if let Some(path) = path {
            let short = routes::without_empty_segments(path);
            assert!(!short.contains("//") && short.len() <= path.len());
            let _ = routes::target(&short);
        }
        if let Err(error) = read(query, content_type, accept) {
            sentence(&error.to_string());
        }
    });
}

fn read(query: &str, content_type: Option<&str>, accept: Option<&str>) -> Result<(), WireError> {
    let limits = Limits { max_body_bytes: 4096, ..Limits::default() };
    // A header carries them.
    wire::Metadata::from_query(query).slips().iter().for_each(|slip| {
        sentence(slip);
        assert!(slip.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{slip:?}");
    });
    let head = RequestHead::read(query, content_type, accept)?;
    head.model()?;
    head.params()?;
    let most = head.max_body_bytes(&limits)?;
    assert!(most <= limits.max_base64_body_bytes());
    head.check_body_length(most, &limits)?;
    assert!(head.check_body_length(most + 1, &limits).is_err());

    let Some(tensor) = &head.tensor else { return Ok(()) };
    assert!(tensor.byte_len() <= limits.max_body_bytes && !tensor.shape.contains(&0));
    if head.body != wire::BodyFormat::Binary {
        return Ok(());
    }
    if let Request::Decode(request) = head.request(vec![0; tensor.byte_len()].into())? {
        let again = RequestHead::read(&request.query(), Some(request.content_type()), Some(request.accept()))
            .and_then(|head| head.request(request.latents.bytes.clone()));
        assert_eq!(again, Ok(Request::Decode(request)), "{query:?}");
    }
    Ok(())
}
