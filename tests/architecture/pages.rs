//! The pages that people read (`*.md`): their headings, and the links between them. It knows as much of
//! Markdown as these pages use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A page, from the repository's root.
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

impl Page {
    /// What `#…` in a link to this page may name, as GitHub makes it from the headings.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for (_, line) in self.prose() {
            let title = line.trim_start_matches('#');
            if title.len() < line.len() && title.starts_with(' ') {
                let first = anchor(title.trim());
                let numbered = (1..).map(|number| format!("{first}-{number}"));
                let free = std::iter::once(first.clone()).chain(numbered);
                anchors.extend(free.into_iter().find(|name| !anchors.contains(name)));
            }
        }
        anchors
    }

    /// Where links lead, and on which lines they stand.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (line, text) in self.prose() {
            let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            links.extend(ends.map(|(target, _)| (line, target.to_owned())));
        }
        links
    }

    /// Numbered lines outside of blocks of code, without the code within them.
    fn prose(&self) -> Vec<(usize, String)> {
        let mut within = false;
        let mut prose = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            let fence = line.starts_with("```");
            within ^= fence;
            if !within && !fence && !line.starts_with("    ") {
                prose.push((index + 1, without_code(line)));
            }
        }
        prose
    }
}

/// A line without what links cannot stand in: in a heading the words in code count, elsewhere not.
fn without_code(line: &str) -> String {
    if line.starts_with('#') {
        return line.replace('`', "");
    }
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// Letters and digits in lower case, blanks as `-`; of the rest `-` and `_` stay.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Every page beneath `folder`, hidden and built directories apart.
pub fn read(folder: &Path) -> Vec<Page> {
    let mut pages = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(&path).expect("a readable page");
                let path = path.strip_prefix(folder).expect("below the folder").to_owned();
                pages.push(Page { path, text });
            }
        }
    }
    pages
}

/// Links within `pages` that lead to no file beneath `root`, or to no heading of it.
pub fn broken_links(pages: &[Page], root: &Path) -> Vec<String> {
    let leads = |page: &Page, target: &str| {
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let path = match file {
            "" => page.path.clone(),
            _ => resolved(&page.path.parent().expect("a folder").join(file)),
        };
        let there = pages.iter().find(|page| page.path == path);
        let heading_is_there =
            heading.is_empty() || there.is_some_and(|page| page.anchors().contains(heading));
        heading_is_there && (there.is_some() || root.join(&path).exists())
    };
    let broken = pages.iter().flat_map(|page| {
        let links = page.links().into_iter().filter(|(_, target)| !target.contains("://"));
        let broken = links.filter(|(_, target)| !leads(page, target));
        broken.map(|(line, target)| format!("{}:{line} {target}", page.path.display()))
    });
    broken.collect()
}

/// A path without its `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts
}
