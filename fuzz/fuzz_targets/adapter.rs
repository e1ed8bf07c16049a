//! Any bytes as an adapter's configuration and weights: an error or a whole adapter, never a panic.
//!
//! The input is the configuration, a zero byte, and the weights.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sorsa::adapter::compact::{Tolerance, compact};
use sorsa::adapter::delta::ModuleSpec;
use sorsa::adapter::file::from_bytes;

fuzz_target!(|input: &[u8]| {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (config, weights) = input.split_at(at);
    let modules = [("q", 3, 3), ("model.layers.0.up", 3, 5)].map(
        |(path, in_features, out_features)| ModuleSpec {
            path: path.to_owned(),
            in_features,
            out_features,
        },
    );
    let Ok(loaded) = from_bytes(config, weights.get(1..).unwrap_or_default(), &modules) else {
        return;
    };
    let id = loaded.delta.id();
    let again = from_bytes(config, &weights[1..], &modules).expect("the same bytes load again");
    assert_eq!(again.delta.id(), id);
    let _ = compact(&loaded.delta, &modules, Tolerance::default());
});
