//! bfloat16 as it is served, against the reference's greedy answers. They are fed as they were recorded
//! (teacher forcing), so that one other choice changes nothing after it. What the reference would
//! choose within the prompts was not recorded: there float32 stands for it, as `reference.rs` shows it
//! may.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;
use sorsa::adapter::compact::{Tolerance, compact};
use sorsa::adapter::delta::{FactorDType, LowRankDelta};
use sorsa::adapter::file::{Limits, load};
use sorsa::layers::backend::Backend;
use sorsa::model::contract::CausalLm;

use crate::reference::{Reference, ids, mean_divergence, numbers};
use crate::support::model;
use crate::support::shared::shared_reference;

/// So many choices at least, over prompts and answers, are those of the reference's arithmetic.
const AGREEMENT: f64 = 0.99;
/// Another token than the recorded one is allowed only where the reference's logits of the two are
/// this close: what rounding to bfloat16 moves.
const UNDECIDED: f32 = 0.1;
/// The most that rounding to bfloat16 may cost, in nats a token.
const DIVERGENCE: f64 = 1e-3;
/// Fewer recorded tokens would say little.
const MIN_RECORDED: usize = 500;

/// A prompt with its recorded answer.
struct Text {
    name: String,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    margins: Vec<f32>,
}

impl Text {
    fn recorded(outputs: &Value) -> Vec<Self> {
        let prompts = model::golden("prompts.json");
        let text = |prompt: &Value| {
            let name = prompt["name"].as_str().unwrap().to_owned();
            let greedy = &outputs[&name]["greedy"];
            let (answer, margins) = (ids(&greedy["ids"]), numbers(&greedy["margins"]));
            Self { name, prompt: ids(&prompt["ids"]), answer, margins }
        };
        prompts["prompts"].as_array().unwrap().iter().map(text).collect()
    }

    /// What the model would choose in place of each token of the answer, and all its logits.
    fn logits(&self, reference: &Reference, delta: Option<&Arc<LowRankDelta>>) -> Vec<Vec<f32>> {
        let fed = [&self.prompt[..], &self.answer[..self.answer.len() - 1]].concat();
        reference.logits(&fed, delta)
    }
}

fn best(logits: &[f32]) -> u32 {
    let by_logit = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
    logits.iter().enumerate().max_by(by_logit).unwrap().0 as u32
}

/// What float32 and bfloat16 make of texts.
#[derive(Debug, Default)]
struct Comparison {
    /// Positions, and those at which both choose the same token.
    positions: usize,
    same: usize,
    /// Nats, over all positions.
    divergence: f64,
    /// Recorded tokens, and those that bfloat16 chooses too.
    recorded: usize,
    kept: usize,
    /// The largest margin at which it chooses another one.
    widest: f32,
}

impl Comparison {
    fn of(texts: &[Text], delta: Option<(&LowRankDelta, FactorDType)>) -> Self {
        let (exact, rounded) = (Reference::load_as(DType::F32), Reference::load_as(DType::BF16));
        let prepare = |dtype| {
            delta.map(|(delta, factors)| {
                let backend = Backend::for_device(&Device::Cpu);
                Arc::new(backend.prepare(delta, dtype, factors, &Device::Cpu).unwrap())
            })
        };
        let (exact_delta, rounded_delta) = (prepare(DType::F32), prepare(DType::BF16));
        let mut comparison = Self::default();
        for text in texts {
            let exact = text.logits(&exact, exact_delta.as_ref());
            let rounded = text.logits(&rounded, rounded_delta.as_ref());
            comparison.divergence += mean_divergence(&exact, &rounded) * exact.len() as f64;
            let choices: Vec<_> =
                exact.iter().zip(&rounded).map(|(a, b)| (best(a), best(b))).collect();
            comparison.positions += choices.len();
            comparison.same += choices.iter().filter(|(exact, rounded)| exact == rounded).count();
            comparison.add_answer(text, &choices[text.prompt.len() - 1..]);
        }
        comparison
    }

    /// Adds what is chosen in place of each token of an answer, where it was recorded.
    fn add_answer(&mut self, text: &Text, choices: &[(u32, u32)]) {
        for ((token, margin), (exact, rounded)) in
            text.answer.iter().zip(&text.margins).zip(choices)
        {
            assert_eq!(exact, token, "{}: float32 is the reference", text.name);
            self.recorded += 1;
            if rounded == token {
                self.kept += 1;
            } else {
                self.widest = self.widest.max(*margin);
            }
        }
    }

    fn check(&self) {
        eprintln!("{self:?}");
        let divergence = self.divergence / self.positions as f64;
        assert!(self.same as f64 >= AGREEMENT * self.positions as f64);
        assert!(self.widest < UNDECIDED, "another choice at a margin of {}", self.widest);
        assert!(divergence < DIVERGENCE, "{divergence}");
    }
}

#[test]
fn bfloat16_chooses_as_the_reference_does() {
    let texts = Text::recorded(&model::golden("base.json")["outputs"]);
    let comparison = Comparison::of(&texts, None);
    assert!(comparison.recorded >= MIN_RECORDED);
    comparison.check();
}

#[test]
fn a_real_adapter_in_bfloat16_chooses_as_the_reference_does() {
    a_real_adapter_chooses_as_the_reference_does(FactorDType::Bf16);
}

/// To the same tolerances: its own rounding is lost in that of the weights.
#[test]
fn a_real_adapter_in_8_bits_chooses_as_the_reference_does() {
    a_real_adapter_chooses_as_the_reference_does(FactorDType::Q8);
}

fn a_real_adapter_chooses_as_the_reference_does(factors: FactorDType) {
    let Some(shared) = shared_reference() else { return };
    let texts = Text::recorded(&model::golden("gsm8k-r16-delta.json")["outputs"]);
    let delta = adapter(&shared.join("adapters/gsm8k-r16"));
    let comparison = Comparison::of(&texts, Some((&delta, factors)));
    assert!(comparison.recorded >= MIN_RECORDED);
    comparison.check();
}

/// Its own answers were not recorded: the base's are read instead.
#[test]
fn the_example_adapter_in_fewer_bits_chooses_as_in_float32() {
    let mut texts = Text::recorded(&model::golden("base.json")["outputs"]);
    texts.iter_mut().for_each(|text| text.margins.clear());
    let delta = adapter(&model::pirate());
    for factors in [FactorDType::Bf16, FactorDType::Q8] {
        Comparison::of(&texts, Some((&delta, factors))).check();
    }
}

fn adapter(path: &Path) -> LowRankDelta {
    let model = Reference::load_as(DType::F32).model;
    let loaded = load(path, model.modules(), &Limits::default()).unwrap();
    compact(&loaded.delta, model.modules(), Tolerance::default()).unwrap().0
}
