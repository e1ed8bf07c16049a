//! The names in a safetensors header, in its order and with repetitions.
//!
//! The format's own parser folds repeated names into one, so that what is checked need not be what
//! another reader sees.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// Name and last byte of each tensor, and its shape.
pub(crate) struct Outline(pub Vec<(String, u64)>, pub Vec<Vec<usize>>);

impl Outline {
    /// Parses the header's JSON.
    pub fn parse(header: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(header)
    }

    /// A name that is there more than once.
    pub fn repeated(mut self) -> Option<String> {
        self.0.sort_unstable();
        let pair = self.0.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
        Some(pair[0].0.clone())
    }
}

#[derive(Deserialize)]
struct Extent {
    data_offsets: (u64, u64),
    shape: Vec<usize>,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OutlineVisitor)
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Outline, M::Error> {
        let (mut extents, mut shapes) = (Vec::new(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let extent: Extent = map.next_value()?;
                extents.push((name, extent.data_offsets.1));
                shapes.push(extent.shape);
            }
        }
        Ok(Outline(extents, shapes))
    }
}
