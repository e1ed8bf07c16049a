//! PEFT's LoRA: `lora_A` (rank x in) and `lora_B` (out x rank) per module, with a scale.
//!
//! `ΔW = s · B A`, where `s` is alpha over the rank, or over its square root for rsLoRA (arXiv
//! 2312.03732). Rank and alpha may be set for some modules by pattern. Which modules are adapted
//! is read off the tensors, not off `target_modules`.

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

/// Initialisations that put a part of the base weight into the factors, by their beginning.
const CHANGE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Largest compiled pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Factors by module and the largest rank.
pub(super) fn factors(
    config: &AdapterConfig,
    tensors: Vec<NamedTensor>,
    modules: &ModuleIndex<'_>,
) -> Result<(Vec<Option<LowRankFactors>>, usize), AdapterError> {
    check_initialisation(config)?;
    let scales = Scales::new(config, modules.len())?;
    let mut table = FactorTable::new("LoRA", ["lora_A", "lora_B"], modules);
    for tensor in tensors {
        if let Some((_, reason)) = REFUSED.iter().find(|(part, _)| tensor.name.contains(part)) {
            let feature = format!("tensor {}", quoted(&tensor.name));
            return Err(AdapterError::UnsupportedFeature { feature, reason });
        }
        table.insert_as_named(tensor)?;
    }
    let mut largest = 0;
    let factors = table.into_factors(|spec, [down, up]| {
        let folded = fold(spec, down, up, &scales)?;
        largest = largest.max(folded.rank);
        Ok(folded)
    })?;
    Ok((factors, largest))
}

fn check_initialisation(config: &AdapterConfig) -> Result<(), AdapterError> {
    const FIELD: &str = "init_lora_weights";
    let Some(value) = config.get(FIELD) else { return Ok(()) };
    let Some(init) = value.as_str() else {
        return config.flag(FIELD).map(drop);
    };
    let lower = init.to_lowercase();
    if CHANGE_BASE.iter().any(|method| lower.starts_with(method)) {
        return Err(AdapterError::ChangedBase { init: quoted(init) });
    }
    if KEEP_BASE.contains(&lower.as_str()) {
        return Ok(());
    }
    let problem = format!("is {}, of which nobody knows what it did to the base", quoted(init));
    Err(AdapterError::ConfigField { field: FIELD, problem })
}

fn fold(
    spec: &ModuleSpec,
    down: Option<NamedTensor>,
    up: Option<NamedTensor>,
    scales: &Scales,
) -> Result<Folded, AdapterError> {
    let down = required(down, spec, "lora_A")?;
    let up = required(up, spec, "lora_B")?;
    let rank = rank_of(&down, &up, spec)?;
    let (config, scale) = scales.of(&spec.path);
    if rank != config {
        let module = spec.path.clone();
        return Err(AdapterError::RankMismatch { module, tensors: rank, config });
    }
    // Scaled in float64, so that each value is rounded once.
    let up = up.values.into_iter().map(|value| (scale * f64::from(value)) as f32).collect();
    Ok(Folded { rank, down: down.values, up, scale })
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
    fn initialisations_that_changed_the_base_are_refused_by_name() {
        let check = |init: &str| {
            let json = format!(r#"{{"init_lora_weights": {init}}}"#);
            check_initialisation(&AdapterConfig::parse(json.as_bytes()).unwrap())
        };
        for init in ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga"] {
            let error = check(&format!("{init:?}")).unwrap_err();
            assert!(matches!(error, AdapterError::ChangedBase { .. }), "{error}");
            assert!(error.to_string().contains(init), "{error}");
        }
        for init in ["true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\""] {
            check(init).unwrap();
        }
        for init in ["\"next year's\"", "3", "[]"] {
            let error = check(init).unwrap_err();
            assert!(matches!(error, AdapterError::ConfigField { .. }), "{error}");
        }
    }
}
