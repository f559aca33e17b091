//! Checks of upstreams: what `[health]` may say, and when a state changes.

use doorward::model::upstream_health::{Outcome, Thresholds};
use doorward::model::{CheckedUpstream, HealthBoard, ServiceName, Ttl, UpstreamHealth};
use doorward::policy::{HealthCheck, load};

use crate::policy::{folder, settings, shown};

const ROUTE: &str = "\n[[route]]\nmatch = \"GET /a\"\naction = \"read\"\n";
const ACCESS: &str = "permit (principal in Group::\"g\", action == Action::\"read\", resource);\n";

/// What this `[health]` comes to, or what is said against it.
fn read(health: &str) -> Result<HealthCheck, String> {
    let service = format!("upstreams = [\"http://127.0.0.1:9080\"]\n{ROUTE}\n[health]\n{health}");
    let dir = folder(&[("svc/service.toml", &service), ("svc/access.cedar", ACCESS)]);
    let found = load(dir.path(), &settings());
    let set = found.map_err(|found| shown(&found).replace(&dir.path().display().to_string(), "DIR"))?;
    Ok(set.services().next().unwrap().health.clone().unwrap())
}

#[test]
fn a_check_needs_a_path_and_has_defaults_for_the_rest() {
    let check = read("path = \"/healthz\"").unwrap();
    assert_eq!((check.interval, check.timeout), (Ttl::seconds(5), Ttl::seconds(2)));
    assert_eq!(check.thresholds, Thresholds { healthy: 2, unhealthy: 3 });
    assert_eq!((check.host, check.status), (None, None));
    let check = read("path = \"/h\"\ninterval = \"1s\"").unwrap();
    assert_eq!(check.timeout, Ttl::seconds(1), "a check is over before the next one");
    let check = read(
        "path = \"/h?deep=1\"\nhost = \"app.internal\"\ninterval = \"10s\"\ntimeout = \"3s\"\nhealthy_threshold = 1\n\
         unhealthy_threshold = 5\nstatus = 204",
    )
    .unwrap();
    assert_eq!(check.thresholds, Thresholds { healthy: 1, unhealthy: 5 });
    assert_eq!((check.host.as_deref(), check.status), (Some("app.internal"), Some(204)));
}

#[test]
fn a_check_that_is_not_meant_so_is_refused_with_a_way_out() {
    for (health, expected) in [
        ("interval = \"5s\"", "`path = \"/healthz\"`"),
        ("path = \"healthz\"", "it begins with `/`"),
        ("path = \"/a b\"", "is not a path to ask for"),
        ("path = \"/\\r\\nx\"", "is not a path to ask for"),
        ("path = \"/h\"\ninterval = \"100ms\"", "outside 1s to 1h"),
        ("path = \"/h\"\ntimeout = \"6s\"", "longer than the interval"),
        ("path = \"/h\"\nunhealthy_threshold = 0", "must be from 1 to 100"),
        ("path = \"/h\"\nstatus = 99", "must be from 200 to 599"),
        ("path = \"/h\"\nhost = \"a/b\"", "is not a host"),
        ("path = \"/h\"\ntresholds = 1", "tresholds"),
    ] {
        let told = read(health).unwrap_err();
        assert!(told.contains(expected) && told.contains("DIR/svc/service.toml:"), "{health}: {told}");
    }
}

#[test]
fn the_first_outcome_decides_and_later_ones_only_so_many_in_a_row() {
    let thresholds = Thresholds { healthy: 2, unhealthy: 3 };
    let (good, bad) = (Outcome::Good, Outcome::Bad);
    let (up, down) = (Some(UpstreamHealth::Healthy), Some(UpstreamHealth::Unhealthy));
    let first = CheckedUpstream::default();
    assert_eq!(first.health(), UpstreamHealth::Unknown);
    assert!(!first.is_unhealthy());
    assert_eq!(first.note(bad, thresholds), down);
    let checked = CheckedUpstream::default();
    for (outcome, expected) in [
        (good, up),
        (bad, None),
        (bad, None),
        (good, None),
        (bad, None),
        (bad, None),
        (bad, down),
        (bad, None),
        (good, None),
        (bad, None),
        (good, None),
        (good, up),
        (good, None),
    ] {
        assert_eq!(checked.note(outcome, thresholds), expected);
    }
}

#[test]
fn a_board_counts_what_can_be_used_and_forgets_what_is_gone() {
    let (board, service) = (HealthBoard::default(), ServiceName::parse("svc").unwrap());
    let thresholds = Thresholds { healthy: 1, unhealthy: 1 };
    board.of(&service, "http://a:1").note(Outcome::Bad, thresholds);
    board.of(&service, "http://b:1").note(Outcome::Good, thresholds);
    let all = ["http://a:1", "http://b:1", "http://c:1"];
    assert_eq!(board.usable(&service, all.into_iter()), 2, "one that was never asked counts");
    board.retain(|_, address| address == "http://b:1");
    assert_eq!(board.list(), [(service.clone(), "http://b:1".to_owned(), UpstreamHealth::Healthy)]);
    assert!(!board.of(&service, "http://a:1").is_unhealthy(), "back in the policies, it begins anew");
}
