//! Why a command did not do what it was asked for: one shape for all commands, so that each is
//! told to people and to scripts in the same way.
//!
//! INVARIANT: what a server sent is carried as it was sent; what went wrong on this side is put
//! into the same form (RFC 9457), without an HTTP status.

use serde_json::{Map, Value};

use crate::wire::{Problem, Remedy};

use super::exit::Exit;

/// A command that ended badly: the exit code, and what is printed.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What is told. Its status is 0 where no server said it.
    pub problem: Box<Problem>,
    /// The HTTP status, where a server said no in another form than a problem.
    pub status: Option<u16>,
    /// Whether its detail is lines of our own making, one for each fault of a file.
    pub(in crate::cli) in_lines: bool,
    /// Whether nobody is signed in who could ask why.
    nobody_asks: bool,
}

impl Failure {
    /// A failure of this side.
    #[must_use]
    pub fn new(exit: Exit, reason: &str, detail: impl Into<String>) -> Self {
        let title = match exit {
            Exit::Done => "Done",
            Exit::Failed | Exit::Passed(_) => "It did not work",
            Exit::Usage => "Wrong usage",
            Exit::SignedOut => "Not signed in",
            Exit::Denied => "Denied",
            Exit::Pending => "Still pending",
            Exit::Unreachable => "The server could not be reached",
        };
        let problem = Problem::new(0, reason, title).with_detail(detail);
        Self { exit, problem: Box::new(problem), status: None, in_lines: false, nobody_asks: false }
    }

    /// An end of which everything has been said already.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        Self { exit, problem: Box::new(Problem::new(0, "", "")), status: None, in_lines: false, nobody_asks: false }
    }

    /// Whether there is nothing left to say.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.problem.reason.is_empty() && self.problem.title.is_empty()
    }

    /// Exit 1.
    #[must_use]
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "failed", detail)
    }

    /// Exit 2.
    #[must_use]
    pub fn usage(detail: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", detail)
    }

    /// Told line by line. Any other failure is one line: what it says may be another's words.
    #[must_use]
    pub(in crate::cli) fn in_lines(self) -> Self {
        Self { in_lines: true, ..self }
    }

    /// Told to somebody who is not signed in, and so may not ask why. Scripts are told the decision all the same.
    #[must_use]
    pub(in crate::cli) fn without_session(self) -> Self {
        Self { nobody_asks: true, ..self }
    }

    /// Exit 3, with the command that signs in.
    #[must_use]
    pub fn signed_out(reason: &str, detail: impl Into<String>, command: &str) -> Self {
        let mut failure = Self::new(Exit::SignedOut, reason, detail);
        failure.problem.remedy = Some(Remedy::new("sign_in", Some(command)));
        failure
    }

    /// What a server answered.
    #[must_use]
    pub fn refused(problem: Problem) -> Self {
        let exit = match (problem.status, problem.reason.as_str()) {
            (401, _) | (_, "no_credential" | "bad_credential" | "session_ended") => Exit::SignedOut,
            (403, _) => Exit::Denied,
            (400 | 422, "usage" | "invalid" | "invalid_request") => Exit::Usage,
            (502..=504, _) => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Self { exit, problem: Box::new(problem), status: None, in_lines: false, nobody_asks: false }
    }

    /// The lines for people: what, then what to do.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let problem = &self.problem;
        let mut lines = Vec::new();
        match &problem.detail {
            Some(detail) if problem.status == 0 => lines.push(format!("error: {detail}")),
            Some(detail) => lines.push(format!("error: {} ({}): {detail}", problem.title, problem.reason)),
            None => lines.push(format!("error: {} ({})", problem.title, problem.reason)),
        }
        if let Some(remedy) = &problem.remedy {
            if let Some(entitlement) = &remedy.entitlement {
                lines.push(format!("  `{entitlement}` would allow it"));
            }
            if let Some(command) = &remedy.command {
                lines.push(format!("  to do: {command}"));
            }
        }
        // Of what is not there, and to nobody, there is no more to tell.
        let explained = |_: &&String| problem.status != 401 && problem.reason != "not_found" && !self.nobody_asks;
        if let Some(decision) = problem.decision.as_ref().filter(explained) {
            lines.push(format!("  more:  doorward why {decision}"));
        }
        lines
    }

    /// The same as one line of problem+json. Where no server answered there is no `status`.
    #[must_use]
    pub fn json(&self) -> String {
        let mut value = serde_json::to_value(&self.problem).unwrap_or_else(|_| Value::Object(Map::new()));
        if let Value::Object(object) = &mut value
            && self.problem.status == 0
        {
            match self.status {
                Some(status) => drop(object.insert("status".to_owned(), status.into())),
                None => drop(object.remove("status")),
            }
        }
        value.to_string()
    }
}
