//! `doorward request`: reads what would be asked for and says that it can't be asked for yet.

use super::args::RequestArgs;
use super::failure::Failure;

/// Ends with exit 1: what is asked for is read and checked, and nothing is sent.
///
/// # Errors
/// Always, until there is just-in-time access.
pub fn run(args: &RequestArgs) -> Result<(), Failure> {
    Err(Failure::failed(format!(
        "just-in-time access is not built yet: nothing was asked for; ask the owners of `{}` for a policy instead",
        args.entitlement.service()
    )))
}
