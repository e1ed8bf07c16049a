//! Any bytes as a GGUF file: an error or a model's tensors, and no panic that is not caught.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sorsa::model::checkpoint::Checkpoint;

fuzz_target!(
    // The reader turns a panic of the library beneath it into an error; the fuzzer's own hook would
    // end the process before that. One that is not caught still does.
    init: std::panic::set_hook(Box::new(|_| {})),
    |input: &[u8]| {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, input).expect("it is writable");
        let Ok(checkpoint) = Checkpoint::open(&path) else { return };
        let _ = checkpoint.tokenizer();
        for name in checkpoint.weights.names() {
            let shape = checkpoint.weights.shape(&name).expect("a listed tensor has a shape");
            let (dtype, device) = (candle_core::DType::F32, candle_core::Device::Cpu);
            let _ = checkpoint.weights.tensor(&name, &shape, dtype, &device);
        }
    }
);
