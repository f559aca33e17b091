//! What `doctor` asks of a provider: that it can be found, and publishes keys that we can use.

use crate::model::Timestamp;

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
        Ok(format!("discovered; people sign in at {}, {} keys", endpoint.host_str().unwrap_or("?"), keys.count()))
    }
}
