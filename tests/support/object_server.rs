//! A web server of objects on loopback, which does to its clients what networks do: it breaks
//! connections, answers with errors, and changes objects meanwhile. It writes down what it is asked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::ErrorKind::{TimedOut, WouldBlock};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between drops.
const DROP: Duration = Duration::from_millis(5);

/// Something that lies at a path.
#[derive(Debug, Clone, Default)]
pub struct Object {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// With its quotes; without, the server tells no versions apart.
    pub tag: Option<String>,
    /// It lies elsewhere.
    pub redirect: Option<String>,
    /// Whoever does not carry it gets 401.
    pub bearer: Option<String>,
    /// Said with every answer.
    pub headers: Vec<(String, String)>,
    /// The answer does not say how much will come.
    pub endless: bool,
    /// Its tag is said, and conditions are not looked at.
    pub unconditional: bool,
    /// So many bytes come at a time, with a pause after each: for as long as somebody listens.
    pub drips: Option<usize>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// By small letters.
    pub headers: BTreeMap<String, String>,
    pub status: u16,
    /// Bytes of body that were sent.
    pub sent: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the server does.
#[derive(Debug, Default)]
pub struct Script {
    pub objects: BTreeMap<String, Object>,
    /// The next bodies break off after so many bytes, one after the other.
    pub cuts: Vec<usize>,
    /// So many requests are answered with 503 first.
    pub failures: usize,
    /// So many requests are not answered at all first: their connections stay until the client goes.
    pub silences: usize,
    /// What such an answer says beside that.
    pub failure_headers: String,
    /// The next answers of a path: all that is sent, from the first line on.
    pub answers: BTreeMap<String, VecDeque<Vec<u8>>>,
    /// The same, once the path was asked for and answered as it should be.
    pub later: BTreeMap<String, VecDeque<Vec<u8>>>,
    /// When the path is asked for, another object changes: path, other path, what it becomes.
    pub change: Option<(String, String, Object)>,
    pub seen: Vec<Seen>,
}

/// A running server.
pub struct ObjectServer {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ObjectServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (script, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&script), Arc::clone(&stop));
        let accept = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || {
                    // Clients may go at any time.
                    let _ = answer(&stream, &shared);
                });
            }
        };
        Self { address, script, stop, thread: Some(std::thread::spawn(accept)) }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object of this content there, whose tag is made of it.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.script().objects.insert(path.to_owned(), object(bytes));
    }

    /// The requests for paths that end so, since this was last asked.
    pub fn take_seen(&self, ending: &str) -> Vec<Seen> {
        let seen = std::mem::take(&mut self.script().seen);
        seen.into_iter().filter(|seen| seen.path.ends_with(ending)).collect()
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // One more connection, for the loop to look.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An object of this content, whose tag is made of it.
pub fn object(bytes: &[u8]) -> Object {
    let tag = Some(format!("\"{}\"", &blake3::hash(bytes).to_hex()[..16]));
    Object { bytes: bytes.to_vec(), tag, ..Object::default() }
}

fn answer(stream: &TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let head = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut seen =
        Seen { method: method.to_owned(), path: decoded(path), headers, status: 0, sent: 0 };
    let (reply, body, drips) = {
        let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
        if script.silences > 0 {
            script.silences -= 1;
            script.seen.push(seen);
            drop(script);
            let mut stream = stream;
            return stream.read(&mut [0]).map(drop);
        }
        if let Some(answer) = script.answers.get_mut(&seen.path).and_then(VecDeque::pop_front) {
            script.seen.push(seen);
            drop(script);
            let mut stream = stream;
            stream.write_all(&answer)?;
            return stream.shutdown(Shutdown::Write);
        }
        if let Some(answers) = script.later.get_mut(&seen.path).map(std::mem::take) {
            script.answers.insert(seen.path.clone(), answers);
        }
        let drips = script.objects.get(&seen.path).and_then(|object| object.drips);
        let (status, headers, mut body) = respond(&mut script, &seen);
        if method == "HEAD" {
            body.clear();
        } else if body.len() > 1 && !script.cuts.is_empty() && status / 100 == 2 {
            let cut = script.cuts.remove(0);
            body.truncate(cut);
        }
        (seen.status, seen.sent) = (status, body.len());
        script.seen.push(seen);
        (format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}\r\n"), body, drips)
    };
    let mut stream = stream;
    stream.write_all(reply.as_bytes())?;
    match drips {
        Some(size) => drip(stream, &body, size)?,
        None => stream.write_all(&body)?,
    }
    stream.shutdown(Shutdown::Write)
}

/// Sends a body slowly. Reading waits for as long as nothing comes, and ends where the client goes.
fn drip(mut stream: &TcpStream, body: &[u8], size: usize) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DROP))?;
    for chunk in body.chunks(size) {
        stream.write_all(chunk)?;
        match stream.read(&mut [0]) {
            Ok(0) => break,
            Err(error) if !matches!(error.kind(), WouldBlock | TimedOut) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Without escapes.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        decoded.push(char::from(u8::from_str_radix(digits, 16).unwrap()));
        decoded.push_str(rest);
    }
    decoded
}

/// Status, headers and body.
fn respond(script: &mut Script, seen: &Seen) -> (u16, String, Vec<u8>) {
    if script.failures > 0 {
        script.failures -= 1;
        let headers = format!("content-length: 0\r\n{}", script.failure_headers);
        return (503, headers, Vec::new());
    }
    let found = script.objects.get(&seen.path).cloned();
    if script.change.as_ref().is_some_and(|(path, ..)| *path == seen.path) {
        let (_, other, object) = script.change.take().unwrap();
        script.objects.insert(other, object);
    }
    let Some(object) = found else {
        return (404, "content-length: 0\r\n".to_owned(), Vec::new());
    };
    let mut headers = String::new();
    for (name, value) in &object.headers {
        write!(headers, "{name}: {value}\r\n").unwrap();
    }
    let empty =
        |status: u16, headers: String| (status, headers + "content-length: 0\r\n", Vec::new());
    let bearer = object.bearer.as_ref().map(|token| format!("Bearer {token}"));
    if bearer.is_some() && bearer.as_deref() != seen.header("authorization") {
        return empty(401, headers);
    }
    if let Some(target) = &object.redirect {
        return empty(302, headers + &format!("location: {target}\r\n"));
    }
    if let Some(tag) = &object.tag {
        write!(headers, "etag: {tag}\r\nlast-modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n").unwrap();
        let is_asked = |name| if object.unconditional { None } else { seen.header(name) };
        if is_asked("if-none-match") == Some(tag) {
            return (304, headers, Vec::new());
        }
        if is_asked("if-match").is_some_and(|wanted| wanted != tag) {
            return empty(412, headers);
        }
    }
    let size = object.bytes.len();
    let range = seen.header("range").and_then(|range| range.strip_prefix("bytes="));
    let from = range.and_then(|range| range.split_once('-')?.0.parse::<usize>().ok());
    let (status, body) = match from {
        Some(from) if from >= size => return empty(416, headers),
        Some(from) => {
            write!(headers, "content-range: bytes {from}-{}/{size}\r\n", size - 1).unwrap();
            (206, object.bytes[from..].to_vec())
        }
        None => (200, object.bytes),
    };
    if !object.endless {
        write!(headers, "content-length: {}\r\n", body.len()).unwrap();
    }
    (status, headers, body)
}
