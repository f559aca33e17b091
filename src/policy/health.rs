//! `[health]` of a `service.toml`: how each upstream is asked whether it can take requests.

use super::document::Field;
use super::settings::HealthCheck;
use crate::model::Ttl;
use crate::model::upstream_health::Thresholds;

/// More often than this is load, more seldom is no news.
const INTERVAL_MIN: Ttl = Ttl::seconds(1);
const INTERVAL_MAX: Ttl = Ttl::hours(1);
const THRESHOLD_MAX: u32 = 100;

/// Reads the table; `None` when there is something wrong with it, which was told.
pub(super) fn parse(field: &Field<'_>) -> Option<HealthCheck> {
    let mut table = field.table()?;
    let path = table.require("path", "write `path = \"/healthz\"`: what is asked of each upstream with GET");
    let path = path.and_then(|field| self::path(&field));
    let host = table.take("host").and_then(|field| self::host(&field));
    let interval = table.take("interval").map_or(Some(Ttl::seconds(5)), |field| interval(&field))?;
    let timeout = match table.take("timeout") {
        None => Ttl::seconds(2).min(interval),
        Some(field) => match field.duration()? {
            timeout if timeout > interval => {
                let help = format!("one check is over before the next begins: at most the interval, {interval}");
                field.error(format!("`timeout` is {timeout}, longer than the interval"), help);
                return None;
            }
            timeout => timeout,
        },
    };
    let mut threshold =
        |key, default| table.take(key).and_then(|field| field.small_number(1..=THRESHOLD_MAX)).unwrap_or(default);
    let thresholds =
        Thresholds { healthy: threshold("healthy_threshold", 2), unhealthy: threshold("unhealthy_threshold", 3) };
    let status = table.take("status").and_then(|field| field.small_number(200..=599));
    let status = status.and_then(|status| u16::try_from(status).ok());
    table.finish();
    Some(HealthCheck { path: path?, host, interval, timeout, thresholds, status })
}

fn path(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !text.starts_with('/') || text.len() > 1024 || !text.bytes().all(plain) {
        let message = format!("`{}` is not a path to ask for", text.escape_debug());
        field.error(message, "it begins with `/`, and what is not ASCII is percent-encoded");
        return None;
    }
    Some(text.to_owned())
}

fn host(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']' | b'_');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(inside) {
        field.error(format!("`{}` is not a host", text.escape_debug()), "write a name, with `:port` where it has one");
        return None;
    }
    Some(text.to_owned())
}

fn interval(field: &Field<'_>) -> Option<Ttl> {
    let interval = field.duration()?;
    if interval < INTERVAL_MIN || interval > INTERVAL_MAX {
        field.error(
            format!("`interval` is {interval}, outside {INTERVAL_MIN} to {INTERVAL_MAX}"),
            "give something between",
        );
        return None;
    }
    Some(interval)
}
