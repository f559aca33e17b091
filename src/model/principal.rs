//! Who acts. Identity is (issuer's local name, subject) and never an e-mail address.

use std::fmt;
use std::sync::Arc;

/// Which kind of principal: also the name of its Cedar entity type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PrincipalKind {
    /// A person, signed in at a provider.
    User,
    /// A pipeline or machine, recognised by a trust rule.
    Workload,
    /// Someone on the emergency path.
    BreakGlass,
}

impl PrincipalKind {
    /// Every kind that there is.
    pub const ALL: [Self; 3] = [Self::User, Self::Workload, Self::BreakGlass];

    /// The Cedar entity type, which is also what people read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Workload => "Workload",
            Self::BreakGlass => "BreakGlass",
        }
    }

    /// The kind with that Cedar entity type.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "User" => Some(Self::User),
            "Workload" => Some(Self::Workload),
            "BreakGlass" => Some(Self::BreakGlass),
            _ => None,
        }
    }
}

/// A principal: kind and Cedar entity id. A user's id is `<provider>|<subject>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    kind: PrincipalKind,
    id: Arc<str>,
}

/// The longest id of a principal in bytes (OIDC Core §2 allows a subject of 255).
pub const PRINCIPAL_ID_BYTES_MAX: usize = 512;

impl Principal {
    /// The user with this subject at the provider of this local name. `None` when the subject is
    /// empty, over-long, or has control characters, or the provider's name has `|`.
    #[must_use]
    pub fn user(provider: &str, subject: &str) -> Option<Self> {
        let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        let fits = provider.len() + subject.len() < PRINCIPAL_ID_BYTES_MAX;
        (plain(provider) && plain(subject) && !provider.contains('|') && fits)
            .then(|| Self { kind: PrincipalKind::User, id: format!("{provider}|{subject}").into() })
    }

    /// The workload that a trust rule names: the issuer's local name and the rule's, or a SPIFFE id.
    /// `None` under the same conditions as [`Principal::user`].
    #[must_use]
    pub fn workload(issuer: &str, subject: &str) -> Option<Self> {
        Self::user(issuer, subject).map(|named| Self { kind: PrincipalKind::Workload, id: named.id })
    }

    /// Whoever holds the client key of this opening.
    #[must_use]
    pub fn breakglass(id: super::id::BreakGlassId) -> Self {
        Self { kind: PrincipalKind::BreakGlass, id: id.to_string().into() }
    }

    /// A principal as stored: kind and whole id.
    #[must_use]
    pub fn stored(kind: PrincipalKind, id: &str) -> Option<Self> {
        (!id.is_empty() && id.len() <= PRINCIPAL_ID_BYTES_MAX).then(|| Self { kind, id: id.into() })
    }

    /// Reads the text form, `User::"<provider>|<subject>"`, or for a user the bare id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((kind, rest)) = text.split_once("::") {
            let id = rest.strip_prefix('"')?.strip_suffix('"')?;
            return Self::stored(PrincipalKind::parse(kind)?, id);
        }
        let (provider, subject) = text.split_once('|')?;
        Self::user(provider, subject)
    }

    /// Person, workload or break-glass.
    #[must_use]
    pub const fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// The Cedar entity id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The local name of the provider that vouches for a user.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.id.split_once('|').map_or(&*self.id, |(provider, _)| provider)
    }

    /// A user's subject at the provider.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.id.split_once('|').map_or(&*self.id, |(_, subject)| subject)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::\"{}\"", self.kind.name(), self.id)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
