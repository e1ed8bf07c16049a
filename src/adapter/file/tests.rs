//! Each way in which the content of an adapter can be wrong, and the algebra of what is right.

use std::collections::BTreeMap;
use std::fs;

use candle_core::{Device, Tensor};
use serde_json::json;

use super::super::check::check;
use super::super::sorsa::{SorsaConfig, SorsaFactors, SorsaModule, write_adapter_dir};
use super::*;

/// Two modules that share a width, one square and one not.
fn modules() -> Vec<ModuleSpec> {
    [("model.layers.0.q_proj", 3, 3), ("lm_head", 3, 5)]
        .map(|(path, in_features, out_features)| ModuleSpec {
            path: path.into(),
            in_features,
            out_features,
        })
        .into()
}

type Tensors = BTreeMap<String, Tensor>;

fn tensor(shape: &[usize], seed: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (seed + i as f32).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bytes(tensors: &Tensors) -> Vec<u8> {
    safetensors::serialize(tensors, None).unwrap()
}

fn lora_config() -> serde_json::Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "base_model_name_or_path": "b/m"})
}

/// Rank 2 on `q_proj`, spelt as PEFT does.
fn lora() -> Tensors {
    let name = |role| format!("base_model.model.model.layers.0.q_proj.{role}.weight");
    [(name("lora_A"), tensor(&[2, 3], 0.1)), (name("lora_B"), tensor(&[3, 2], 0.2))].into()
}

fn sorsa_config() -> serde_json::Value {
    json!({"peft_type": "SORSA", "r": 2, "lora_alpha": null})
}

/// Rank 2 on `lm_head`, spelt as the reference does.
fn sorsa() -> Tensors {
    let shapes: [(&str, &[usize]); 6] = [
        ("sorsa_A", &[2, 3]),
        ("sorsa_S", &[2]),
        ("sorsa_B", &[5, 2]),
        ("sorsa_A_init", &[2, 3]),
        ("sorsa_S_init", &[2]),
        ("sorsa_B_init", &[5, 2]),
    ];
    let entry = |(i, (role, shape)): (usize, (&str, &[usize]))| {
        (format!("model.lm_head.{role}"), tensor(shape, i as f32))
    };
    shapes.into_iter().enumerate().map(entry).collect()
}

fn read(config: &serde_json::Value, tensors: &Tensors) -> Result<LoadedAdapter, AdapterError> {
    from_bytes(config.to_string().as_bytes(), &bytes(tensors), &modules())
}

fn lora_error(change: impl FnOnce(&mut Tensors)) -> AdapterError {
    let mut tensors = lora();
    change(&mut tensors);
    read(&lora_config(), &tensors).expect_err("must be refused")
}

fn sorsa_error(change: impl FnOnce(&mut Tensors)) -> AdapterError {
    let mut tensors = sorsa();
    change(&mut tensors);
    read(&sorsa_config(), &tensors).expect_err("must be refused")
}

fn with(mut config: serde_json::Value, field: &str, value: serde_json::Value) -> serde_json::Value {
    config[field] = value;
    config
}

fn product(adapter: &LoadedAdapter, module: usize) -> Vec<Vec<f32>> {
    let factors = adapter.delta.factors(module).expect("the adapter touches the module");
    assert!(factors.up.is_contiguous() && factors.down.is_contiguous());
    factors.up.matmul(&factors.down).unwrap().to_vec2().unwrap()
}

fn assert_close(found: &[Vec<f32>], expected: &Tensor) {
    let expected: Vec<Vec<f32>> = expected.to_vec2().unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn lora_is_scaled_b_a() {
    let adapter = read(&lora_config(), &lora()).unwrap();
    assert_eq!((adapter.kind, adapter.rank), (AdapterKind::Lora, 2));
    assert_eq!(adapter.base_model_name.as_deref(), Some("b/m"));
    assert_eq!((adapter.delta.num_modules(), adapter.delta.max_rank()), (1, 2));
    assert!(adapter.delta.factors(1).is_none());
    let plain = (tensor(&[3, 2], 0.2).matmul(&tensor(&[2, 3], 0.1)).unwrap() * 1.5).unwrap();
    assert_close(&product(&adapter, 0), &plain);
}

#[test]
fn sorsa_is_the_trained_part_less_the_initial_one() {
    for (alpha, scale) in [(json!(null), 1.0), (json!(3), 1.5)] {
        let adapter = read(&with(sorsa_config(), "lora_alpha", alpha), &sorsa()).unwrap();
        assert_eq!((adapter.kind, adapter.rank), (AdapterKind::Sorsa, 2));
        assert_eq!((adapter.delta.num_modules(), adapter.delta.max_rank()), (1, 4));
        let part = |first: f32| {
            let s = tensor(&[2], first + 1.0);
            let bs = tensor(&[5, 2], first + 2.0).broadcast_mul(&s).unwrap();
            bs.matmul(&tensor(&[2, 3], first)).unwrap()
        };
        let delta = ((part(0.0) - part(3.0)).unwrap() * scale).unwrap();
        assert_close(&product(&adapter, 1), &delta);
    }
}

#[test]
fn the_rank_of_the_scale_is_the_configured_one_and_the_shape_the_tensors() {
    let adapter = read(&json!({"peft_type": "SORSA", "r": 8, "alpha": 4}), &sorsa()).unwrap();
    let halved = read(&json!({"peft_type": "SORSA", "r": 2, "alpha": 1}), &sorsa()).unwrap();
    assert_eq!((adapter.rank, adapter.delta.max_rank()), (2, 4));
    assert_eq!(adapter.delta.id(), halved.delta.id());
}

#[test]
fn spelling_and_dtype_play_no_part_in_the_id() {
    let respelt = |tensors: &Tensors, prefix: &str, suffix: &str| -> Tensors {
        let respell = |(name, tensor): (&String, &Tensor)| {
            (format!("{prefix}{}{suffix}", name.strip_prefix("model.").unwrap()), tensor.clone())
        };
        tensors.iter().map(respell).collect()
    };
    let original = read(&sorsa_config(), &sorsa()).unwrap().delta.id();
    for (prefix, suffix) in [("", ""), ("base_model.model.", ".weight"), ("model.", ".weight")] {
        let other = read(&sorsa_config(), &respelt(&sorsa(), prefix, suffix)).unwrap();
        assert_eq!(other.delta.id(), original, "{prefix} {suffix}");
    }
    let half = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::BF16).unwrap();
    let narrow: Tensors = sorsa().iter().map(|(name, t)| (name.clone(), half(t))).collect();
    let wide = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F32).unwrap();
    let rounded: Tensors = narrow.iter().map(|(name, t)| (name.clone(), wide(t))).collect();
    let ids = [narrow, rounded].map(|t| read(&sorsa_config(), &t).unwrap().delta.id());
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], original);
}

#[test]
fn other_types_of_adapter_are_refused_by_name() {
    for peft_type in [json!("ADALORA"), json!("lora"), json!(""), json!(null)] {
        let config = with(lora_config(), "peft_type", peft_type.clone());
        let error = read(&config, &lora()).unwrap_err();
        assert!(matches!(error, AdapterError::UnsupportedType { .. }), "{error}");
        assert!(error.to_string().contains(peft_type.as_str().unwrap_or("\"\"")), "{error}");
    }
    let error = read(&with(lora_config(), "peft_type", json!(1)), &lora()).unwrap_err();
    assert!(matches!(error, AdapterError::ConfigField { field: "peft_type", .. }), "{error}");
}

#[test]
fn features_in_the_configuration_are_refused_for_both_kinds() {
    for (config, tensors) in [(lora_config(), lora()), (sorsa_config(), sorsa())] {
        let error = read(&with(config, "use_dora", json!(true)), &tensors).unwrap_err();
        assert!(matches!(error, AdapterError::UnsupportedFeature { .. }), "{error}");
    }
    let error = read(&with(lora_config(), "init_lora_weights", json!("pissa")), &lora());
    assert!(matches!(error, Err(AdapterError::ChangedBase { .. })));
}

#[test]
fn features_in_the_tensors_are_refused_though_the_configuration_hides_them() {
    for name in [
        "base_model.model.lm_head.lora_magnitude_vector",
        "base_model.model.lm_head.lora_magnitude_vector.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.lora_B.bias",
        "base_model.model.lm_head.modules_to_save.weight",
    ] {
        let error = lora_error(|tensors| drop(tensors.insert(name.into(), tensor(&[3], 0.0))));
        assert!(matches!(error, AdapterError::UnsupportedFeature { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_tensor_that_is_no_factor_is_refused() {
    for name in ["lora_A", "lm_head.weight", "lm_head.lora_C.weight", "lm_head.lora_A.default", ""]
    {
        let error = lora_error(|tensors| drop(tensors.insert(name.into(), tensor(&[2, 3], 0.0))));
        assert!(matches!(error, AdapterError::UnknownTensor { kind: "LoRA", .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    // The other kind's factors, and the residual weight of a whole model, are no factors either.
    for name in ["lm_head.lora_A.weight", "lm_head.weight", "lm_head.bias"] {
        let error = sorsa_error(|tensors| drop(tensors.insert(name.into(), tensor(&[2, 3], 0.0))));
        assert!(matches!(error, AdapterError::UnknownTensor { kind: "SORSA", .. }), "{error}");
    }
}

#[test]
fn a_module_that_the_base_lacks_is_refused() {
    let name = "base_model.model.model.layers.0.x_proj.lora_A.weight";
    let error = lora_error(|tensors| drop(tensors.insert(name.into(), tensor(&[2, 3], 0.0))));
    let AdapterError::UnknownModule { module, .. } = error else { panic!("{error}") };
    assert_eq!(module, "\"base_model.model.model.layers.0.x_proj\"");
}

#[test]
fn an_adapter_of_another_base_is_told_from_a_broken_one() {
    let pair = |module: &str, inputs: usize, outputs: usize| -> Tensors {
        let name = |role| format!("base_model.model.{module}.{role}.weight");
        let (down, up) = (tensor(&[2, inputs], 0.1), tensor(&[outputs, 2], 0.2));
        [(name("lora_A"), down), (name("lora_B"), up)].into()
    };
    let many = (0..30).flat_map(|n| pair(&format!("model.layers.{n}.q_proj"), 3, 2)).collect();
    let deeper = pair("model.layers.1.q_proj", 3, 2);
    let wider = pair("model.layers.0.q_proj", 7, 9);
    let stranger = pair("transformer.h.0.attn", 3, 2);
    let mut partly = lora();
    partly.extend(pair("model.layers.23.q_proj", 3, 2));
    let config = with(lora_config(), "base_model_name_or_path", json!("org/large"));
    for (tensors, evidence) in [
        (many, "it adapts 30 layers, and the model served has 1"),
        (deeper, "it adapts 2 layers, and the model served has 1"),
        (partly, "it adapts 24 layers, and the model served has 1"),
        (wider, "it adapts 7 inputs of model.layers.0.q_proj, and the model served has 3"),
        (stranger, "none of its modules is in the model served"),
    ] {
        let error = read(&config, &tensors).unwrap_err();
        assert!(matches!(error, AdapterError::OtherBase { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(evidence) && text.contains("\"org/large\""), "{text}");
    }
}

#[test]
fn two_spellings_of_one_factor_are_refused() {
    let name = "model.layers.0.q_proj.lora_A";
    let error = lora_error(|tensors| drop(tensors.insert(name.into(), tensor(&[2, 3], 0.0))));
    assert!(matches!(error, AdapterError::RepeatedFactor { factor: "lora_A", .. }), "{error}");
}

#[test]
fn every_factor_must_be_there() {
    for name in lora().keys() {
        let error = lora_error(|tensors| drop(tensors.remove(name)));
        assert!(matches!(error, AdapterError::MissingFactor { .. }), "{error}");
    }
    for name in sorsa().keys() {
        let error = sorsa_error(|tensors| drop(tensors.remove(name)));
        if name.ends_with("_init") {
            assert!(matches!(error, AdapterError::MissingInitial { .. }), "{error}");
            assert!(error.to_string().contains("unknown"), "{error}");
        } else {
            assert!(matches!(error, AdapterError::MissingFactor { .. }), "{error}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let wrong: [(&str, &[&[usize]]); 3] = [
        ("A", &[&[2, 4], &[3, 2], &[6], &[1, 2, 3], &[]]),
        ("S", &[&[3], &[1], &[2, 1], &[1, 2], &[]]),
        ("B", &[&[5, 3], &[2, 5], &[4, 2], &[10], &[5, 1, 2]]),
    ];
    for (role, shapes) in wrong {
        for (shape, suffix) in shapes.iter().flat_map(|shape| [(shape, ""), (shape, "_init")]) {
            let name = format!("model.lm_head.sorsa_{role}{suffix}");
            let error = sorsa_error(|t| drop(t.insert(name.clone(), tensor(shape, 0.0))));
            assert!(matches!(error, AdapterError::WrongShape { .. }), "{shape:?}: {error}");
        }
    }
    for (role, shape) in [("A", [2, 4]), ("B", [2, 2]), ("B", [3, 1]), ("A", [1, 3])] {
        let name = format!("base_model.model.model.layers.0.q_proj.lora_{role}.weight");
        let error = lora_error(|t| drop(t.insert(name, tensor(&shape, 0.0))));
        assert!(matches!(error, AdapterError::WrongShape { .. }), "{shape:?}: {error}");
    }
}

#[test]
fn a_rank_beyond_both_sides_is_fine_where_the_shapes_fit() {
    let name = |role| format!("lm_head.{role}.weight");
    let tensors: Tensors =
        [(name("lora_A"), tensor(&[9, 3], 0.1)), (name("lora_B"), tensor(&[5, 9], 0.2))].into();
    let adapter = read(&with(lora_config(), "r", json!(9)), &tensors).unwrap();
    assert_eq!(adapter.delta.max_rank(), 9);
}

#[test]
fn a_sorsa_rank_beyond_a_side_of_the_weight_is_refused() {
    let error = sorsa_error(|tensors| {
        for (role, shape) in [("A", &[4, 3][..]), ("S", &[4]), ("B", &[5, 4])] {
            tensors.insert(format!("model.lm_head.sorsa_{role}"), tensor(shape, 0.0));
        }
    });
    assert!(matches!(error, AdapterError::RankBeyond { rank: 4, most: 3, .. }), "{error}");
}

#[test]
fn rank_zero_is_refused() {
    let error = lora_error(|tensors| {
        for (name, tensor) in tensors {
            let (rows, columns) = if name.contains("lora_A") { (0, 3) } else { (3, 0) };
            *tensor =
                Tensor::zeros((rows, columns), candle_core::DType::F32, &Device::Cpu).unwrap();
        }
    });
    assert!(matches!(error, AdapterError::ZeroRank { .. }), "{error}");
}

#[test]
fn ranks_that_disagree_are_refused() {
    let error = read(&with(lora_config(), "r", json!(4)), &lora()).unwrap_err();
    assert!(matches!(error, AdapterError::RankMismatch { tensors: 2, config: 4, .. }), "{error}");
    let pattern = with(lora_config(), "rank_pattern", json!({"q_proj": 2}));
    read(&with(pattern, "r", json!(4)), &lora()).unwrap();
    let error = sorsa_error(|tensors| {
        for (role, shape) in [("A", &[1, 3][..]), ("S", &[1]), ("B", &[5, 1])] {
            tensors.insert(format!("model.lm_head.sorsa_{role}_init"), tensor(shape, 0.0));
        }
    });
    assert!(matches!(error, AdapterError::InitialRank { tensors: 2, initial: 1, .. }), "{error}");
}

#[test]
fn factors_that_overflow_once_scaled_are_refused() {
    let error = read(&with(lora_config(), "lora_alpha", json!(1e300)), &lora()).unwrap_err();
    assert!(matches!(error, AdapterError::Overflow { .. }), "{error}");
}

#[test]
fn an_adapter_of_nothing_is_refused() {
    for config in [lora_config(), sorsa_config()] {
        assert!(matches!(read(&config, &Tensors::new()), Err(AdapterError::Empty)));
    }
}

#[test]
fn tensors_beyond_the_modules_are_refused_unread() {
    let many = (0..17).map(|i| (format!("{i}"), tensor(&[1], 0.0))).collect();
    let error = read(&lora_config(), &many).unwrap_err();
    assert!(matches!(error, AdapterError::TooManyTensors { count: 17, limit: 16 }), "{error}");
}

/// A directory of these files.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn load_files(files: &[(&str, &[u8])]) -> Result<LoadedAdapter, AdapterError> {
    load(directory(files).path(), &modules(), &Limits::default())
}

/// `lora()` before training, `before` being where it is put.
fn unconverted(before: &[&str]) -> (tempfile::TempDir, Tensors) {
    let config = with(lora_config(), "init_lora_weights", json!("pissa_niter_4")).to_string();
    let dir = directory(&[(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, &bytes(&lora()))]);
    let initial: Tensors =
        lora().into_iter().map(|(name, t)| (name, tensor(t.dims(), 5.0))).collect();
    for name in before {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(WEIGHTS_FILE), bytes(&initial)).unwrap();
    }
    (dir, initial)
}

#[test]
fn lora_that_took_its_factors_out_of_the_base_is_the_difference_to_them() {
    let part = |tensors: &Tensors| {
        let factor =
            |role| &tensors[&format!("base_model.model.model.layers.0.q_proj.{role}.weight")];
        factor("lora_B").matmul(factor("lora_A")).unwrap()
    };
    for place in ["adapter_init", "pissa_init", "olora_init", "corda_init"] {
        let (dir, initial) = unconverted(&[place]);
        let adapter = load(dir.path(), &modules(), &Limits::default()).unwrap();
        assert_eq!((adapter.rank, adapter.delta.max_rank()), (2, 4));
        let expected = ((part(&lora()) - part(&initial)).unwrap() * 1.5).unwrap();
        assert_close(&product(&adapter, 0), &expected);
    }
}

#[test]
fn initial_factors_must_be_there_once_and_fit() {
    let load = |dir: &tempfile::TempDir| load(dir.path(), &modules(), &Limits::default());
    let (dir, _) = unconverted(&[]);
    let error = load(&dir).unwrap_err();
    assert!(matches!(error, AdapterError::ChangedBase { .. }), "{error}");
    assert!(error.to_string().contains("pissa_niter_4"), "{error}");
    let (dir, _) = unconverted(&["adapter_init", "olora_init"]);
    let error = load(&dir).unwrap_err();
    assert!(matches!(error, AdapterError::AmbiguousInitial { .. }), "{error}");
    // Whether there is another one, nobody can tell: a link to itself is nobody's to look behind.
    #[cfg(unix)]
    {
        let (dir, _) = unconverted(&["adapter_init"]);
        std::os::unix::fs::symlink("olora_init", dir.path().join("olora_init")).unwrap();
        let error = load(&dir).unwrap_err();
        assert!(matches!(error, AdapterError::Io { .. }), "{error}");
    }

    let (dir, initial) = unconverted(&["adapter_init"]);
    let rewrite = |tensors: &Tensors| {
        fs::write(dir.path().join("adapter_init").join(WEIGHTS_FILE), bytes(tensors)).unwrap();
        load(&dir).unwrap_err()
    };
    for name in initial.keys() {
        let mut fewer = initial.clone();
        fewer.remove(name);
        let error = rewrite(&fewer);
        assert!(matches!(error, AdapterError::MissingInitial { .. }), "{error}");
    }
    let mut more = initial.clone();
    more.insert("lm_head.lora_A.weight".into(), tensor(&[2, 3], 0.0));
    let error = rewrite(&more);
    assert!(matches!(error, AdapterError::MissingFactor { .. }), "{error}");
    let smaller = initial.keys().map(|name| {
        let shape = if name.contains("lora_A") { [1, 3] } else { [3, 1] };
        (name.clone(), tensor(&shape, 0.0))
    });
    let error = rewrite(&smaller.collect());
    assert!(matches!(error, AdapterError::InitialRank { tensors: 2, initial: 1, .. }), "{error}");
}

#[test]
fn initial_factors_of_a_converted_adapter_are_not_read() {
    let config = with(lora_config(), "init_lora_weights", json!(true)).to_string();
    let dir = directory(&[(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, &bytes(&lora()))]);
    fs::create_dir(dir.path().join("pissa_init")).unwrap();
    fs::write(dir.path().join("pissa_init").join(WEIGHTS_FILE), "not even weights").unwrap();
    let adapter = load(dir.path(), &modules(), &Limits::default()).unwrap();
    assert_eq!(adapter.delta.id(), read(&lora_config(), &lora()).unwrap().delta.id());
}

/// The trained and the initial factors as two checkpoints of the reference library.
fn factor_pair() -> [Tensors; 2] {
    let (initial, trained): (Tensors, Tensors) =
        sorsa().into_iter().partition(|(name, _)| name.ends_with("_init"));
    let rename = |(name, tensor): (String, Tensor)| (name.replace("_init", ""), tensor);
    [trained, initial.into_iter().map(rename).collect()]
}

const REFERENCE_CONFIG: &[u8] = br#"{"model_type": "sorsa", "rank": 2, "alpha": null}"#;

#[test]
fn a_factor_pair_is_the_adapter_directory_of_the_same_factors() {
    let [trained, initial] = factor_pair().map(|tensors| bytes(&tensors));
    let pair = load_files(&[
        ("config.json", REFERENCE_CONFIG),
        ("model.safetensors", &trained),
        ("init.safetensors", &initial),
    ])
    .unwrap();
    let config = sorsa_config().to_string();
    let dir = load_files(&[(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, &bytes(&sorsa()))]);
    assert_eq!(pair.delta.id(), dir.unwrap().delta.id());
    assert_eq!(pair.rank, 2);
}

#[test]
fn a_whole_model_is_no_adapter() {
    let [mut trained, initial] = factor_pair();
    let files = |trained: &Tensors| {
        let files = [("config.json", REFERENCE_CONFIG), ("model.safetensors", &bytes(trained))];
        let alone = load_files(&files).unwrap_err();
        let [config, model] = files;
        let error = load_files(&[config, model, ("init.safetensors", &bytes(&initial))]);
        (alone, error.map(|_| ()))
    };
    // Factors alone are not told to be one.
    let (alone, both) = files(&trained);
    assert!(matches!(alone, AdapterError::NoInitial), "{alone}");
    both.unwrap();
    trained.insert("model.lm_head.weight".into(), tensor(&[5, 3], 0.0));
    let (alone, both) = files(&trained);
    assert!(matches!(alone, AdapterError::WholeModel { .. }), "{alone}");
    let error = both.unwrap_err();
    assert!(error.to_string().contains("model.lm_head.weight"), "{error}");
    // What is told by its header is not read whole, and what has none is no adapter either.
    for model in [&b""[..], b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", b"\x02\0\0\0\0\0\0\0{}"] {
        let files = [("config.json", REFERENCE_CONFIG), ("model.safetensors", model)];
        let error = load_files(&files).unwrap_err();
        assert!(matches!(error, AdapterError::WholeModel { .. }), "{error}");
    }
}

#[test]
fn an_ordinary_model_is_no_adapter() {
    let error = load_files(&[("config.json", br#"{"model_type": "llama"}"#)]).unwrap_err();
    let AdapterError::NotAnAdapter { model_type } = error else { panic!("{error}") };
    assert_eq!(model_type, "\"llama\"");
}

#[test]
fn an_incomplete_directory_names_the_file_it_lacks() {
    let error = load_files(&[]).unwrap_err();
    assert!(matches!(error, AdapterError::MissingFile { file: CONFIG_FILE, .. }), "{error}");
    let config = lora_config().to_string();
    let error = load_files(&[(CONFIG_FILE, config.as_bytes())]).unwrap_err();
    assert!(matches!(error, AdapterError::MissingFile { file: WEIGHTS_FILE, .. }), "{error}");
}

#[test]
fn the_limit_covers_all_files_of_an_adapter() {
    let (config, weights) = (lora_config().to_string(), bytes(&lora()));
    let dir = directory(&[(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, &weights)]);
    let total = (config.len() + weights.len()) as u64;
    let load = |max_bytes| load(dir.path(), &modules(), &Limits { max_bytes });
    assert!(matches!(load(total - 1), Err(AdapterError::TooLarge { .. })));
    load(total).unwrap();
}

#[test]
fn a_configuration_of_megabytes_is_refused() {
    let config = vec![b' '; (MAX_CONFIG_BYTES + 1) as usize];
    let error = load_files(&[(CONFIG_FILE, &config)]).unwrap_err();
    assert!(matches!(error, AdapterError::TooLarge { .. }), "{error}");
}

#[test]
fn an_adapter_for_other_weights_is_told_by_their_digest() {
    let [own, other] = [BaseDigest([1; 32]), BaseDigest([2; 32])];
    let plain = read(&lora_config(), &lora()).unwrap();
    assert_eq!(plain.base_digest, None);
    plain.check_base(own).unwrap();
    let adapter = read(&with(lora_config(), "base_digest", json!(own.to_string())), &lora());
    let adapter = adapter.unwrap();
    assert_eq!(adapter.delta.id(), plain.delta.id());
    adapter.check_base(own).unwrap();
    let error = adapter.check_base(other).unwrap_err();
    assert!(matches!(error, AdapterError::BaseMismatch { .. }), "{error}");
    for part in ["b/m", &own.to_string(), &other.to_string()] {
        assert!(error.to_string().contains(part), "{error}");
    }
    for bad in [json!("blake3:12"), json!(12)] {
        let error = read(&with(lora_config(), "base_digest", bad), &lora()).unwrap_err();
        assert!(matches!(error, AdapterError::ConfigField { field: "base_digest", .. }), "{error}");
    }
}

#[test]
fn what_is_written_says_what_it_is_relative_to() {
    let factors = |seed: f32| SorsaFactors {
        a: tensor(&[2, 3], seed),
        s: tensor(&[2], seed),
        b: tensor(&[5, 2], seed),
    };
    let module =
        SorsaModule { path: "lm_head".into(), trained: factors(1.0), initial: factors(2.0) };
    for base_digest in [None, Some(BaseDigest([7; 32]))] {
        let dir = directory(&[]);
        let config = SorsaConfig { rank: 2, base_digest, ..SorsaConfig::default() };
        write_adapter_dir(dir.path(), &config, std::slice::from_ref(&module)).unwrap();
        let adapter = load(dir.path(), &modules(), &Limits::default()).unwrap();
        assert_eq!(adapter.base_digest, base_digest);
    }
}

#[test]
fn writing_never_replaces_a_file() {
    let dir = directory(&[(CONFIG_FILE, b"mine")]);
    let error = write_adapter_dir(dir.path(), &SorsaConfig::default(), &[]).unwrap_err();
    assert!(matches!(error, AdapterError::Write { .. }), "{error}");
    assert_eq!(fs::read(dir.path().join(CONFIG_FILE)).unwrap(), b"mine");
    assert!(!dir.path().join(WEIGHTS_FILE).exists(), "a half-written adapter was left");
}

/// What looking at configuration and headers finds wrong cannot be read either, and what can be read
/// looks well.
#[test]
fn what_looks_wrong_cannot_be_read() {
    let looked = |dir: &tempfile::TempDir| {
        check(AdapterDir::open(dir.path(), Limits::default().max_bytes).unwrap(), &modules())
    };
    let agree = |files: &[(&str, &[u8])], what: &str| {
        let (read, looks) = (load_files(files), looked(&directory(files)));
        assert!(looks.is_ok() || read.is_err(), "{what}: {looks:?} and {read:?}");
        (read.is_ok(), looks.is_ok())
    };
    let config = lora_config().to_string();
    let (lora, sorsa) = (bytes(&lora()), bytes(&sorsa()));
    let sorsa_config = sorsa_config().to_string();
    let fine = (true, true);
    let of = |config: &str, weights: &[u8], what: &str| {
        agree(&[(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, weights)], what)
    };
    assert_eq!(of(&config, &lora, "LoRA"), fine);
    assert_eq!(of(&sorsa_config, &sorsa, "SORSA"), fine);
    let mut found = 0;
    for length in 0..lora.len() {
        found += usize::from(!of(&config, &lora[..length], &format!("{length} bytes")).1);
    }
    // A file that ends too early is told by its header alone.
    assert_eq!(found, lora.len());
    for (place, _) in config.char_indices() {
        of(&config[..place], &lora, &format!("{place} bytes of the configuration"));
        let damaged = format!("{}~{}", &config[..place], &config[place + 1..]);
        of(&damaged, &lora, &damaged);
    }
    for place in (0..lora.len()).step_by(3) {
        let mut damaged = lora.clone();
        damaged[place] ^= 0x55;
        of(&config, &damaged, &format!("byte {place}"));
    }
    assert!(!agree(&[(CONFIG_FILE, config.as_bytes())], "no weights").1);
    assert!(!agree(&[("adapter_model.bin", b"x")], "no configuration").1);
    let pickle = [(CONFIG_FILE, config.as_bytes()), ("adapter_model.bin", &b"x"[..])];
    assert!(!agree(&pickle, "a pickle").1);
    let pissa = with(lora_config(), "init_lora_weights", json!("pissa")).to_string();
    assert!(!of(&pissa, &lora, "no initial factors").1);
    assert!(!of(&with(lora_config(), "use_dora", json!(true)).to_string(), &lora, "DoRA").1);
    let recorded = with(lora_config(), "base_digest", json!(BaseDigest([1; 32]).to_string()));
    let files = [(CONFIG_FILE, recorded.to_string().into_bytes()), (WEIGHTS_FILE, lora)];
    let files = files.each_ref().map(|(name, bytes)| (*name, bytes.as_slice()));
    let base = looked(&directory(&files)).unwrap();
    base.check(BaseDigest([1; 32])).unwrap();
    let error = base.check(BaseDigest([2; 32])).unwrap_err();
    assert!(matches!(error, AdapterError::BaseMismatch { .. }), "{error}");
}
