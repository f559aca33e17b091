//! What `doctor` asks of a provider: that it can be found, publishes keys that we can use, and has the time
//! that we have.

use http::header;

use crate::model::{Clock, Timestamp};

use super::provider::{Provider, ProviderError};

impl Provider {
    /// Asks for discovery document and keys, and says what was seen.
    ///
    /// # Errors
    /// What did not answer, or answered what can't be used.
    pub async fn diagnose(&self, now: Timestamp) -> Result<String, ProviderError> {
        let metadata = self.metadata(now).await?;
        let keys = self.keys(None, now).await?;
        let endpoint = metadata.authorization_endpoint().url();
        let host = endpoint.host_str().unwrap_or("?");
        let (count, many) = (keys.count(), if keys.count() == 1 { "" } else { "s" });
        Ok(format!("discovered; people sign in at {host}, {count} key{many}"))
    }

    /// Asks for the discovery document once more, for the time at which it was answered, and says by how many
    /// milliseconds our clock is ahead of the provider's; less than zero where it is behind. None where it
    /// does not tell its time.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn clock_ahead(&self, clock: &dyn Clock) -> Result<Option<i64>, ProviderError> {
        let before = clock.now();
        let answer = self.client.get(&self.discovery_url(), None).await.map_err(|error| self.unreachable(error))?;
        let after = clock.now();
        let text = |name: header::HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let Some(date) = text(header::DATE).and_then(Timestamp::parse_http) else { return Ok(None) };
        // A cache repeats the date of the answer that it has.
        let age = text(header::AGE).and_then(|age| age.trim().parse::<i64>().ok()).unwrap_or(0);
        // It wrote whole seconds, at some moment between ours.
        let first = date.millis().saturating_add(age.saturating_mul(1000));
        let last = first.saturating_add(999);
        Ok(Some(if before.millis() > last {
            before.millis().saturating_sub(last)
        } else if after.millis() < first {
            after.millis().saturating_sub(first)
        } else {
            0
        }))
    }
}
