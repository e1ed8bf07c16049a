//! Tells an adapter that was made for another base model from one that is wrong in itself, by the
//! names and shapes of its tensors.

use super::delta::ModuleSpec;
use super::error::{AdapterError, quoted};
use super::factors::ModuleIndex;
use super::tensors::{self, Caps};

/// Modules of the largest model of which adapters are told from broken ones.
const MAX_MODULES: usize = 1 << 12;

/// Last parts of the names of factors that a module's input, or its output, is a side of.
const INPUT_FACTORS: [&str; 4] = ["lora_A", "sorsa_A", "lora_A_init", "sorsa_A_init"];
const OUTPUT_FACTORS: [&str; 4] = ["lora_B", "sorsa_B", "lora_B_init", "sorsa_B_init"];

/// The reason for which an adapter of the base model `name` was refused: that it was made for another
/// base than that of these `modules`, where the beginning of its file shows that; else `error`.
pub(super) fn explained(
    error: AdapterError,
    name: Option<&str>,
    beginning: &[u8],
    modules: &[ModuleSpec],
) -> AdapterError {
    let may_be = matches!(
        error,
        AdapterError::TooManyTensors { .. }
            | AdapterError::HeaderTooLarge { .. }
            | AdapterError::UnknownModule { .. }
            | AdapterError::WrongShape { .. }
            | AdapterError::RankBeyond { .. }
    );
    let evidence = may_be.then(|| evidence(beginning, modules)).flatten();
    match evidence {
        Some(evidence) => {
            AdapterError::OtherBase { name: quoted(name.unwrap_or("(unnamed)")), evidence }
        }
        None => error,
    }
}

/// What in the header of a safetensors file that begins with these bytes shows that it was made for
/// another base model.
pub(super) fn evidence(beginning: &[u8], modules: &[ModuleSpec]) -> Option<String> {
    let tensors = tensors::outline(beginning, Caps::for_modules(MAX_MODULES))?;
    let index = ModuleIndex::new(modules);
    let factors: Vec<Factor<'_>> =
        tensors.iter().filter_map(|(name, shape)| Factor::new(name, shape)).collect();
    let layers = modules.iter().filter_map(|spec| layer(&spec.path)).max().map_or(0, |n| n + 1);
    let last = factors.iter().filter_map(|factor| layer(factor.module)).max();
    if let Some(last) = last.filter(|last| layers > 0 && *last >= layers) {
        let needed = last.saturating_add(1);
        return Some(format!("it adapts {needed} layers, and the model served has {layers}"));
    }
    let mut misfit = None;
    for factor in &factors {
        let Some(spec) = index.find(factor.module) else { continue };
        let (side, width) = if factor.is_input {
            ("inputs", spec.in_features)
        } else {
            ("outputs", spec.out_features)
        };
        if factor.width == width {
            return None;
        }
        misfit.get_or_insert_with(|| {
            let (module, there) = (&spec.path, factor.width);
            format!("it adapts {there} {side} of {module}, and the model served has {width}")
        });
    }
    let unknown = || {
        let module = quoted(factors.first()?.module);
        Some(format!("it adapts {module}, and none of its modules is in the model served"))
    };
    misfit.or_else(unknown)
}

/// A factor by its name and shape.
struct Factor<'a> {
    module: &'a str,
    is_input: bool,
    /// The size of the side that it shares with its module.
    width: usize,
}

impl<'a> Factor<'a> {
    fn new(name: &'a str, shape: &[usize]) -> Option<Self> {
        let (module, role) = name.strip_suffix(".weight").unwrap_or(name).rsplit_once('.')?;
        let &[rows, columns] = shape else { return None };
        let is_input = INPUT_FACTORS.contains(&role);
        let width = if is_input { columns } else { rows };
        (is_input || OUTPUT_FACTORS.contains(&role)).then_some(Self { module, is_input, width })
    }
}

/// The number of the layer that a path leads into.
fn layer(path: &str) -> Option<usize> {
    let (_, rest) = path.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}
