//! Stub.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}
pub struct Matched {
    pub emit: String,
    pub stopped: Option<String>,
}
impl StopMatcher {
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }
    pub fn push(&mut self, t: &str) -> Matched {
        self.held.push_str(t);
        let hit = self
            .stops
            .iter()
            .filter_map(|s| self.held.find(s.as_str()).map(|p| (p, s.clone())))
            .min();
        if let Some((p, s)) = hit {
            let emit = self.held[..p].to_owned();
            self.held.clear();
            return Matched { emit, stopped: Some(s) };
        }
        let mut cut = self.held.len();
        for i in (0..self.held.len()).filter(|i| self.held.is_char_boundary(*i)) {
            if self.stops.iter().any(|s| s.starts_with(&self.held[i..])) {
                cut = i;
                break;
            }
        }
        let emit = self.held.drain(..cut).collect();
        Matched { emit, stopped: None }
    }
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
