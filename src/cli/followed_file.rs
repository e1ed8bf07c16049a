//! A file of declarations that is followed: read again when it may have changed, taken over once it
//! stays as it is, and tried again where that failed.
//!
//! A file that is being written, that is missing for a moment, or that cannot be used changes
//! nothing. What cannot be used now may be later, though the file is the same: a directory that it
//! names appears, a store answers again. So it is tried again, less and less often.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::changes::Why;

/// Whoever writes the file in several pieces pauses for less than this.
const SETTLE: Duration = Duration::from_millis(500);
/// Before the first time that the same file is tried again, and the longest such time.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// A file and what is in force of it.
#[derive(Debug)]
pub struct FollowedFile {
    path: PathBuf,
    max_bytes: u64,
    /// What it is in the log.
    what: &'static str,
    /// The text that is in force; `None` before any is.
    in_force: Option<String>,
    /// Another text, since when it has been there, and the tries of it.
    next: Option<Next>,
    /// What was said last: a fault is told once.
    told: Option<String>,
}

#[derive(Debug)]
struct Next {
    text: String,
    since: Instant,
    failed: u32,
    due: Instant,
}

impl FollowedFile {
    /// Follows the file at `path`, of at most `max_bytes`; `in_force` is what was read before.
    #[must_use]
    pub fn new(
        path: PathBuf,
        max_bytes: u64,
        what: &'static str,
        in_force: Option<String>,
    ) -> Self {
        Self { path, max_bytes, what, in_force, next: None, told: None }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Time after which to look again though nobody says that anything changed, where it is not the
    /// usual one.
    #[must_use]
    pub fn soon(&self) -> Option<Duration> {
        self.next.as_ref().filter(|next| next.failed == 0).map(|_| SETTLE)
    }

    /// Looks at the file, and takes it over with `apply` where that is due, or asked for; what that
    /// gave, where it succeeded.
    pub fn look<T>(
        &mut self,
        now: Instant,
        why: Why,
        apply: impl FnOnce(&str) -> anyhow::Result<T>,
    ) -> Option<T> {
        let done = self.try_look(now, why, apply);
        match done {
            Ok(done) => done,
            Err(error) => {
                let error = format!("{error:#}");
                if self.told.as_ref() != Some(&error) {
                    let (what, path) = (self.what, self.path.display());
                    tracing::error!(
                        "{what} is not followed, what was in force stays: {path}: {error}"
                    );
                    self.told = Some(error);
                }
                None
            }
        }
    }

    fn try_look<T>(
        &mut self,
        now: Instant,
        why: Why,
        apply: impl FnOnce(&str) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let text = read_text(&self.path, self.max_bytes)?;
        if self.in_force.as_ref() == Some(&text) {
            (self.next, self.told) = (None, None);
            return Ok(None);
        }
        let next = match self.next.take() {
            Some(next) if next.text == text => self.next.insert(next),
            _ => self.next.insert(Next { text, since: now, failed: 0, due: now + SETTLE }),
        };
        let is_due = now >= next.due && now.saturating_duration_since(next.since) >= SETTLE;
        if !is_due && why != Why::Asked {
            return Ok(None);
        }
        // As it is for a moment where it is written anew.
        let applied = if next.text.is_empty() && self.in_force.is_some() {
            Err(anyhow::anyhow!("it is empty"))
        } else {
            apply(&next.text)
        };
        match applied {
            Ok(done) => {
                self.in_force = self.next.take().map(|next| next.text);
                self.told = None;
                Ok(Some(done))
            }
            Err(error) => {
                let [first, longest] = RETRY;
                next.due = now + first.saturating_mul(1 << next.failed.min(10)).min(longest);
                next.failed += 1;
                Err(error)
            }
        }
    }
}

/// The text of a file of at most `max_bytes`, read no further than that.
///
/// # Errors
/// Where it cannot be read, is longer, or is no UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= max_bytes, "it has more than {max_bytes} bytes");
    String::from_utf8(bytes).context("it is not UTF-8")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::bail;

    use super::*;

    /// Looks every quarter of a second for so many seconds; what was taken over, and how often it was
    /// tried.
    fn looks(
        file: &mut FollowedFile,
        now: &mut Instant,
        seconds: u64,
        mut usable: impl FnMut(&str) -> bool,
    ) -> (Vec<String>, u32) {
        let (mut taken, mut tries) = (Vec::new(), 0);
        for _ in 0..seconds * 4 {
            *now += Duration::from_millis(250);
            taken.extend(file.look(*now, Why::Change, |text| {
                tries += 1;
                if usable(text) { Ok(text.to_owned()) } else { bail!("unusable") }
            }));
        }
        (taken, tries)
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(text: &str) -> (Self, FollowedFile, Instant) {
            let folder = Self(tempfile::tempdir().unwrap());
            let path = folder.0.path().join("file.toml");
            fs::write(&path, text).unwrap();
            let file = FollowedFile::new(path, 100, "the file", Some(text.to_owned()));
            (folder, file, Instant::now())
        }

        fn write(&self, text: &str) {
            fs::write(self.0.path().join("file.toml"), text).unwrap();
        }
    }

    #[test]
    fn a_file_is_taken_over_once_it_stays_as_it_is() {
        let (folder, mut file, mut now) = Folder::new("one");
        assert_eq!(looks(&mut file, &mut now, 2, |_| true), (vec![], 0));
        // Written in pieces, a fifth of a second each.
        for text in ["", "t", "tw", "two"] {
            folder.write(text);
            now += Duration::from_millis(200);
            assert_eq!(file.look(now, Why::Change, |text| Ok(text.to_owned())), None, "{text}");
        }
        assert_eq!(file.soon(), Some(SETTLE));
        assert_eq!(looks(&mut file, &mut now, 5, |_| true), (vec!["two".to_owned()], 1));
        assert_eq!(file.soon(), None);
        // What comes and goes again was nothing.
        folder.write("three");
        file.look(now, Why::Change, |_| Ok(()));
        folder.write("two");
        assert_eq!(looks(&mut file, &mut now, 5, |_| true), (vec![], 0));
    }

    #[test]
    fn what_cannot_be_used_is_tried_again_less_and_less_often_until_it_can() {
        let (folder, mut file, mut now) = Folder::new("one");
        folder.write("two");
        let (taken, tries) = looks(&mut file, &mut now, 300, |_| false);
        assert!(taken.is_empty() && (10..20).contains(&tries), "{tries} tries");
        assert_eq!(looks(&mut file, &mut now, 31, |_| true), (vec!["two".to_owned()], 1));
        // Another text does not wait for the last one's next try.
        folder.write("three");
        looks(&mut file, &mut now, 300, |_| false);
        folder.write("four");
        assert_eq!(looks(&mut file, &mut now, 1, |_| true), (vec!["four".to_owned()], 1));
    }

    #[test]
    fn what_is_asked_for_is_read_at_once() {
        let (folder, mut file, mut now) = Folder::new("one");
        let ask =
            |file: &mut FollowedFile, now| file.look(now, Why::Asked, |text| Ok(text.to_owned()));
        folder.write("two");
        assert_eq!(ask(&mut file, now), Some("two".to_owned()));
        // The same again is nothing new, and what failed waits for no later time.
        assert_eq!(ask(&mut file, now), None);
        folder.write("three");
        looks(&mut file, &mut now, 300, |_| false);
        assert_eq!(file.look(now, Why::Change, |text| Ok(text.to_owned())), None);
        assert_eq!(ask(&mut file, now), Some("three".to_owned()));
        // A file that is being written anew is not asked for.
        folder.write("");
        assert_eq!(ask(&mut file, now), None);
    }

    #[test]
    fn a_file_that_is_not_there_or_not_whole_changes_nothing() {
        let (folder, mut file, mut now) = Folder::new("one");
        let path = file.path().to_owned();
        let unusable: [&dyn Fn(); 5] = [
            &|| fs::remove_file(&path).unwrap(),
            &|| fs::create_dir(&path).unwrap(),
            &|| {
                fs::remove_dir(&path).unwrap();
                fs::write(&path, [0xff, 0xfe]).unwrap();
            },
            &|| folder.write(&"x".repeat(101)),
            &|| folder.write(""),
        ];
        for make in unusable {
            make();
            assert_eq!(looks(&mut file, &mut now, 40, |_| true), (vec![], 0));
        }
        folder.write("two");
        assert_eq!(looks(&mut file, &mut now, 2, |_| true), (vec!["two".to_owned()], 1));
    }

    /// A way to replace a file, and what it is called.
    type Way<'a> = (&'a str, &'a dyn Fn(&str));

    #[cfg(unix)]
    #[test]
    fn a_file_may_be_replaced_in_every_way_there_is() {
        use std::os::unix::fs::symlink;

        let (folder, mut file, mut now) = Folder::new("1");
        let (dir, path) = (folder.0.path().to_owned(), file.path().to_owned());
        let aside = |text: &str| {
            fs::write(dir.join("new"), text).unwrap();
            dir.join("new")
        };
        let versioned = |text: &str| {
            fs::create_dir(dir.join(text)).unwrap();
            fs::write(dir.join(text).join("file.toml"), text).unwrap();
            symlink(text, dir.join("next")).unwrap();
            fs::rename(dir.join("next"), dir.join("..data")).unwrap();
        };
        let ways: [Way<'_>; 5] = [
            ("written in place", &|text| fs::write(&path, text).unwrap()),
            ("renamed over", &|text| fs::rename(aside(text), &path).unwrap()),
            ("removed and made anew", &|text| {
                fs::remove_file(&path).unwrap();
                fs::write(&path, text).unwrap();
            }),
            ("a link into a directory of versions", &|text| {
                versioned(text);
                fs::remove_file(&path).unwrap();
                symlink("..data/file.toml", &path).unwrap();
            }),
            ("that directory's link swapped", &|text| versioned(text)),
        ];
        for (number, (way, replace)) in ways.into_iter().enumerate() {
            let text = format!("text {number}");
            replace(&text);
            assert_eq!(looks(&mut file, &mut now, 2, |_| true), (vec![text], 1), "{way}");
        }
    }
}
