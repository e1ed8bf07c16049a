//! Hears of changes of files from the system, for those who follow one. What a follower does itself,
//! opening and reading, is no change: it would have to look again for ever.

use std::path::Path;
use std::sync::mpsc::SyncSender;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Says a word for each change in the directory `dir`, itself and not what lies deeper, for as long as
/// the watcher lives. A word that nobody took yet stands for later ones too. An empty path is the
/// current directory.
///
/// # Errors
/// Where the system cannot tell of changes there.
pub fn listen(dir: &Path, said: SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // An error may stand for changes that were lost.
        if event.is_ok_and(|event| !is_change(event.kind)) {
            return;
        }
        let _ = said.try_send(());
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
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

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
        let (said, heard) = sync_channel(1);
        let _watcher = listen(folder.path(), said).unwrap();
        fs::write(&file, "two").unwrap();
        let patience = Duration::from_secs(30);
        heard.recv_timeout(patience).unwrap();
        // A write is several words; each is answered by a look, which is none.
        let mut looks = 0;
        while heard.recv_timeout(Duration::from_millis(200)).is_ok() {
            assert_eq!(fs::read_to_string(&file).unwrap(), "two");
            looks += 1;
            assert!(looks < 10, "what is read is heard of");
        }
    }
}
