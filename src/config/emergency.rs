//! What of a configuration the emergency path needs on any machine: a copy of the file with the custodians'
//! file beside it, without the secrets, keys and policies that only the gateway's user can read.
//!
//! INVARIANT: all of `[breakglass]` is checked as `serve` checks it; of the other sections nothing is.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::problem::{Ledger, Problem};
use super::section::{Reading, Section};
use super::{BreakGlass, Environment, Policies, Server, breakglass, document, read, record, server};

/// The sections that others check.
const OTHERS: [&str; 11] =
    ["server", "trust", "identity", "session", "tokens", "keys", "storage", "audit", "policies", "notify", "telemetry"];

/// The parts of a configuration that an opening goes by.
#[derive(Debug, Clone)]
pub struct EmergencyConfig {
    /// The file that it was read from.
    pub path: PathBuf,
    /// `[server]`: the domain, and where the control host is.
    pub server: Server,
    /// `[policies]`: where they are, if they are at hand.
    pub policies: Policies,
    /// `[breakglass]`: the emergency path, where there is one.
    pub breakglass: Option<BreakGlass>,
}

/// Reads these parts.
///
/// # Errors
/// What is wrong with the file as a whole or with `[breakglass]`; with `[server]`, where it does not say whose
/// the challenge would be.
pub fn load_breakglass(path: &Path, environment: &Environment) -> Result<EmergencyConfig, Vec<Problem>> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let text = read(&path).map_err(|problem| vec![problem])?;
    let (ledger, others) = (Ledger::new(&path, &text), Ledger::new(&path, &text));
    let Some(mut document) = document::parse(&text, &ledger) else { return Err(ledger.into_problems()) };
    document::apply_overrides(&mut document, environment.vars(), &others);
    let folder = path.parent().unwrap_or(Path::new("."));
    let (server, policies) = {
        let reading = Reading { ledger: &others, environment, folder, secret_files: RefCell::default() };
        let mut root = Section::root(&reading, &document);
        (server::read(root.section("server")), record::read_policies(root.section("policies")))
    };
    let Some(server) = server else { return Err(others.into_problems()) };
    let breakglass = {
        let reading = Reading { ledger: &ledger, environment, folder, secret_files: RefCell::default() };
        let mut root = Section::root(&reading, &document);
        for section in OTHERS {
            root.skip(section);
        }
        breakglass::read(root.section("breakglass"), Some(server.domain.as_str()))
    };
    let problems = ledger.into_problems();
    if problems.iter().any(Problem::is_error) {
        return Err(problems);
    }
    Ok(EmergencyConfig { path, server, policies, breakglass })
}
