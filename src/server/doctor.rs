//! What `doorward doctor` looks at: files by `config`, and then the outside: database, upstreams,
//! providers. It changes nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::config::doctor::{Finding, certificates, file_modes, upstreams};
use crate::identity::provider::Providers;
use crate::model::Clock;
use crate::store::Store;

use super::material::Material;
use super::settings::provider_settings;

/// How long one thing outside may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at everything.
pub async fn examine(config: &Config, material: &Material, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let mut findings = certificates(config, clock.now());
    findings.extend(file_modes(config));
    findings.push(database(config).await);
    let targets: Vec<(String, String, u16)> = material
        .policies
        .services()
        .flat_map(|service| {
            service.upstreams.iter().map(|upstream| (service.name.to_string(), upstream.host.clone(), upstream.port))
        })
        .collect();
    findings.extend(upstreams(&targets).await);
    findings.extend(providers(config, clock).await);
    findings
}

async fn database(config: &Config) -> Finding {
    let place = config.storage.shown();
    let asked = async {
        let store = Store::open(config.storage.url.expose()).map_err(|error| error.to_string())?;
        store.ping().await.map_err(|error| error.to_string())
    };
    let fix = "start it, or correct `[storage] url`";
    match tokio::time::timeout(ASK_TIMEOUT, asked).await {
        Ok(Ok(())) => Finding::ok("database", format!("`{place}` answers")),
        Ok(Err(error)) => Finding::fail("database", format!("`{place}`: {error}"), fix),
        Err(_) => Finding::fail("database", format!("`{place}` does not answer"), fix),
    }
}

async fn providers(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let origin = config.server.origin(&config.server.control_host, config.server.listen);
    let providers = match Providers::new(provider_settings(config), &origin, clock) {
        Ok(providers) => providers,
        Err(error) => return vec![Finding::fail("providers", error.to_string(), "correct `[[identity.provider]]`")],
    };
    let mut findings = Vec::new();
    for provider in providers.iter() {
        let name = format!("provider {}", provider.name());
        let asked = tokio::time::timeout(ASK_TIMEOUT, provider.diagnose(clock.now())).await;
        let fix = "see that the issuer is reachable from here and its URL is exact";
        findings.push(match asked {
            Ok(Ok(seen)) => Finding::ok(&name, seen),
            Ok(Err(error)) => Finding::fail(&name, error.to_string(), fix),
            Err(_) => Finding::fail(&name, "it does not answer".to_owned(), fix),
        });
    }
    findings
}
