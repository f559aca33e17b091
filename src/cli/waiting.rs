//! Waiting for what becomes of a request: looked at again and again, less and less often.
//!
//! INVARIANT: a wait ends when it was to end, whatever the server does meanwhile; what was seen last is
//! what is told.

use std::time::Duration;

use crate::model::Ttl;
use crate::wire::AccessRequest;

use super::client::{Client, ClientError};
use super::failure::Failure;

/// How soon the request is looked at; each time it is waited twice as long as before, up to the most.
const LOOK_FIRST: Duration = Duration::from_millis(125);
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Looks at a request while it `is_open`, at most for that long, and gives what was seen last, with its
/// text. `client` is asked for anew at each look; `tell` hears of each new state.
///
/// # Errors
/// When there is no client any more, or the server refuses to tell.
pub async fn watched(
    mut client: impl AsyncFnMut() -> Result<Client, Failure>,
    mut last: (String, AccessRequest),
    is_open: impl Fn(&AccessRequest) -> bool,
    mut tell: impl FnMut(&AccessRequest),
    timeout: Ttl,
) -> Result<(String, AccessRequest), Failure> {
    if !is_open(&last.1) {
        return Ok(last);
    }
    let path = format!("/api/v1/requests/{}", last.1.id);
    let looking = async {
        let mut pause = LOOK_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
            let client = client().await?;
            let json = match client.get(&path).await {
                Ok(json) => json,
                // A door that restarts is worth waiting for.
                Err(ClientError::Dial(_) | ClientError::Exchange { .. } | ClientError::Slow { .. }) => continue,
                Err(error) => return Err(Failure::from(error)),
            };
            let request: AccessRequest = client.read(&json)?;
            if request.state != last.1.state {
                tell(&request);
            }
            last = (json, request);
            if !is_open(&last.1) {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(timeout.duration(), looking).await {
        // What was seen last is open still: whoever prints it says so.
        Ok(Ok(())) | Err(_) => Ok(last),
        Ok(Err(failure)) => Err(failure),
    }
}
