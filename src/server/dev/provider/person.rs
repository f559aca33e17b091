//! The people of the development provider.

/// Someone who can sign in by being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// Subject and login name.
    pub name: &'static str,
    /// As people read it.
    pub full_name: &'static str,
    /// Groups, until a lever changes them.
    pub groups: &'static [&'static str],
}

/// Everyone there is. Their e-mail is `<name>@example.com`, verified.
pub const PEOPLE: [Person; 4] = [
    Person { name: "alice", full_name: "Alice Archer", groups: &["engineering"] },
    Person { name: "bob", full_name: "Bob Baker", groups: &["engineering", "release-managers"] },
    Person { name: "carol", full_name: "Carol Cooper", groups: &["security", "auditors"] },
    Person { name: "dave", full_name: "Dave Draper", groups: &[] },
];

impl Person {
    /// The person of that name; an e-mail address is taken for its owner.
    #[must_use]
    pub fn named(hint: &str) -> Option<&'static Self> {
        let name = hint.strip_suffix("@example.com").unwrap_or(hint);
        PEOPLE.iter().find(|person| person.name == name)
    }

    /// The e-mail address.
    #[must_use]
    pub fn email(&self) -> String {
        format!("{}@example.com", self.name)
    }
}
