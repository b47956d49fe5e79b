//! The devices that `--device` names.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use burn::prelude::*;

/// A value of `--device`: `flex`; `wgpu`, `vulkan` or `cuda`, followed by `:1` for the second device and so on; or a device served by
/// the example `serve`, `ws://host:port`, followed by `/1` for its second device and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    kind: Kind,
    index: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Flex,
    Wgpu,
    Vulkan,
    Cuda,
    /// Served at `ws://host:port`.
    Remote(String),
}

impl Kind {
    const HERE: [(Self, &str); 4] = [
        (Self::Flex, "flex"),
        (Self::Wgpu, "wgpu"),
        (Self::Vulkan, "vulkan"),
        (Self::Cuda, "cuda"),
    ];

    /// The name in `--device`, and the feature that it needs.
    fn names(&self) -> (&str, &str) {
        match self {
            Self::Remote(url) => (url, "remote"),
            here => Self::HERE
                .iter()
                .find(|(kind, _)| kind == here)
                .map_or(("", ""), |(_, name)| (name, name)),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            String::from(
                "expected flex, wgpu, vulkan or cuda, with a number as in cuda:1 if need be, or a served device, ws://host:port",
            )
        };
        let number = |text: &str| text.parse().map_err(|_| expected());
        if let Some(address) = text.strip_prefix("ws://") {
            let (host, index) = match address.split_once('/') {
                Some((host, index)) => (host, number(index)?),
                None => (address, 0),
            };
            let (name, port) = host.rsplit_once(':').ok_or_else(expected)?;
            if name.is_empty() || port.parse::<u16>().is_err() {
                return Err(expected());
            }
            return Ok(Self {
                kind: Kind::Remote(format!("ws://{host}")),
                index,
            });
        }
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, number(index)?),
            None => (text, 0),
        };
        let (kind, _) = Kind::HERE
            .into_iter()
            .find(|(_, known)| *known == name)
            .ok_or_else(expected)?;
        if kind == Kind::Flex && index > 0 {
            return Err("there is only one CPU: expected flex without a number".into());
        }
        Ok(Self { kind, index })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((name, _), index) = (self.kind.names(), self.index);
        match self.kind {
            _ if index == 0 => f.write_str(name),
            Kind::Remote(_) => write!(f, "{name}/{index}"),
            _ => write!(f, "{name}:{index}"),
        }
    }
}

impl DeviceName {
    /// Whether this is the CPU of this machine.
    pub fn is_cpu(&self) -> bool {
        self.kind == Kind::Flex
    }

    /// Whether both have the same backend, or are served at the same address.
    pub fn is_same_kind(&self, other: &Self) -> bool {
        self.kind == other.kind
    }

    /// Opens the device.
    ///
    /// # Errors
    /// The program was built without the feature of the device, or a served device does not answer.
    pub fn open(&self) -> Result<Device> {
        match &self.kind {
            #[cfg(feature = "flex")]
            Kind::Flex => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu => Ok(Device::wgpu(self.gpu())),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => Ok(Device::vulkan(self.gpu())),
            #[cfg(feature = "cuda")]
            Kind::Cuda => Ok(Device::cuda(self.index)),
            #[cfg(feature = "remote")]
            Kind::Remote(url) => self.connect(url),
            #[allow(unreachable_patterns, reason = "with every feature there is no other")]
            kind => {
                let (_, feature) = kind.names();
                bail!(
                    "--device {self}: built without the feature {feature}: build with `--features {feature}`"
                )
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

    #[cfg(feature = "remote")]
    fn connect(&self, url: &str) -> Result<Device> {
        let host = burn::remote::RemoteHost::websocket(url);
        let host = match token() {
            Some(token) => host.with_credential(token),
            None => host,
        };
        let device = Device::remote_options(&host)
            .device_index(self.index)
            .init();
        device
            .map_err(|error| anyhow::anyhow!("--device {self}: no device is served there: {error}"))
    }
}

/// The token of the example `serve` and its clients, if there is one: the environment variable `PEAR_TOKEN`.
#[cfg(feature = "remote")]
pub fn token() -> Option<String> {
    std::env::var("PEAR_TOKEN")
        .ok()
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [
            "flex",
            "wgpu",
            "vulkan",
            "cuda",
            "cuda:1",
            "ws://localhost:3000",
            "ws://[::1]:3000/1",
        ] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "gpu",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "flex:1",
            "Flex",
            "ws://host",
            "ws://:1",
            "ws://host:x",
            "ws://host:1/x",
        ] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}
