//! What is said of a SOURCE that cannot be what its user means.

use std::path::Path;

use wire::routes;

use super::{OPTIONS, PIPELINE, Preset};

/// How many letters a name may be off to be taken for another.
const LETTERS_OFF: usize = 2;

/// Files of a folder that are compared with a name, at most.
const MAX_COMPARED: usize = 1000;

/// Why `key` cannot follow a SOURCE, where `value` is to be its value; `None` if it may be something else than an option.
pub(super) fn option(key: &str, value: &str) -> Option<String> {
    if OPTIONS.contains(&key) {
        return None;
    }
    let near = OPTIONS.into_iter().find(|known| is_near(key, known, LETTERS_OFF + 1));
    let is_number = value.parse::<f32>().is_ok() && !Path::new(value).exists();
    let is_word = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    (near.is_some() || is_number && is_word).then(|| {
        let meant = near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
        format!(
            "there is no option `{key}` of a model{meant}; after a SOURCE may stand ,{}=NUMBER, ,{}=NUMBER and \
             ,{PIPELINE}=NAME",
            OPTIONS[0], OPTIONS[1]
        )
    })
}

/// Why `name` cannot be the name of a model, if it cannot.
pub(super) fn name(name: &str) -> Option<String> {
    if routes::is_model_name(name) {
        return None;
    }
    if routes::RESERVED.contains(&name) {
        return Some(format!(
            "a model cannot be called `{name}`, which is a path of the server itself, as are {}; give it another name",
            routes::RESERVED.join(", ")
        ));
    }
    Some(format!(
        "a model cannot be called `{name}`: letters of English, digits, `.`, `_` and `-` can be in its URL"
    ))
}

/// What is said of a path where nothing is.
pub(super) fn nothing_at(path: &Path) -> String {
    let text = path.display();
    let whole = path.to_str().unwrap_or_default();
    let is_word = !whole.is_empty() && !whole.contains(['/', '\\', '.', '~']);
    if is_word {
        let names = Preset::all().map(|preset| preset.name).chain(["demo"]);
        let meant = nearest(whole, names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        return format!(
            "there is no model `{text}`: {meant}`remote-vae models` lists the names, and no file or folder here is called so"
        );
    }
    if whole.starts_with('~') {
        return format!(
            "there is no file or folder {text}; the shell puts your folder in the place of `~` only where a word begins \
             with it: write $HOME instead"
        );
    }
    let missing =
        path.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    if let Some(folder) = missing.last() {
        return format!(
            "there is no file or folder {text}: not even the folder {} is there",
            folder.display()
        );
    }
    let parent = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten().take(MAX_COMPARED);
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let meant = nearest(name, names.iter().map(String::as_str));
    let meant =
        meant.map(|near| format!("; did you mean {}?", parent.join(near).display())).unwrap_or_default();
    format!("there is no file or folder {text}{meant}")
}

/// The name that is nearest to `text`, if one is near.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .filter(|name| is_near(text, name, LETTERS_OFF))
        .min_by_key(|name| (strsim::osa_distance(text, name), name.len()))
}

fn is_near(text: &str, name: &str, letters: usize) -> bool {
    // Of a short name, less may be wrong.
    strsim::osa_distance(text, name) <= letters.min(name.chars().count() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_keyboard_are_recognised() {
        for (word, expected) in [
            ("sdlx", "did you mean `sdxl`?"),
            ("sdv1", "did you mean `sd-v1`?"),
            ("fluxx", "did you mean `flux`?"),
            ("demmo", "did you mean `demo`?"),
            ("hunyuanvideo", "did you mean `hunyuan-video`?"),
            ("something", "there is no model `something`: `remote-vae models` lists"),
        ] {
            let said = nothing_at(Path::new(word));
            assert!(said.contains(expected), "{said}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ae.safetensors"), "").unwrap();
        let said = |path: &str| nothing_at(&folder.path().join(path));
        assert!(said("ae.safetensor").contains("ae.safetensors?"), "{}", said("ae.safetensor"));
        assert!(!said("other.safetensors").contains("did you mean"));
        let deep = said("no/such/file");
        assert!(deep.contains("not even the folder") && deep.ends_with("/no is there"), "{deep}");
        assert!(nothing_at(Path::new("~/vae")).contains("$HOME"));
    }

    #[test]
    fn options_and_names_are_told_from_models() {
        assert!(option("scaling_factr", "0.5").unwrap().contains("did you mean `scaling_factor`?"));
        assert!(option("shiftfactor", "x").unwrap().contains("did you mean `shift_factor`?"));
        assert!(option("scale", "0.5").unwrap().contains("no option `scale`"));
        for (key, value) in [("scaling_factor", "0.5"), ("sdxl", "./a"), ("a/b", "0.5"), ("flux", "demo")] {
            assert_eq!(option(key, value), None, "{key}={value}");
        }
        let reserved = name("health").unwrap();
        assert!(reserved.contains("`health`") && reserved.contains("metrics"), "{reserved}");
        assert!(name("my model").unwrap().contains("letters"));
        assert_eq!(name("my-model"), None);
    }
}
