//! Tensors of an adapter file, sorted by the module and the factor that their names give.
//!
//! Every tensor lands in exactly one place or the load fails with its name.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};

use super::delta::{LowRankFactors, ModuleSpec};
use super::error::{AdapterError, quoted};
use super::tensors::NamedTensor;

/// The base model's linear modules by path.
#[derive(Debug)]
pub(super) struct ModuleIndex<'a> {
    specs: &'a [ModuleSpec],
    by_path: HashMap<&'a str, usize>,
}

impl<'a> ModuleIndex<'a> {
    /// Indexes `specs`.
    pub fn new(specs: &'a [ModuleSpec]) -> Self {
        let by_path = specs.iter().enumerate().map(|(i, spec)| (spec.path.as_str(), i)).collect();
        Self { specs, by_path }
    }

    /// How many modules there are.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// The module that `path` names, in any spelling.
    pub fn find(&self, path: &str) -> Option<&ModuleSpec> {
        self.resolve(path).map(|index| &self.specs[index])
    }

    /// The module that `path` names: as the base model spells it, or behind the prefix that PEFT
    /// (`base_model.model.`) or the reference library (`model.`) puts before it, or both.
    fn resolve(&self, path: &str) -> Option<usize> {
        let bare = path.strip_prefix("base_model.model.").unwrap_or(path);
        let spellings =
            [Some(path), Some(bare), path.strip_prefix("model."), bare.strip_prefix("model.")];
        spellings.into_iter().flatten().find_map(|path| self.by_path.get(path).copied())
    }
}

/// One kind of adapter's factors: `ROLES[i]` is the last part of the tensors' names.
#[derive(Debug)]
pub(super) struct FactorTable<'a, const N: usize> {
    kind: &'static str,
    roles: [&'static str; N],
    modules: &'a ModuleIndex<'a>,
    found: BTreeMap<usize, [Option<NamedTensor>; N]>,
}

impl<'a, const N: usize> FactorTable<'a, N> {
    /// An empty table for an adapter of `kind`.
    pub fn new(kind: &'static str, roles: [&'static str; N], modules: &'a ModuleIndex<'a>) -> Self {
        Self { kind, roles, modules, found: BTreeMap::new() }
    }

    /// Files `tensor` under `<module path>.<role>` or `<module path>.<role>.weight`. `rename`
    /// gives the role that a name's role stands for.
    pub fn insert(
        &mut self,
        tensor: NamedTensor,
        rename: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<(), AdapterError> {
        let bare = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let place = bare.rsplit_once('.').and_then(|(path, role)| {
            let role = rename(role)?;
            self.roles.iter().position(|known| *known == role).map(|role| (path, role))
        });
        let name = quoted(&tensor.name);
        let Some((path, role)) = place else {
            return Err(AdapterError::UnknownTensor { tensor: name, kind: self.kind });
        };
        let Some(module) = self.modules.resolve(path) else {
            return Err(AdapterError::UnknownModule { tensor: name, module: quoted(path) });
        };
        let slot = &mut self.found.entry(module).or_insert([const { None }; N])[role];
        if slot.is_some() {
            let (module, factor) = (self.modules.specs[module].path.clone(), self.roles[role]);
            return Err(AdapterError::RepeatedFactor { tensor: name, module, factor });
        }
        *slot = Some(tensor);
        Ok(())
    }

    /// Files `tensor` under the role that its name gives.
    pub fn insert_as_named(&mut self, tensor: NamedTensor) -> Result<(), AdapterError> {
        let roles = self.roles;
        self.insert(tensor, |role| roles.into_iter().find(|known| *known == role))
    }

    /// Turns each module's tensors, in the order of the roles, into factors. The result is
    /// indexed as the base model's modules are.
    pub fn into_factors(
        self,
        mut fold: impl FnMut(&ModuleSpec, [Option<NamedTensor>; N]) -> Result<Folded, AdapterError>,
    ) -> Result<Vec<Option<LowRankFactors>>, AdapterError> {
        if self.found.is_empty() {
            return Err(AdapterError::Empty);
        }
        let mut factors = vec![None; self.modules.specs.len()];
        for (module, tensors) in self.found {
            let spec = &self.modules.specs[module];
            factors[module] = Some(fold(spec, tensors)?.into_factors(spec)?);
        }
        Ok(factors)
    }
}

/// The values of one module's factors, scale included.
#[derive(Debug)]
pub(super) struct Folded {
    pub rank: usize,
    /// `rank x in_features`, row-major.
    pub down: Vec<f32>,
    /// `out_features x rank`, row-major.
    pub up: Vec<f32>,
    /// The scale in `up`, for the error message.
    pub scale: f64,
}

impl Folded {
    fn into_factors(self, spec: &ModuleSpec) -> Result<LowRankFactors, AdapterError> {
        if !self.up.iter().all(|value| value.is_finite()) {
            return Err(AdapterError::Overflow { module: spec.path.clone(), scale: self.scale });
        }
        let tensor =
            |values, rows, columns| Tensor::from_vec(values, (rows, columns), &Device::Cpu);
        Ok(LowRankFactors {
            down: tensor(self.down, self.rank, spec.in_features)?,
            up: tensor(self.up, spec.out_features, self.rank)?,
        })
    }
}

/// The tensor of a factor that must be there.
pub(super) fn required(
    tensor: Option<NamedTensor>,
    spec: &ModuleSpec,
    factor: &'static str,
) -> Result<NamedTensor, AdapterError> {
    tensor.ok_or_else(|| AdapterError::MissingFactor { module: spec.path.clone(), factor })
}

/// The rank of a pair `down` (rank x in) and `up` (out x rank) that fit their module and each
/// other.
pub(super) fn rank_of(
    down: &NamedTensor,
    up: &NamedTensor,
    spec: &ModuleSpec,
) -> Result<usize, AdapterError> {
    let &[rank, columns] = down.shape.as_slice() else {
        return Err(wrong_shape(down, format!("[rank, {}]", spec.in_features)));
    };
    if columns != spec.in_features {
        return Err(wrong_shape(down, format!("[rank, {}]", spec.in_features)));
    }
    if up.shape != [spec.out_features, rank] {
        return Err(wrong_shape(up, format!("[{}, {rank}]", spec.out_features)));
    }
    if rank == 0 {
        return Err(AdapterError::ZeroRank { module: spec.path.clone() });
    }
    Ok(rank)
}

/// The error for a tensor of another shape than `expected`.
pub(super) fn wrong_shape(tensor: &NamedTensor, expected: String) -> AdapterError {
    let (name, shape) = (quoted(&tensor.name), tensor.shape.clone());
    AdapterError::WrongShape { tensor: name, shape, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<ModuleSpec> {
        ["model.layers.0.q_proj", "lm_head", "layers.0.q_proj"]
            .map(|path| ModuleSpec { path: path.into(), in_features: 4, out_features: 3 })
            .into()
    }

    #[test]
    fn a_path_resolves_under_its_prefixes_and_no_others() {
        let specs = &specs()[..2];
        let index = ModuleIndex::new(specs);
        for prefix in ["", "base_model.model.", "model.", "base_model.model.model."] {
            let path = |name: &str| format!("{prefix}{name}");
            assert_eq!(index.resolve(&path("model.layers.0.q_proj")), Some(0), "{prefix}");
            assert_eq!(index.resolve(&path("lm_head")), Some(1), "{prefix}");
        }
        for path in
            ["", "q_proj", "layers.0.q_proj", "x.lm_head", "lm_head.", "model.model.lm_head"]
        {
            assert_eq!(index.resolve(path), None, "{path}");
        }
    }

    #[test]
    fn the_exact_spelling_wins_over_a_prefixed_one() {
        let specs = specs();
        let index = ModuleIndex::new(&specs);
        assert_eq!(index.resolve("model.layers.0.q_proj"), Some(0));
        assert_eq!(index.resolve("layers.0.q_proj"), Some(2));
    }
}
