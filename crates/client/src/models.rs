//! What a server says of its models.

use serde_json::Value;
use wire::routes::{self, Target};

use crate::{Error, RemoteVae};

/// What a server says of a model that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedModel {
    /// Its name in URLs.
    pub name: String,
    /// Channels of its latents.
    pub latent_channels: usize,
    /// Frames that one latent frame stands for; `None` for models of pictures.
    pub temporal_factor: Option<usize>,
}

impl RemoteVae {
    /// What the server says of this client's model, of several endpoints the first. `None` for a server that has no list
    /// of models, as others than ours, and for a model that is not loaded yet.
    ///
    /// # Errors
    /// A server that cannot be reached, or does not answer within ten seconds.
    pub async fn model(&self) -> Result<Option<ServedModel>, Error> {
        let Some(connection) = self.connections.first() else { return Ok(None) };
        let list = connection.document(routes::MODELS).await?;
        Ok(list.and_then(|list| find(&list, connection.endpoint.path())))
    }
}

/// The model that a path of an endpoint names, in the list that `/models` gives.
fn find(list: &[u8], path: &str) -> Option<ServedModel> {
    let list: Value = serde_json::from_slice(list).ok()?;
    let target = routes::target(path)?;
    let is_meant = |model: &&Value| match &target {
        Target::Default => model["default"] == true,
        Target::Model(name) => model["name"] == **name,
    };
    let model = list["models"].as_array()?.iter().find(is_meant)?;
    let number = |key: &str| model[key].as_u64().and_then(|number| usize::try_from(number).ok());
    Some(ServedModel {
        name: model["name"].as_str()?.to_owned(),
        latent_channels: number("latent_channels")?,
        temporal_factor: number("temporal_factor"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_an_endpoint_is_found() {
        let list = br#"{"models": [
            {"name": "sdxl", "default": true, "latent_channels": 4, "temporal_factor": null},
            {"name": "video", "default": false, "latent_channels": 16, "temporal_factor": 4},
            {"name": "lazy", "default": false}
        ]}"#;
        let sdxl = ServedModel { name: "sdxl".to_owned(), latent_channels: 4, temporal_factor: None };
        let video = ServedModel { name: "video".to_owned(), latent_channels: 16, temporal_factor: Some(4) };
        for (path, expected) in [
            ("/", Some(&sdxl)),
            ("/sdxl/", Some(&sdxl)),
            ("/video/predict", Some(&video)),
            ("/lazy", None),
            ("/none", None),
            ("/a/b", None),
        ] {
            assert_eq!(find(list, path).as_ref(), expected, "{path}");
        }
        for other in [&b"<html>"[..], b"[]", b"{}", b"{\"models\": 1}", b"{\"models\": [1]}"] {
            assert_eq!(find(other, "/"), None);
        }
    }
}
