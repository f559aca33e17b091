//! What `doorward doctor` looks at: files by `config`, and then the outside: database, upstreams,
//! providers, and by them the clock; and at the places on disk that it writes to. It changes nothing.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Access;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::config::doctor::{self, Finding, certificates, file_modes, upstreams};
use crate::config::{Config, Spool, Witness, witness_file_fault};
use crate::control::audit::root::{Root, RootError};
use crate::control::audit::stream::StreamSeen;
use crate::control::audit::tree_check::{self, Seen};
use crate::credential::seal::Sealer;
use crate::gateway::handshake::tls_time;
use crate::gateway::probe::{ProbeError, handshake, probe};
use crate::gateway::snapshot::upstream_tls;
use crate::identity::provider::Providers;
use crate::model::{Clock, Timestamp};
use crate::outbound::judged_addresses;
use crate::outbound::syslog::Syslog;
use crate::store::{Store, TablesFault, is_volatile};

use super::material::Material;
use super::settings::provider_settings;
use super::stream::sink::Source;
use super::stream::{Refused, Sink};
use super::tree::witnessed;

/// How long one thing outside may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the look at the record may take; it does not grow with the record, but with the number of logs.
const RECORD_TIMEOUT: Duration = Duration::from_secs(60);

/// Looks at everything.
pub async fn examine(config: &Config, material: &Material, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let mut findings = certificates(config, clock.now());
    findings.extend(file_modes(config));
    findings.push(spool(config));
    let (found, kept) = database(config).await;
    findings.push(found);
    if let Kept::Here(store) = &kept {
        findings.extend(clock_of_database(store, &**clock).await);
        findings.extend(record(config, store).await);
    }
    let targets: Vec<(String, String, u16)> = material
        .policies
        .services()
        .flat_map(|service| {
            service.upstreams.iter().map(|upstream| (service.name.to_string(), upstream.host.clone(), upstream.port))
        })
        .collect();
    findings.extend(upstreams(&targets).await);
    findings.extend(handshakes(material, clock).await);
    findings.extend(checks(material, clock).await);
    findings.extend(providers(config, clock).await);
    findings.extend(streams(config, &kept, clock).await);
    findings.extend(witnesses(config, clock).await);
    findings
}

/// Each stream's receiver is tried with nothing to send, and how far the stream is behind is read.
async fn streams(config: &Config, kept: &Kept, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let tried = config.audit.streams.iter().map(|stream| async {
        let name = format!("stream {}", stream.name);
        let lag = tokio::time::timeout(ASK_TIMEOUT, lag(kept, &stream.name, clock.now())).await;
        let lag = lag.unwrap_or_else(|_| "how far it is can't be read".to_owned());
        let fix = "see that the receiver is reachable from here, and that `[[audit.stream]]` says how";
        let sink = match Sink::new(&stream.receiver, clock) {
            Ok(sink) => sink,
            Err(error) => return Finding::fail(&name, error.to_string(), "correct `ca`"),
        };
        let host = config.server.control_host.as_str();
        match sink.probe(Source { stream: &stream.name, host, format: stream.format }, clock.now()).await {
            Ok(()) => Finding::ok(&name, format!("the receiver takes events; {lag}")),
            // Of nothing a receiver of lines may think what it likes.
            Err(error @ Refused::Status(_)) if matches!(sink, Sink::Webhook(_)) => {
                Finding::warn(&name, format!("{error} to a POST without events; {lag}"), fix)
            }
            Err(error) => Finding::fail(&name, format!("{error}; {lag}"), fix),
        }
    });
    futures_util::future::join_all(tried).await
}

async fn lag(kept: &Kept, name: &str, now: Timestamp) -> String {
    let read = async {
        let store = match kept {
            Kept::Here(store) => store,
            Kept::NotYet => return Ok(None),
            Kept::Away => return Err(None),
        };
        match store.stream_fetch(name).await.map_err(Some)? {
            Some(stream) => StreamSeen::of(store, stream).await.map(Some).map_err(Some),
            None => Ok(None),
        }
    };
    match read.await {
        Ok(Some(seen)) => {
            let error = seen.stream.error.as_ref().map(|error| format!(", last error: {error}")).unwrap_or_default();
            format!("{}, {} events behind, {}{error}", seen.state(now).name(), seen.lag_events(), seen.lag(now))
        }
        Ok(None) => "no door has begun it yet".to_owned(),
        Err(_) => "how far it is can't be read".to_owned(),
    }
}

/// Whoever keeps checkpoints: a file must be writable, a webhook reachable at an address that is spoken to; syslog
/// receivers are tried with nothing to send.
async fn witnesses(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let tried = config.audit.witnesses.iter().map(|witness| async move {
        let fix = "see that the receiver is reachable from here, and that `[audit] witnesses` says how";
        match witness {
            Witness::File(path) => witness_file(path),
            Witness::Webhook { url, allow_loopback } => {
                let name = format!("witness {url}");
                match tokio::time::timeout(ASK_TIMEOUT, reach(url, *allow_loopback)).await {
                    Ok(Ok(())) => Finding::ok(&name, "it takes connections".to_owned()),
                    Ok(Err(error)) => Finding::fail(&name, error, fix),
                    Err(_) => Finding::fail(&name, "it does not answer".to_owned(), fix),
                }
            }
            Witness::Syslog(settings) => {
                let name = format!("witness {}", settings.address());
                let tried = match Syslog::new(settings, Arc::clone(clock)) {
                    Ok(syslog) => syslog.deliver(&[]).await,
                    Err(error) => Err(error),
                };
                match tried {
                    Ok(()) => Finding::ok(&name, "the receiver takes checkpoints".to_owned()),
                    Err(error) => Finding::fail(&name, error.to_string(), fix),
                }
            }
        }
    });
    futures_util::future::join_all(tried).await
}

/// A connection to a URL's host, by the rules for addresses.
async fn reach(url: &str, allow_loopback: bool) -> Result<(), String> {
    let url = url::Url::parse(url).map_err(|error| error.to_string())?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("it names no host".to_owned());
    };
    let addresses = judged_addresses(host, port, allow_loopback).await.map_err(|error| error.to_string())?;
    TcpStream::connect(&*addresses).await.map(drop).map_err(|error| error.to_string())
}

fn witness_file(path: &Path) -> Finding {
    let name = format!("witness {}", path.display());
    let fix = "name a file that doorward may write in `[audit] witnesses`";
    if let Some(fault) = witness_file_fault(path) {
        return Finding::fail(&name, fault, fix);
    }
    match writable(path) {
        // What checkpoints are read of, too, must not wait for a writer.
        Ok(()) if path.exists() && !path.is_file() => Finding::fail(&name, "it is no regular file".to_owned(), fix),
        Ok(()) => Finding::ok(&name, "it can be written".to_owned()),
        Err(error) => Finding::fail(&name, format!("it can't be written: {error}"), fix),
    }
}

/// Whether this file may be written, or made.
fn writable(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).map_err(std::io::Error::from);
    }
    rustix::fs::access(folder_of(path), Access::WRITE_OK | Access::EXEC_OK).map_err(std::io::Error::from)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Where decisions go while the database is away: it takes its room at the start.
fn spool(config: &Config) -> Finding {
    let (name, fix) = ("spool", "give it room on a disk in `[audit] spool`, or `spool = \"off\"` for none");
    let Spool::File { path, bytes, .. } = &config.audit.spool else {
        return Finding::ok(name, "off: with the database away requests are refused".to_owned());
    };
    let shown = path.display();
    if is_volatile(folder_of(path)).unwrap_or(false) {
        let what =
            format!("`{shown}` would lie in memory, so there is none: with the database away requests are refused");
        return Finding::warn(name, what, fix);
    }
    if let Err(error) = writable(path) {
        return Finding::fail(name, format!("`{shown}` can't be written: {error}"), fix);
    }
    let there = std::fs::metadata(path).map_or(0, |about| about.len());
    let wanted = bytes.saturating_sub(there);
    match rustix::fs::statvfs(folder_of(path)) {
        Ok(about) if about.f_bavail.saturating_mul(about.f_frsize) < wanted => {
            let megabytes = wanted.div_ceil(1024 * 1024);
            Finding::fail(name, format!("`{shown}` needs {megabytes} MiB more than there is on its disk"), fix)
        }
        Ok(_) => Finding::ok(name, format!("`{shown}` can be written and has its room")),
        Err(error) => Finding::fail(name, format!("`{shown}`: {error}"), fix),
    }
}

/// TLS is agreed on with each upstream that is reached by it, as a running gateway would.
async fn handshakes(material: &Material, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let mut tried = Vec::new();
    for service in material.policies.services() {
        let tls = upstream_tls(service, tls_time(clock));
        for upstream in service.upstreams.iter().filter(|upstream| upstream.tls) {
            let tls = tls.clone();
            tried.push(async move {
                let name = format!("TLS of {} at {upstream}", service.name);
                let fix =
                    "correct `[upstream_tls]` in its service.toml (`ca`, `server_name`), or the upstream's certificate";
                let tls = match tls {
                    Ok(tls) => tls,
                    Err(why) => return Some(Finding::fail(&name, why, "correct `[upstream_tls]`")),
                };
                match handshake(service, upstream, &tls).await {
                    Ok(()) => Some(Finding::ok(&name, "its certificate holds".to_owned())),
                    // Which has been told above.
                    Err(ProbeError::Unreachable(_)) => None,
                    Err(why) => Some(Finding::fail(&name, why.to_string(), fix)),
                }
            });
        }
    }
    futures_util::future::join_all(tried).await.into_iter().flatten().collect()
}

/// Each upstream that a running gateway checks is asked once, as it would.
async fn checks(material: &Material, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let tasks = TaskTracker::new();
    let mut asked = Vec::new();
    for service in material.policies.services() {
        let Some(check) = &service.health else { continue };
        let tls = upstream_tls(service, tls_time(clock));
        for upstream in &service.upstreams {
            let (tls, tasks) = (tls.clone(), &tasks);
            asked.push(async move {
                let name = format!("check of {} at {upstream}", service.name);
                let fix = "see what the upstream says to `[health] path`, or correct `[health]` in its service.toml";
                let tls = match tls {
                    Ok(tls) => tls,
                    Err(why) => return Finding::fail(&name, why, "correct `[upstream_tls]`"),
                };
                match probe(service, upstream, check, &tls, tasks).await {
                    Ok(status) => Finding::ok(&name, format!("`{}` is answered with {status}", check.path)),
                    Err(why) => Finding::fail(&name, format!("`{}`: {why}", check.path), fix),
                }
            });
        }
    }
    futures_util::future::join_all(asked).await
}

/// The database as it was found.
enum Kept {
    /// It answers and has our tables.
    Here(Store),
    /// Nobody has made it yet.
    NotYet,
    /// It does not answer.
    Away,
}

/// A database that answers and has tables.
enum Tables {
    /// Ours, to write.
    Ours(Store),
    /// Ours, to read.
    ReadOnly(Store),
    /// Those that `serve` does not take.
    Wrong(TablesFault),
}

async fn database(config: &Config) -> (Finding, Kept) {
    let place = config.storage.shown();
    let asked = async {
        // INVARIANT: what is not there is not opened, since that would make it.
        if let Some(file) = config.storage.sqlite_file() {
            match std::fs::metadata(&file) {
                Ok(about) if about.len() == 0 => return Ok(None),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let url = config.storage.url_to_look();
        let store = Store::open_to_read(url.expose()).map_err(|error| error.to_string())?;
        let made = store.has_tables().await.map_err(|error| error.to_string())?;
        // What `serve` would not start with, whether it is ours or not.
        if let Some(fault) = store.tables_fault().await.map_err(|error| error.to_string())? {
            return Ok(Some(Tables::Wrong(fault)));
        }
        if !made {
            return Ok(None);
        }
        let is_read_only = store.is_read_only().await.map_err(|error| error.to_string())?;
        Ok(Some(if is_read_only { Tables::ReadOnly(store) } else { Tables::Ours(store) }))
    };
    let fix = "start it, or correct `[storage] url`";
    match tokio::time::timeout(ASK_TIMEOUT, asked).await {
        Ok(Ok(Some(Tables::Ours(store)))) => (Finding::ok("database", format!("`{place}` answers")), Kept::Here(store)),
        Ok(Ok(Some(Tables::Wrong(fault)))) => {
            (Finding::fail("database", format!("`{place}`: {fault}"), fault.remedy()), Kept::Away)
        }
        Ok(Ok(Some(Tables::ReadOnly(store)))) => {
            let what = format!("`{place}` answers and takes no writes: it is a standby, or set read-only");
            (
                Finding::fail("database", what, "name the primary in `[storage] url`, or make this one the primary"),
                Kept::Here(store),
            )
        }
        Ok(Ok(None)) => {
            (Finding::ok("database", format!("`{place}` is not there yet, `serve` makes it")), Kept::NotYet)
        }
        Ok(Err(error)) => (Finding::fail("database", format!("`{place}`: {error}"), fix), Kept::Away),
        Err(_) => (Finding::fail("database", format!("`{place}` does not answer"), fix), Kept::Away),
    }
}

/// How far this machine's clock is from the database's, where that has one of its own and says it.
async fn clock_of_database(store: &Store, clock: &dyn Clock) -> Option<Finding> {
    // The question finds a connection that is open.
    store.ping().await.ok()?;
    let before = clock.now().millis();
    let asked = tokio::time::timeout(ASK_TIMEOUT, store.clock_fetch()).await;
    let Ok(Ok(Some(shown))) = asked else { return None };
    let (shown, after) = (shown.millis(), clock.now().millis());
    // It read its clock at some moment between ours.
    Some(doctor::clock_of_database(if before > shown { before - shown } else { after.saturating_sub(shown).min(0) }))
}

/// Whether the record is what its checkpoints, and those of its witnesses, say.
async fn record(config: &Config, store: &Store) -> Vec<Finding> {
    let fix = "keep a copy of the database, and have `doorward audit verify DATABASE --key … --checkpoint …` name the first \
               event that is not what it was";
    let asked = async {
        let sealer = Sealer::new(config.keys.key_encryption_key.expose()).map_err(|error| error.to_string())?;
        let root = match Root::open(store, &sealer).await {
            Ok(root) => root,
            Err(RootError::None) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let witnesses: Vec<&Witness> = config.audit.witnesses.iter().collect();
        let notes = witnessed(&witnesses).await;
        let found = tree_check::all(store, root.key(), &notes).await.map_err(|error| error.to_string())?;
        Ok(Some(found))
    };
    let found = match tokio::time::timeout(RECORD_TIMEOUT, asked).await {
        Ok(Ok(Some(found))) => found,
        Ok(Ok(None)) => return vec![Finding::ok("record", "nothing is on record yet".to_owned())],
        Ok(Err(error)) => {
            return vec![Finding::fail("record", error, "see that the database answers and `[keys]` is right")];
        }
        Err(_) => return vec![Finding::fail("record", "it could not be read in time".to_owned(), "try again")],
    };
    found
        .into_iter()
        .map(|(log, seen)| {
            let name = format!("record {log}");
            match seen {
                Ok(seen) => Finding::ok(&name, told(&seen)),
                Err(fault) => Finding::fail(&name, fault.to_string(), fix),
            }
        })
        .collect()
}

fn told(seen: &Seen) -> String {
    let Some(time) = seen.time else { return "no checkpoint of it yet".to_owned() };
    let many = |count: u64| format!("{count} event{}", if count == 1 { "" } else { "s" });
    let mut text = format!("{} under the checkpoint of {time}", many(seen.size));
    if seen.ahead > 0 {
        text.push_str(&format!(", {} after it", seen.ahead));
    }
    let (kept, witnessed) = (seen.checkpoints, seen.witnessed);
    text.push_str(&format!("; checkpoints agree: {kept} kept, {witnessed} of witnesses"));
    if seen.leaves > 0 {
        text.push_str(&format!("; {} compared", many(seen.leaves)));
    }
    text
}

async fn providers(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let origin = config.server.origin(&config.server.control_host, config.server.listen);
    let providers = match Providers::new(provider_settings(config), &origin, clock) {
        Ok(providers) => providers,
        Err(error) => return vec![Finding::fail("providers", error.to_string(), "correct `[[identity.provider]]`")],
    };
    let (mut findings, mut told) = (Vec::new(), Vec::new());
    for provider in providers.iter() {
        let name = format!("provider {}", provider.name());
        let asked = tokio::time::timeout(ASK_TIMEOUT, provider.diagnose(clock.now())).await;
        let found = matches!(asked, Ok(Ok(_)));
        let fix = "see that the issuer is reachable from here and its URL is exact";
        findings.push(match asked {
            Ok(Ok(seen)) => Finding::ok(&name, seen),
            Ok(Err(error)) => Finding::fail(&name, error.to_string(), fix),
            Err(_) => Finding::fail(&name, "it does not answer".to_owned(), fix),
        });
        if found && let Ok(Ok(Some(ahead))) = tokio::time::timeout(ASK_TIMEOUT, provider.clock_ahead(&**clock)).await {
            told.push((provider.name().to_string(), ahead));
        }
    }
    findings.extend(doctor::clock(&told));
    findings
}
