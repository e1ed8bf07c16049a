//! The files of a Hugging Face directory that hold chat templates, read and not understood.

use std::fs;
use std::path::Path;

use super::disk::{JSON_LIMIT_BYTES, is_there, read};
use super::error::ModelError;

/// The folder of the templates that have names.
pub const ADDITIONAL: &str = "additional_chat_templates";
/// Templates of that folder that are read.
const MAX_TEMPLATES: usize = 64;

/// The text of `chat_template.jinja`, where there is one.
pub(super) fn main(directory: &Path) -> Result<Option<String>, ModelError> {
    let path = directory.join("chat_template.jinja");
    is_there(&path)?.then(|| template(&path)).transpose()
}

/// The texts of `additional_chat_templates/NAME.jinja`, by name, in order.
pub(super) fn additional(directory: &Path) -> Result<Vec<(String, String)>, ModelError> {
    let folder = directory.join(ADDITIONAL);
    if !is_there(&folder)? {
        return Ok(Vec::new());
    }
    let mut templates = Vec::new();
    for entry in fs::read_dir(&folder).map_err(ModelError::io(&folder))? {
        let path = entry.map_err(ModelError::io(&folder))?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|it| it.to_str())) {
            if templates.len() == MAX_TEMPLATES {
                let reason = format!("holds more than {MAX_TEMPLATES} chat templates");
                return Err(ModelError::not_a_model(&folder, reason));
            }
            templates.push((name.to_owned(), template(&path)?));
        }
    }
    templates.sort_unstable();
    Ok(templates)
}

fn template(path: &Path) -> Result<String, ModelError> {
    String::from_utf8(read(path, JSON_LIMIT_BYTES)?)
        .map_err(|_| ModelError::not_a_model(path, "is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_names_of_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!((main(path).unwrap(), additional(path).unwrap()), (None, Vec::new()));
        fs::write(path.join("chat_template.jinja"), "D").unwrap();
        let folder = path.join(ADDITIONAL);
        fs::create_dir(&folder).unwrap();
        for (name, text) in [("tool_use.jinja", "T"), ("rag.jinja", "R"), ("readme.md", "x")] {
            fs::write(folder.join(name), text).unwrap();
        }
        let named = [("rag", "R"), ("tool_use", "T")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(
            (main(path).unwrap().as_deref(), additional(path).unwrap()),
            (Some("D"), named.to_vec())
        );
        fs::write(folder.join("odd.jinja"), [0xFF]).unwrap();
        assert!(additional(path).unwrap_err().to_string().contains("UTF-8"));
    }
}
