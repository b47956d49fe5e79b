//! Devices by name.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use burn::prelude::*;

/// What `--device` says: `flex`, or `wgpu`, `vulkan`, `cuda`, with a number behind a colon for another than the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    kind: Kind,
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flex,
    Wgpu,
    Vulkan,
    Cuda,
}

impl Kind {
    const ALL: [(Self, &str); 4] = [(Self::Flex, "flex"), (Self::Wgpu, "wgpu"), (Self::Vulkan, "vulkan"), (Self::Cuda, "cuda")];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || String::from("expected flex, wgpu, vulkan or cuda, or one of them with a number, such as cuda:1");
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, index.parse().map_err(|_| expected())?),
            None => (text, 0),
        };
        let (kind, _) = Kind::ALL.into_iter().find(|(_, known)| *known == name).ok_or_else(expected)?;
        if kind == Kind::Flex && index > 0 {
            return Err("there is one CPU, which is called flex".into());
        }
        Ok(Self { kind, index })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => f.write_str(self.kind.name()),
            index => write!(f, "{}:{index}", self.kind.name()),
        }
    }
}

impl DeviceName {
    /// Whether it is the CPU.
    pub fn is_cpu(&self) -> bool {
        self.kind == Kind::Flex
    }

    /// The device.
    ///
    /// # Errors
    /// One whose feature this program was built without.
    pub fn open(&self) -> Result<Device> {
        match self.kind {
            #[cfg(feature = "flex")]
            Kind::Flex => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu => Ok(Device::wgpu(self.gpu())),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => Ok(Device::vulkan(self.gpu())),
            #[cfg(feature = "cuda")]
            Kind::Cuda => Ok(Device::cuda(self.index)),
            #[allow(unreachable_patterns, reason = "with every feature there is no other")]
            kind => {
                let name = kind.name();
                bail!("--device {self}: built without the feature {name}: build with `--features {name}`")
            }
        }
    }

    #[cfg(any(feature = "wgpu", feature = "vulkan"))]
    fn gpu(&self) -> DeviceKind {
        match self.index {
            0 => DeviceKind::DefaultDevice,
            index => DeviceKind::DiscreteGpu(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["flex", "wgpu", "vulkan", "cuda", "cuda:1"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "flex:1", "Flex"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}
