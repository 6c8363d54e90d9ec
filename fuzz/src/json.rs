//! Bodies of requests in JSON.

use wire::{JSON, Picture, Request, RequestHead, Survey, TENSOR_BASE64};

use crate::{KIB, sentence, within};

/// The body, once with everything in it and once with the shape in the query.
pub fn json(input: &[u8]) {
    let heads = [("", JSON), ("shape=[1,2,2,2]&dtype=uint8", TENSOR_BASE64), ("task=encode", TENSOR_BASE64)];
    for (query, content_type) in heads {
        let head = RequestHead::read(query, Some(content_type), None).expect("this head is in order");
        let body = input.to_vec().into();
        // A JSON number of two letters becomes a value, a text and an axis.
        let request = within(128 * input.len() + 64 * KIB, || head.request_with_slips(body));
        match request.map(|(request, _)| request) {
            Err(error) => sentence(&error.to_string()),
            Ok(Request::Decode(request)) => {
                assert_eq!(request.latents.bytes.len(), request.latents.head.byte_len());
                assert!(request.latents.bytes.len() <= input.len());
                let survey = Survey::of(&request.latents);
                let odd = survey.non_finite("the latents").or(survey.impossible_start("the latents", 0.0));
                odd.iter().for_each(|text| sentence(text));
            }
            Ok(Request::Encode(request)) => {
                let (Picture::File(bytes) | Picture::Tensor(wire::Tensor { bytes, .. })) = request.picture;
                assert!(bytes.len() <= input.len());
            }
        }
    }
}
