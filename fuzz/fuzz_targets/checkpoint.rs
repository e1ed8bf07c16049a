//! Any bytes as a checkpoint's one safetensors file: an error or tensors, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sorsa::model::digests::WeightDigests;
use sorsa::model::weights::Weights;

fuzz_target!(|input: &[u8]| {
    let directory = tempfile::tempdir().expect("a place for temporary files");
    std::fs::write(directory.path().join("model.safetensors"), input).expect("it is writable");
    let Ok(weights) = Weights::open(directory.path()) else { return };
    let _ = weights.total_elements();
    let _ = WeightDigests::compute(&weights);
    for name in weights.names() {
        let shape = weights.shape(&name).expect("a listed tensor has a shape");
        let (dtype, device) = (candle_core::DType::F32, candle_core::Device::Cpu);
        let _ = weights.tensor(&name, &shape, dtype, &device);
    }
});
