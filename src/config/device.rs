//! Where to compute.

use std::str::FromStr;

use candle_core::Device;

use super::ConfigError;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let unknown = || ConfigError::Device(text.to_owned());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl DeviceArg {
    /// Opens the device.
    ///
    /// # Errors
    /// Where this build has no CUDA support, or the machine no such GPU: never another device.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !candle_core::utils::cuda_is_available() => anyhow::bail!(
                "--device cuda: this build of sorsa has no CUDA support; build it with \
                 `cargo build --release --features cuda`"
            ),
            Self::Cuda(index) => Device::new_cuda(index).map_err(|error| {
                anyhow::anyhow!("--device cuda:{index}: the GPU cannot be used: {error}")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_or_refused() {
        let device = |text: &str| text.parse::<DeviceArg>();
        assert_eq!(device("cpu"), Ok(DeviceArg::Cpu));
        assert_eq!(device("cuda"), Ok(DeviceArg::Cuda(0)));
        assert_eq!(device("cuda:3"), Ok(DeviceArg::Cuda(3)));
        for bad in ["gpu", "cuda:", "cuda:x", "cpu:0", ""] {
            assert_eq!(device(bad), Err(ConfigError::Device(bad.into())));
        }
    }
}
