//! PEFT's LoRA: `lora_A` (rank x in) and `lora_B` (out x rank) per module, with a scale.
//!
//! `ΔW = s · B A`, where `s` is alpha over the rank, or over its square root for rsLoRA (arXiv
//! 2312.03732). Rank and alpha may be set for some modules by pattern. Which modules are adapted
//! is read off the tensors, not off `target_modules`.
//!
//! PiSSA (arXiv 2404.02948) and its like start from a part of the base weight, `s · B₀ A₀`, and take
//! it out of the weight. Relative to the untouched one `ΔW = s · (B A − B₀ A₀)`, of twice the rank;
//! without the initial factors nobody knows what it is.

use regex::{Regex, RegexBuilder};

use super::config::AdapterConfig;
use super::delta::{LowRankFactors, ModuleSpec};
use super::error::{AdapterError, quoted};
use super::factors::{FactorTable, Folded, ModuleIndex, rank_of, required};
use super::tensors::NamedTensor;

/// Parts of tensor names that belong to features which are no low-rank sum.
const REFUSED: [(&str, &str); 4] = [
    ("lora_magnitude_vector", "DoRA rescales the base weight as well, which is no low-rank sum"),
    ("lora_embedding_", "the adapter changes the embedding"),
    ("modules_to_save", "the adapter replaces whole modules of the base model"),
    ("lora_B.bias", "the adapter adds biases"),
];

/// Initialisations that leave the base weight as it is.
const KEEP_BASE: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Initialisations that take the product of the factors out of the base weight, by their beginning.
const CHANGE_BASE: [&str; 4] = ["pissa", "olora", "corda", "lora_ga"];

const TRAINED: [&str; 2] = ["lora_A", "lora_B"];
const INITIAL: [&str; 2] = ["lora_A_init", "lora_B_init"];

/// Largest compiled pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// What training did to the base weights before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Initialisation {
    /// Nothing.
    KeptBase,
    /// The factors' product was taken out of them.
    TookFactorsOut,
}

impl Initialisation {
    /// What the configuration says.
    pub fn of(config: &AdapterConfig) -> Result<Self, AdapterError> {
        const FIELD: &str = "init_lora_weights";
        let Some(value) = config.get(FIELD) else { return Ok(Self::KeptBase) };
        let Some(init) = value.as_str() else {
            return config.flag(FIELD).map(|_| Self::KeptBase);
        };
        let lower = init.to_lowercase();
        if CHANGE_BASE.iter().any(|method| lower.starts_with(method)) {
            return Ok(Self::TookFactorsOut);
        }
        if lower.starts_with("loftq") {
            let feature = format!("{FIELD} {}", quoted(init));
            let reason = "LoftQ trains on quantised base weights, and what rounding took from them \
                          is no low-rank sum";
            return Err(AdapterError::UnsupportedFeature { feature, reason });
        }
        if KEEP_BASE.contains(&lower.as_str()) {
            return Ok(Self::KeptBase);
        }
        let problem = format!("is {}, of which nobody knows what it did to the base", quoted(init));
        Err(AdapterError::ConfigField { field: FIELD, problem })
    }
}

/// Factors by module and the largest rank as trained. `initial` are the tensors of the adapter as it
/// was saved before training, which are needed where it took them out of the base.
pub(super) fn factors(
    config: &AdapterConfig,
    tensors: Vec<NamedTensor>,
    initial: Option<Vec<NamedTensor>>,
    modules: &ModuleIndex<'_>,
) -> Result<(Vec<Option<LowRankFactors>>, usize), AdapterError> {
    let scales = Scales::new(config, modules.len())?;
    let subtract = Initialisation::of(config)? == Initialisation::TookFactorsOut;
    if subtract && initial.is_none() {
        let init = config.text("init_lora_weights")?.unwrap_or_default();
        return Err(AdapterError::ChangedBase { init: quoted(init) });
    }
    let [a, b] = TRAINED;
    let [a_init, b_init] = INITIAL;
    let mut table = FactorTable::new("LoRA", [a, b, a_init, b_init], modules);
    let sets = [(Some(tensors), TRAINED), (initial.filter(|_| subtract), INITIAL)];
    for (tensors, roles) in sets {
        for tensor in tensors.into_iter().flatten() {
            refuse_feature(&tensor)?;
            table.insert(tensor, |role| {
                TRAINED.iter().position(|known| *known == role).map(|at| roles[at])
            })?;
        }
    }
    let mut largest = 0;
    let factors = table.into_factors(|spec, [down, up, down_init, up_init]| {
        let trained = Pair::new(spec, TRAINED, [down, up])?;
        let (config, scale) = scales.of(&spec.path);
        if trained.rank != config {
            let (module, tensors) = (spec.path.clone(), trained.rank);
            return Err(AdapterError::RankMismatch { module, tensors, config });
        }
        largest = largest.max(trained.rank);
        let initial = subtract.then(|| Pair::initial(spec, [down_init, up_init])).transpose()?;
        match initial {
            Some(initial) => trained.less(&initial, spec, scale),
            None => Ok(trained.scaled(scale)),
        }
    })?;
    Ok((factors, largest))
}

fn refuse_feature(tensor: &NamedTensor) -> Result<(), AdapterError> {
    match REFUSED.iter().find(|(part, _)| tensor.name.contains(part)) {
        Some((_, reason)) => {
            let feature = format!("tensor {}", quoted(&tensor.name));
            Err(AdapterError::UnsupportedFeature { feature, reason })
        }
        None => Ok(()),
    }
}

/// A and B of one module, fitting it and each other.
struct Pair {
    rank: usize,
    down: Vec<f32>,
    up: Vec<f32>,
}

impl Pair {
    fn new(
        spec: &ModuleSpec,
        roles: [&'static str; 2],
        [down, up]: [Option<NamedTensor>; 2],
    ) -> Result<Self, AdapterError> {
        let down = required(down, spec, roles[0])?;
        let up = required(up, spec, roles[1])?;
        Ok(Self { rank: rank_of(&down, &up, spec)?, down: down.values, up: up.values })
    }

    fn initial(spec: &ModuleSpec, tensors: [Option<NamedTensor>; 2]) -> Result<Self, AdapterError> {
        if let Some(missing) = tensors.iter().position(Option::is_none) {
            let (module, factor) = (spec.path.clone(), INITIAL[missing]);
            return Err(AdapterError::MissingInitial { module, factor });
        }
        Self::new(spec, INITIAL, tensors)
    }

    fn scaled(self, scale: f64) -> Folded {
        let up = scaled(&self.up, scale).collect();
        Folded { rank: self.rank, down: self.down, up, scale }
    }

    /// `[s B | −s B₀]` and `[A ; A₀]`.
    fn less(self, initial: &Self, spec: &ModuleSpec, scale: f64) -> Result<Folded, AdapterError> {
        let rank = self.rank;
        if rank != initial.rank {
            let module = spec.path.clone();
            return Err(AdapterError::InitialRank { module, tensors: rank, initial: initial.rank });
        }
        let mut up = Vec::with_capacity(2 * self.up.len());
        for (trained, initial) in self.up.chunks(rank).zip(initial.up.chunks(rank)) {
            up.extend(scaled(trained, scale));
            up.extend(scaled(initial, -scale));
        }
        let down = [self.down.as_slice(), &initial.down].concat();
        Ok(Folded { rank: 2 * rank, down, up, scale })
    }
}

/// The values times `scale` in float64, so that each is rounded once.
fn scaled(values: &[f32], scale: f64) -> impl Iterator<Item = f32> {
    values.iter().map(move |value| (scale * f64::from(*value)) as f32)
}

/// Rank and alpha of every module.
struct Scales {
    rank: usize,
    alpha: f64,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    rank_stabilised: bool,
}

impl Scales {
    fn new(config: &AdapterConfig, modules: usize) -> Result<Self, AdapterError> {
        let missing = |field| AdapterError::ConfigField { field, problem: "is missing".to_owned() };
        let limit = modules.saturating_mul(2).saturating_add(64);
        Ok(Self {
            rank: config.rank("r")?.ok_or_else(|| missing("r"))?,
            alpha: config.alpha("lora_alpha")?.ok_or_else(|| missing("lora_alpha"))?,
            ranks: compile("rank_pattern", config.rank_pattern()?, limit)?,
            alphas: compile("alpha_pattern", config.alpha_pattern()?, limit)?,
            rank_stabilised: config.flag("use_rslora")?,
        })
    }

    /// Rank and scale of the module at `path`.
    fn of(&self, path: &str) -> (usize, f64) {
        let rank = first_match(&self.ranks, path).unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, path).unwrap_or(self.alpha);
        let divisor = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        (rank, alpha / divisor)
    }
}

/// PEFT's rule: a key is a regular expression for the whole path or for its end after a dot, and
/// the first key that fits counts.
fn compile<T>(
    field: &'static str,
    patterns: Vec<(&str, T)>,
    limit: usize,
) -> Result<Vec<(Regex, T)>, AdapterError> {
    if patterns.len() > limit {
        let problem = format!("has {} patterns, the limit is {limit}", patterns.len());
        return Err(AdapterError::ConfigField { field, problem });
    }
    let compile = |(key, value)| {
        let pattern = format!(r"^(?:.*\.)?(?:{key})$");
        match RegexBuilder::new(&pattern).size_limit(MAX_PATTERN_BYTES).build() {
            Ok(regex) => Ok((regex, value)),
            Err(_) => {
                let problem = format!("has the key {}, which cannot be matched", quoted(key));
                Err(AdapterError::ConfigField { field, problem })
            }
        }
    };
    patterns.into_iter().map(compile).collect()
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| regex.is_match(path)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scales(json: &str) -> Result<Scales, AdapterError> {
        Scales::new(&AdapterConfig::parse(json.as_bytes()).unwrap(), 4)
    }

    #[test]
    fn the_scale_is_alpha_over_the_rank_or_its_root() {
        let plain = scales(r#"{"r": 16, "lora_alpha": 8}"#).unwrap();
        assert_eq!(plain.of("any"), (16, 0.5));
        let stabilised = scales(r#"{"r": 16, "lora_alpha": 8, "use_rslora": true}"#).unwrap();
        assert_eq!(stabilised.of("any"), (16, 2.0));
    }

    #[test]
    fn patterns_fit_whole_paths_and_their_ends_first_key_first() {
        let scales = scales(
            r#"{"r": 8, "lora_alpha": 8,
                "rank_pattern": {"layers.1.q_proj": 2, "q_proj": 4, "^head$": 3, "[kv]_proj": 5},
                "alpha_pattern": {"layers\\.[0-9]+\\.v_proj": 10}}"#,
        )
        .unwrap();
        assert_eq!(scales.of("model.layers.1.q_proj"), (2, 4.0));
        assert_eq!(scales.of("model.layers.11.q_proj"), (4, 2.0));
        assert_eq!(scales.of("q_proj"), (4, 2.0));
        assert_eq!(scales.of("model.seq_proj"), (8, 1.0));
        assert_eq!(scales.of("q_proj.inner"), (8, 1.0));
        assert_eq!(scales.of("head"), (3, 8.0 / 3.0));
        assert_eq!(scales.of("model.head"), (8, 1.0));
        assert_eq!(scales.of("model.layers.7.v_proj"), (5, 2.0));
        assert_eq!(scales.of("model.layers.7.k_proj"), (5, 1.6));
    }

    #[test]
    fn hostile_patterns_are_refused() {
        let huge = format!(r#"{{"(a{{1000}}){{1000}}{}": 1}}"#, "b");
        let many: Vec<String> = (0..100).map(|i| format!("\"k{i}\": 1")).collect();
        let many = format!("{{{}}}", many.join(","));
        for pattern in [r#"{"(": 1}"#, r#"{"(?=a)": 1}"#, r#"{"(a)\\1": 1}"#, &huge, &many] {
            let config = format!(r#"{{"r": 8, "lora_alpha": 8, "rank_pattern": {pattern}}}"#);
            let Err(error) = scales(&config) else { panic!("{pattern} was accepted") };
            assert!(matches!(error, AdapterError::ConfigField { field: "rank_pattern", .. }));
        }
    }

    #[test]
    fn patterns_match_as_peft_matches_them() {
        // What PEFT's own rule, `re.match(rf"(.*\.)?({key})$", path)`, answers.
        let path = "model.layers.1.self_attn.q_proj";
        for (key, fits) in [
            ("q_proj", true),
            ("self_attn.q_proj", true),
            ("self_attn.", false),
            ("_proj", false),
            (".*q_proj", true),
            ("k_proj|q_proj", true),
            ("layers.1", false),
            (r"layers\.(0|1)\..*", true),
            (r"^model\.layers\.1\.self_attn\.q_proj", true),
            ("^q_proj", false),
            ("Q_PROJ", false),
            ("(?i)Q_PROJ", true),
            (r"model.layers.\d+.self_attn.[qv]_proj$", true),
            ("", false),
        ] {
            let key = serde_json::to_string(key).unwrap();
            let json = format!(r#"{{"r": 8, "lora_alpha": 8, "rank_pattern": {{{key}: 2}}}}"#);
            let expected = if fits { 2 } else { 8 };
            assert_eq!(scales(&json).unwrap().of(path).0, expected, "{key}");
        }
    }

    #[test]
    fn what_an_initialisation_did_to_the_base_is_known_or_refused() {
        let of = |init: &str| {
            let json = format!(r#"{{"init_lora_weights": {init}}}"#);
            Initialisation::of(&AdapterConfig::parse(json.as_bytes()).unwrap())
        };
        for init in ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "lora_ga"] {
            let found = of(&format!("{init:?}")).unwrap();
            assert_eq!(found, Initialisation::TookFactorsOut, "{init}");
        }
        for init in ["true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\""] {
            assert_eq!(of(init).unwrap(), Initialisation::KeptBase, "{init}");
        }
        for init in ["\"next year's\"", "3", "[]"] {
            let error = of(init).unwrap_err();
            assert!(matches!(error, AdapterError::ConfigField { .. }), "{error}");
        }
        let error = of("\"loftq\"").unwrap_err();
        assert!(matches!(error, AdapterError::UnsupportedFeature { .. }), "{error}");
        assert!(error.to_string().contains("loftq"), "{error}");
    }
}
