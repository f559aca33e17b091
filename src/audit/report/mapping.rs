//! Which events are evidence for which control: the reviewed tables of `mapping.toml`, read.

use std::fmt;

use serde::Deserialize;

use super::exception::Exception;
use super::population::Population;

/// The tables, as they are reviewed.
const TEXT: &str = include_str!("mapping.toml");

/// A framework that reports are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameworkName {
    /// SOC 2: the Trust Services Criteria
    Soc2,
    /// ISO/IEC 27001, Annex A
    Iso27001,
    /// NIST SP 800-53
    Nist80053,
    /// PCI DSS
    PciDss,
    /// The HIPAA Security Rule
    Hipaa,
}

impl FrameworkName {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Soc2, Self::Iso27001, Self::Nist80053, Self::PciDss, Self::Hipaa];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Soc2 => "soc2",
            Self::Iso27001 => "iso27001",
            Self::Nist80053 => "nist800-53",
            Self::PciDss => "pci-dss",
            Self::Hipaa => "hipaa",
        }
    }
}

/// A framework and those of its controls for which a door has something to show.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// Its name, as [`FrameworkName`] writes it.
    pub id: String,
    /// Its title and edition.
    pub title: String,
    /// Who publishes it.
    pub publisher: String,
    /// Its controls, in its own order.
    pub control: Vec<Control>,
}

/// One control.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Its number.
    pub id: String,
    /// Its title, in our words.
    pub title: String,
    /// What it asks, in our words.
    pub asks: String,
    /// The populations that are evidence for it.
    pub populations: Vec<Population>,
    /// What would speak against it, or is to be looked at for it.
    #[serde(default)]
    pub exceptions: Vec<Exception>,
    /// What evidence must come from elsewhere.
    #[serde(default)]
    pub gaps: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    framework: Vec<Framework>,
}

/// The mapping can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingError(String);

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reading the mapping of controls that this program was built with: {}", self.0)
    }
}

impl std::error::Error for MappingError {}

impl Framework {
    /// The framework of that name.
    ///
    /// # Errors
    /// When the tables can't be read, or it is not in them. A test reads all of them.
    pub fn load(name: FrameworkName) -> Result<Self, MappingError> {
        let tables: Tables = toml::from_str(TEXT).map_err(|error| MappingError(error.to_string()))?;
        let found = tables.framework.into_iter().find(|framework| framework.id == name.name());
        found.ok_or_else(|| MappingError(format!("`{}` is not in it", name.name())))
    }
}
