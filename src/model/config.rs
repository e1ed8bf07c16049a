//! A model's configuration.
#[derive(Debug, Clone)]
pub struct ModelConfig {}
