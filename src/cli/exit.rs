//! How a command ends: the exit codes that scripts rely on.

use std::process::ExitCode;

/// The ends of a command. The numbers are a contract with scripts and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: it is done.
    Done,
    /// 1: it failed.
    Failed,
    /// 2: the command line or a configuration is wrong.
    Usage,
    /// 3: nobody is signed in, or the session has ended.
    SignedOut,
    /// 4: the answer is no.
    Denied,
    /// 5: still pending when the wait ran out.
    Pending,
    /// 6: the server could not be reached.
    Unreachable,
    /// The code of a program that was run for the caller, or of a verdict with codes of its own, as it is.
    Passed(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::SignedOut => 3,
            Self::Denied => 4,
            Self::Pending => 5,
            Self::Unreachable => 6,
            Self::Passed(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
