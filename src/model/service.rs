//! Names of services, their actions and their entitlements.

use std::fmt;
use std::sync::Arc;

/// Why a text is not such a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    /// What the text was taken for.
    pub kind: &'static str,
    /// The text, shortened.
    pub text: String,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not the name of {}: use 1 to 63 characters of `a-z`, `0-9`, `-` and `_`, a letter first",
            self.text.escape_debug(),
            self.kind
        )
    }
}

impl std::error::Error for NameError {}

fn checked(kind: &'static str, text: &str) -> Result<Arc<str>, NameError> {
    let mut bytes = text.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    let goes_on = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if starts && goes_on && text.len() <= 63 {
        Ok(text.into())
    } else {
        Err(NameError { kind, text: text.chars().take(80).collect() })
    }
}

/// What [`checked`] takes, as a regular expression.
const PATTERN: &str = "^[a-z][a-z0-9_-]{0,62}$";

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The same rule as a regular expression.
            pub const PATTERN: &'static str = PATTERN;

            /// Takes the text if it is 1 to 63 characters of `a-z0-9-_`, a letter first.
            ///
            /// # Errors
            /// Says what the text was taken for and which characters a name may have.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                checked($kind, text).map(Self)
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name itself, not copied.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

names! {
    /// A protected upstream: one folder under `policies/`.
    ServiceName, "a service";
    /// What a route stands for: the id of a Cedar action of its service.
    ActionName, "an action";
}

/// Something that may be asked for: `<service>/<name>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntitlementName {
    service: ServiceName,
    name: Arc<str>,
}

impl EntitlementName {
    /// The entitlement `name` of `service`.
    ///
    /// # Errors
    /// When `name` is not a name.
    pub fn new(service: ServiceName, name: &str) -> Result<Self, NameError> {
        Ok(Self { service, name: checked("an entitlement", name)? })
    }

    /// Reads `<service>/<name>`.
    ///
    /// # Errors
    /// When either half is missing or not a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let whole =
            || NameError { kind: "an entitlement (`<service>/<name>`)", text: text.chars().take(120).collect() };
        let (service, name) = text.split_once('/').ok_or_else(whole)?;
        Self::new(ServiceName::parse(service)?, name)
    }

    /// The service that defines it.
    #[must_use]
    pub const fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Its name within the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for EntitlementName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

impl fmt::Debug for EntitlementName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An action that an entitlement opens, as those who approve it see it: by its name where it is of the
/// entitlement's own service, of any other `<service>/<action>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenedAction {
    elsewhere: Option<ServiceName>,
    action: ActionName,
}

impl OpenedAction {
    /// An action of the entitlement's own service.
    #[must_use]
    pub const fn own(action: ActionName) -> Self {
        Self { elsewhere: None, action }
    }

    /// One of another service.
    #[must_use]
    pub const fn elsewhere(service: ServiceName, action: ActionName) -> Self {
        Self { elsewhere: Some(service), action }
    }

    /// Reads `<action>` or `<service>/<action>`.
    ///
    /// # Errors
    /// When a part is not a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            None => ActionName::parse(text).map(Self::own),
            Some((service, action)) => Ok(Self::elsewhere(ServiceName::parse(service)?, ActionName::parse(action)?)),
        }
    }

    /// Whether it is this action of this service, for an entitlement of `home`.
    #[must_use]
    pub fn is(&self, home: &ServiceName, service: &ServiceName, action: &ActionName) -> bool {
        self.elsewhere.as_ref().unwrap_or(home) == service && self.action == *action
    }
}

impl fmt::Display for OpenedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.elsewhere {
            None => fmt::Display::fmt(&self.action, f),
            Some(service) => write!(f, "{service}/{}", self.action),
        }
    }
}

impl fmt::Debug for OpenedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
