//! The `Accept` header.

/// What a client takes, most wanted first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept(Vec<String>);

impl Accept {
    /// Reads the header; an absent or empty one takes everything. What has no sense is passed over.
    pub fn read(header: Option<&str>) -> Self {
        let mut wanted: Vec<(String, f32)> = header
            .unwrap_or_default()
            .split(',')
            .filter_map(|item| {
                let mut parts = item.split(';').map(str::trim);
                let media_type = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
                let quality = parts
                    .filter_map(|parameter| parameter.split_once('='))
                    .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
                    .map_or(Ok(1.0), |(_, value)| value.trim().parse::<f32>())
                    .unwrap_or(1.0);
                (quality > 0.0).then_some((media_type, quality))
            })
            .collect();
        if wanted.is_empty() {
            return Self(vec!["*/*".to_owned()]);
        }
        // Stable, so that equals stay in the order they were written in.
        wanted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Self(wanted.into_iter().map(|(media_type, _)| media_type).collect())
    }

    /// The media types, most wanted first, in lower case and without parameters.
    pub fn media_types(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_wishes() {
        for (header, expected) in [
            (None, vec!["*/*"]),
            (Some(""), vec!["*/*"]),
            (Some("image/PNG"), vec!["image/png"]),
            (Some("image/png;q=0.5, image/jpeg"), vec!["image/jpeg", "image/png"]),
            (Some("text/html,image/webp,*/*; Q=0.8,image/png;q=0"), vec!["text/html", "image/webp", "*/*"]),
            (Some("image/png;q=lots,,;q=1"), vec!["image/png"]),
        ] {
            assert_eq!(Accept::read(header).media_types().collect::<Vec<_>>(), expected, "{header:?}");
        }
    }
}
