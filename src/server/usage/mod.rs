//! Usage records, for billing: one line of JSON for each request that reached the engine.
//!
//! A request is only let in with a place for its record in a bounded queue, so that no record is ever
//! dropped for want of one: where the disk does not keep up, new requests are refused instead. A
//! thread of its own writes what is queued, and syncs it before it takes more.

pub mod file;
pub mod record;

use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use self::file::UsageFile;
use self::record::UsageRecord;

/// Requests that run or whose records wait to be written.
const CAPACITY: usize = 8192;
/// Bytes that are written at once.
const BATCH_BYTES: usize = 256 << 10;

/// The way to the file.
#[derive(Debug)]
pub struct UsageLog {
    sender: mpsc::Sender<Message>,
}

/// A place for one record.
#[derive(Debug)]
pub struct UsageSlot(mpsc::OwnedPermit<Message>);

#[derive(Debug)]
enum Message {
    Record(Box<UsageRecord>),
    /// Answered once everything before it is on the disk.
    Flush(oneshot::Sender<()>),
}

impl UsageLog {
    /// Appends to the file at `path`; one of `max_bytes` makes room for a new one.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(path: &Path, max_bytes: u64) -> std::io::Result<Self> {
        let file = UsageFile::open(path, max_bytes)?;
        let (sender, receiver) = mpsc::channel(CAPACITY);
        std::thread::Builder::new().name("usage".into()).spawn(|| write(file, receiver))?;
        Ok(Self { sender })
    }

    /// A place for a record; `None` where all are taken.
    #[must_use]
    pub fn reserve(&self) -> Option<UsageSlot> {
        self.sender.clone().try_reserve_owned().ok().map(UsageSlot)
    }

    /// Returns once every record that has been sent is on the disk.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).await.is_ok() {
            // An error means that the writer is gone, and with it everything it could write.
            let _ = written.await;
        }
    }
}

impl UsageSlot {
    /// Sends the record. It will be written, however long that takes.
    pub fn send(self, record: UsageRecord) {
        self.0.send(Message::Record(Box::new(record)));
    }
}

fn write(mut file: UsageFile, mut messages: mpsc::Receiver<Message>) {
    let mut lines = Vec::new();
    while let Some(first) = messages.blocking_recv() {
        lines.clear();
        let mut flushed = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Record(record) => record.write_line(&mut lines),
                Message::Flush(done) => flushed.push(done),
            }
            next = if lines.len() < BATCH_BYTES { messages.try_recv().ok() } else { None };
        }
        file.append(&lines);
        for done in flushed {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_a_place_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        let log = UsageLog::open(&path, 1 << 20).unwrap();
        let mut slots: Vec<_> = std::iter::from_fn(|| log.reserve()).collect();
        assert_eq!(slots.len(), CAPACITY, "and no more requests are let in than have one");
        // Those that used nothing leave no record.
        slots.truncate(100);
        for (number, slot) in slots.into_iter().enumerate() {
            slot.send(UsageRecord { prompt_tokens: number, ..UsageRecord::default() });
        }
        log.flush().await;
        let text = std::fs::read_to_string(&path).unwrap();
        let tokens = text.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["prompt_tokens"].as_u64().unwrap()
        });
        assert_eq!(tokens.collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert!(log.reserve().is_some());
    }
}
