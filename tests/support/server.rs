//! A real `sorsa serve` in a process of its own, on a free loopback port.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    url: String,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts `sorsa serve MODEL --port 0 ARGS...` and waits for its line that it is ready.
    pub fn start(model: &Path, args: &[&str]) -> Self {
        Self::start_in(model, args, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_in(model: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let (mut server, lines) = Self::spawn(model, args, environment);
        let ready = lines.iter().find_map(|line| {
            let (_, rest) = line.split_once(" on http://")?;
            Some(format!("http://{}", rest.split(',').next()?))
        });
        server.url = ready.unwrap_or_else(|| panic!("no server: {}", server.log()));
        server
    }

    /// Starts one that is expected to end by itself: its exit status and what it logged.
    pub fn run_to_end(model: &Path, args: &[&str]) -> (ExitStatus, String) {
        let (mut server, lines) = Self::spawn(model, args, &[]);
        lines.iter().for_each(drop);
        let status = server.child.wait().unwrap();
        (status, server.log())
    }

    fn spawn(
        model: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> (Self, std::sync::mpsc::Receiver<String>) {
        // What clients of this process use, where they have to choose.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sorsa"))
            .arg("serve")
            .arg(model)
            .args(["--port", "0"])
            .args(args)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = std::sync::mpsc::sync_channel(4096);
        let shared = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
                drop(log);
                // Nobody reads any more once the server is ready.
                let _ = sender.try_send(line);
            }
        });
        (Self { child, url: String::new(), log, reader: Some(reader) }, lines)
    }

    /// `http://ADDRESS` + `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The port it listens on.
    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Posts JSON; the answer must be a success.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, body) = self.try_post(path, body).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Posts JSON: status and JSON body of the answer.
    pub async fn try_post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = reqwest::Client::new().post(self.url(path)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The sum of a metric's samples, whatever their labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(self.url("/metrics")).await.unwrap().text().await.unwrap();
        let sample = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
            rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
        };
        let samples: Vec<f64> = text.lines().filter_map(sample).collect();
        assert!(!samples.is_empty(), "no metric {name} in\n{text}");
        samples.into_iter().sum()
    }

    /// Calls a path with any method, and a JSON body where there is one: status and JSON body of the
    /// answer, `null` where that is empty.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = reqwest::Client::new().request(method, self.url(path));
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The processors that each of its threads may run on, as Linux writes them, by the thread's name.
    pub fn processors(&self) -> Vec<(String, String)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let statuses =
            tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")));
        let field = |status: &str, name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim().to_owned()
        };
        let of = |status: String| (field(&status, "Name:"), field(&status, "Cpus_allowed_list:"));
        // A thread may have ended meanwhile.
        statuses.filter_map(Result::ok).map(of).collect()
    }

    /// How nice each of its threads is to others (sched(7)), by the thread's name.
    pub fn nice_levels(&self) -> Vec<(String, i32)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let stats = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")));
        let of = |stat: String| {
            let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
            (name.to_owned(), rest.split_whitespace().nth(16).unwrap().parse().unwrap())
        };
        // A thread may have ended meanwhile.
        stats.filter_map(Result::ok).map(of).collect()
    }

    /// Memory of the process, in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    /// The most memory that the process has held since [`Self::forget_peak`], in bytes.
    pub fn peak_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    /// From now on the most memory that it has held is what it holds now.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
