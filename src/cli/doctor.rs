//! `doorward doctor`: `check`, and then the outside is asked: providers, database, upstreams, clock.

use std::time::Duration;

use serde_json::json;

use crate::config::doctor::{Finding, Health, certificates, file_modes, upstreams};
use crate::config::{Config, Environment};
use crate::identity::provider::Providers;
use crate::server::material;
use crate::server::run::provider_settings;
use crate::store::Store;

use super::args::{ConfigArgs, Format};
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::serve::configuration;

/// How long one thing outside may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at everything and prints what was seen.
///
/// # Errors
/// Exit 2 when `check` fails, 1 when something outside does not work.
pub async fn run(context: &Context, args: &ConfigArgs) -> Result<(), Failure> {
    let config = configuration(&args.config, &Environment::of_process())?;
    let material = material::read(&config).map_err(|error| Failure::usage(error.to_string()))?;
    let now = context.clock.now();
    let mut findings = certificates(&config, now);
    findings.extend(file_modes(&config));
    findings.push(database(&config).await);
    let targets: Vec<(String, String, u16)> = material
        .policies
        .services()
        .flat_map(|service| {
            service.upstreams.iter().map(|upstream| (service.name.to_string(), upstream.host.clone(), upstream.port))
        })
        .collect();
    findings.extend(upstreams(&targets).await);
    findings.extend(providers(context, &config).await);
    print(context, &findings)?;
    if findings.iter().any(|finding| finding.health == Health::Fail) {
        return Err(Failure::silent(Exit::Failed));
    }
    Ok(())
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

async fn providers(context: &Context, config: &Config) -> Vec<Finding> {
    let origin = config.server.origin(&config.server.control_host, config.server.listen);
    let providers = match Providers::new(provider_settings(config), &origin, &context.clock) {
        Ok(providers) => providers,
        Err(error) => return vec![Finding::fail("providers", error.to_string(), "correct `[[identity.provider]]`")],
    };
    let mut findings = Vec::new();
    for provider in providers.iter() {
        let name = format!("provider {}", provider.name());
        let asked = tokio::time::timeout(ASK_TIMEOUT, provider.diagnose(context.clock.now())).await;
        let fix = "see that the issuer is reachable from here and its URL is exact";
        findings.push(match asked {
            Ok(Ok(seen)) => Finding::ok(&name, seen),
            Ok(Err(error)) => Finding::fail(&name, error.to_string(), fix),
            Err(_) => Finding::fail(&name, "it does not answer".to_owned(), fix),
        });
    }
    findings
}

fn print(context: &Context, findings: &[Finding]) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        let items: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({ "name": finding.name, "health": finding.health.name(), "detail": finding.detail, "fix": finding.fix })
            })
            .collect();
        return context.printer.json(&json!({ "items": items, "next": null }));
    }
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.health.name().to_owned(),
                finding.name.clone(),
                finding.detail.clone(),
                finding.fix.clone().unwrap_or_default(),
            ]
        })
        .collect();
    context.printer.table(&["", "what", "seen", "what to do"], &rows)
}
