//! Has those look at files who follow one: when the system says that something changed, or when
//! somebody asks for it. What a follower does itself, opening and reading, is no change: it would have
//! to look again for ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Files come in several writes: for so long after a change there may be one more.
const SETTLE: Duration = Duration::from_millis(50);
/// And then no longer than so many times that.
const MOST_MOMENTS: usize = 20;

/// Has a follower look. A word that it did not hear yet stands for later ones too.
#[derive(Debug, Clone)]
pub struct Look {
    word: SyncSender<()>,
    asked: Arc<AtomicBool>,
}

/// What a follower waits for.
#[derive(Debug)]
pub struct Looks {
    words: Receiver<()>,
    asked: Arc<AtomicBool>,
}

/// Why a follower is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is time, or something may have changed.
    Change,
    /// Somebody says that what lies there is to be read now.
    Asked,
}

/// A follower's ear, and what it hears.
#[must_use]
pub fn looks() -> (Look, Looks) {
    let (word, words) = sync_channel(1);
    let asked = Arc::<AtomicBool>::default();
    (Look { word, asked: Arc::clone(&asked) }, Looks { words, asked })
}

impl Look {
    /// Something may have changed.
    pub fn changed(&self) {
        // One word is there already, or nobody listens any more.
        let _ = self.word.try_send(());
    }

    /// What lies there is to be read now.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.changed();
    }
}

impl Looks {
    /// Waits for a word, at most for `time`, and for what belongs to it: until nothing is said for a
    /// moment, or somebody never stops. `None` once nobody can say one any more.
    pub fn wait(&self, time: Duration) -> Option<Why> {
        match self.words.recv_timeout(time) {
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) => {
                let is_calm = |_: &usize| self.words.recv_timeout(SETTLE).is_err();
                (0..MOST_MOMENTS).find(is_calm);
            }
        }
        let asked = self.asked.swap(false, Ordering::AcqRel);
        Some(if asked { Why::Asked } else { Why::Change })
    }
}

/// Says a word for each change in the directory `dir`, itself and not what lies deeper, for as long as
/// the watcher lives. An empty path is the current directory.
///
/// # Errors
/// Where the system cannot tell of changes there.
pub fn listen(dir: &Path, look: Look) -> notify::Result<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // An error may stand for changes that were lost.
        if event.is_ok_and(|event| !is_change(event.kind)) {
            return;
        }
        look.changed();
    };
    let mut watcher = notify::recommended_watcher(tell)?;
    let dir = if dir == Path::new("") { Path::new(".") } else { dir };
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether files may be others than before.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => matches!(
            kind,
            AccessKind::Any | AccessKind::Other | AccessKind::Close(AccessMode::Write)
        ),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use notify::event::{CreateKind, ModifyKind, RemoveKind};

    use super::*;

    #[test]
    fn reading_is_no_change() {
        for kind in [
            AccessKind::Read,
            AccessKind::Open(AccessMode::Any),
            AccessKind::Open(AccessMode::Read),
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!is_change(EventKind::Access(kind)), "{kind:?}");
        }
        for kind in [
            EventKind::Any,
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Any),
            EventKind::Remove(RemoveKind::Any),
        ] {
            assert!(is_change(kind), "{kind:?}");
        }
    }

    #[test]
    fn a_follower_that_reads_hears_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        fs::write(&file, "one").unwrap();
        let (look, looks) = looks();
        let _watcher = listen(folder.path(), look).unwrap();
        fs::write(&file, "two").unwrap();
        let patience = Duration::from_secs(30);
        looks.words.recv_timeout(patience).unwrap();
        // A write is several words; each is answered by a look, which is none.
        let mut heard = 0;
        while looks.words.recv_timeout(Duration::from_millis(200)).is_ok() {
            assert_eq!(fs::read_to_string(&file).unwrap(), "two");
            heard += 1;
            assert!(heard < 10, "what is read is heard of");
        }
    }

    #[test]
    fn a_follower_hears_that_it_is_asked_however_much_changes() {
        let (look, looks) = looks();
        let moment = Duration::from_millis(1);
        assert_eq!(looks.wait(moment), Some(Why::Change));
        look.changed();
        look.ask();
        look.changed();
        assert_eq!(looks.wait(moment), Some(Why::Asked));
        look.changed();
        assert_eq!(looks.wait(moment), Some(Why::Change));
        drop(look);
        assert_eq!(looks.wait(moment), None);
    }
}
