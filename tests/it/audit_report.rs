//! Reports for auditors: what is counted, what stands out, and what is written of it. Each number is
//! counted a second way from the lines that an auditor has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use doorward::audit::checkpoint::installation_name;
use doorward::audit::event::Event;
use doorward::audit::evidence::{Head, end_line};
use doorward::audit::filter::{Filter, FilterText};
use doorward::audit::format::ReadLine;
use doorward::audit::line::{Withheld, check_line, line_of, withheld_line};
use doorward::audit::merkle::leaf_hash;
use doorward::audit::report::{
    Exception, Framework, FrameworkName, Gatherer, Period, Population, Report, ReportedLog, Source, Verdict, csv, html,
    oscal,
};
use doorward::audit::{EventType, Leaf, Outcome};
use doorward::control::audit::export::{Begun, begin};
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::credential::seal::Sealer;
use doorward::model::{BreakGlassId, Clock, EventId, GrantId, NodeId, Principal, ServiceName, Timestamp, Ttl};
use doorward::store::Store;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::leaf::sealing;
use crate::support::{SeededEntropy, TestClock, sqlite_database, temporary_folder};

pub const START: i64 = 1_795_341_600_000;
const HOSTILE: &str = "=cmd|' /C calc'!A0<script>alert(1)</script>\"'&";

/// Events of a made-up record, one a minute.
#[derive(Default)]
pub struct Script {
    pub events: Vec<Event>,
}

impl Script {
    pub fn add(&mut self, kind: EventType, outcome: Outcome) -> &mut Event {
        let minute = i64::try_from(self.events.len()).unwrap();
        self.at(Timestamp::from_millis(START + minute * 60_000), kind, outcome)
    }

    pub fn at(&mut self, time: Timestamp, kind: EventType, outcome: Outcome) -> &mut Event {
        let number = u32::try_from(self.events.len()).unwrap();
        let mut bytes = [7; 16];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        self.events.push(Event::new(EventId::from_bytes(bytes), time, kind, outcome));
        self.events.last_mut().unwrap()
    }

    pub fn data(&mut self, kind: EventType, data: &[(&str, Value)]) -> &mut Event {
        let event = self.add(kind, Outcome::Success);
        for (key, value) in data {
            event.data.insert((*key).to_owned(), value.clone());
        }
        event
    }

    pub fn by(&mut self, who: &str, kind: EventType, data: &[(&str, Value)]) -> &mut Event {
        let event = self.data(kind, data);
        event.actor.principal = Principal::user("dev", who);
        event
    }

    /// A request with its approvers, and the grant that follows.
    pub fn grant(&mut self, number: u8, needed: u64, approvers: &[&str], emergency: bool) -> GrantId {
        let (grant, request) = (GrantId::from_bytes([number; 16]), format!("req_{number}"));
        let data = [
            ("request", request.as_str().into()),
            ("entitlement", "ops-api/deploy-prod".into()),
            ("approvals_needed", needed.into()),
            ("emergency", emergency.into()),
        ];
        self.by("alice", EventType::RequestCreated, &data).subject = Principal::user("dev", "alice");
        for approver in approvers {
            self.by(approver, EventType::RequestApproved, &data).subject = Principal::user("dev", "alice");
        }
        let active = self.data(EventType::GrantActive, &data);
        active.subject = Principal::user("dev", "alice");
        active.grant = Some(grant);
        grant
    }

    pub fn used(&mut self, grant: GrantId) {
        let event = self.by("alice", EventType::DecisionAllow, &[]);
        event.grant = Some(grant);
        event.service = Some(ServiceName::parse("ops-api").unwrap());
    }

    /// The lines of an export, all of one log.
    pub fn lines(&self) -> Vec<String> {
        let (sealing, log) = (sealing(1), NodeId::from_bytes([1; 16]));
        let line = |(seq, event): (i64, &Event)| {
            let sealed = sealing.seal(event);
            let leaf = sealed.leaf(&log, seq);
            line_of(std::str::from_utf8(&leaf).unwrap(), &Leaf::parse(&leaf).unwrap(), &sealed)
        };
        (0..).zip(&self.events).map(line).collect()
    }

    pub fn report(&self, framework: FrameworkName) -> Report {
        report(framework, &self.lines(), Period { from: None, to: None })
    }

    /// How many of each kind stand out, those that do.
    pub fn found(&self) -> BTreeMap<&'static str, u64> {
        let report = self.report(FrameworkName::Soc2);
        let found = report.gathered.found.iter().filter(|(_, found)| found.count > 0);
        found.map(|(kind, found)| (kind.name(), found.count)).collect()
    }
}

fn report(framework: FrameworkName, lines: &[String], period: Period) -> Report {
    let as_of = Timestamp::from_millis(START).plus(Ttl::hours(24));
    let mut gatherer = Gatherer::new(period, as_of);
    for line in lines {
        gatherer.take(&check_line(line).unwrap(), ReadLine::parse(line.as_bytes()).as_ref());
    }
    let size = u64::try_from(lines.len()).unwrap();
    let log = ReportedLog {
        node: NodeId::from_bytes([1; 16]),
        label: "L1".to_owned(),
        size,
        from: 0,
        to: size,
        root: "AAAA".to_owned(),
    };
    let source = Source {
        installation: installation_name(&[3; 32]),
        root_key: "key".to_owned(),
        anchored: true,
        witnessed: 0,
        lines: size,
        as_of,
        logs: vec![log],
        server: Some("https://door.example.com".to_owned()),
    };
    let framework = Framework::load(framework).unwrap();
    Report { framework, period, made_at: as_of, source, gathered: gatherer.end() }
}

/// One event of each type and outcome.
pub fn every_type() -> Script {
    let mut script = Script::default();
    for kind in EventType::ALL {
        for outcome in [Outcome::Success, Outcome::Denied, Outcome::Failed] {
            script.add(*kind, outcome).actor.principal = Principal::user("dev", "alice");
        }
    }
    script
}

#[test]
fn the_mapping_names_only_what_is_computed_and_all_of_it_is_used() {
    let (mut populations, mut exceptions) = (BTreeSet::new(), BTreeSet::new());
    for name in FrameworkName::ALL {
        let framework = Framework::load(name).unwrap();
        let mut ids = BTreeSet::new();
        for control in &framework.control {
            assert!(ids.insert(control.id.clone()), "{} is there twice in {}", control.id, framework.id);
            assert!(control.asks.ends_with('.') && !control.title.ends_with('.'), "{}", control.id);
            assert!(!control.populations.is_empty() || !control.gaps.is_empty(), "{} says nothing", control.id);
            assert!(control.gaps.iter().all(|gap| gap.matches('`').count() % 2 == 0), "{}", control.id);
            let once: BTreeSet<_> = control.populations.iter().collect();
            assert_eq!(once.len(), control.populations.len(), "{} names a population twice", control.id);
            populations.extend(control.populations.iter().copied());
            exceptions.extend(control.exceptions.iter().copied());
        }
        assert!(ids.len() >= 10, "{} has {} controls", framework.id, ids.len());
    }
    assert_eq!(populations.len(), Population::ALL.len(), "not used: {:?}", left(Population::ALL, &populations));
    assert_eq!(exceptions.len(), Exception::ALL.len(), "not used: {:?}", left(Exception::ALL, &exceptions));
}

fn left<T: Copy + Ord>(all: &[T], used: &BTreeSet<T>) -> Vec<T> {
    all.iter().copied().filter(|one| !used.contains(one)).collect()
}

/// Whether a line belongs to a population, by the clauses of its filter for jq. Of its language only
/// what the filters use is read: `or` of parts, `and` of comparisons, and parentheses around a part.
fn selects(filter: &str, line: &Value) -> bool {
    let compare = |clause: &str| {
        if clause == "true" {
            return true;
        }
        let (pointer, equal, wanted) = match (clause.split_once(" == "), clause.split_once(" != ")) {
            (Some((pointer, wanted)), _) => (pointer, true, wanted),
            (None, Some((pointer, wanted))) => (pointer, false, wanted),
            (None, None) => panic!("`{clause}` can't be read"),
        };
        let found = line.pointer(&pointer.replace('.', "/")).unwrap_or(&Value::Null);
        (*found == serde_json::from_str::<Value>(wanted).unwrap()) == equal
    };
    filter.split(" or ").any(|part| {
        let part = part.trim_start_matches('(').trim_end_matches(')');
        part.split(" and ").all(compare)
    })
}

#[test]
fn every_population_is_what_its_filter_selects_and_its_hash_is_over_those_leaves() {
    let mut script = every_type();
    script.by("alice", EventType::DecisionDeny, &[]).reason = Some("bad_credential".into());
    script.data(EventType::SessionEnd, &[("end", "logout".into())]);
    script.data(EventType::SessionEnd, &[("end", "revoked".into())]);
    let grant = script.grant(1, 1, &["bob"], false);
    script.used(grant);
    script.grant(2, 0, &[], true);
    script.add(EventType::DecisionAllow, Outcome::Success).actor.principal =
        Some(Principal::breakglass(BreakGlassId::from_bytes([4; 16])));
    let mut lines = script.lines();
    // One that was pruned, one that a filter left out.
    for (index, why) in [(0, Withheld::Pruned), (1, Withheld::Filtered)] {
        let leaf = serde_json::from_str::<Value>(&lines[index]).unwrap()["leaf"].as_str().unwrap().to_owned();
        lines[index] = withheld_line(&leaf, &Leaf::parse(leaf.as_bytes()).unwrap(), why);
    }
    let report = report(FrameworkName::Soc2, &lines, Period { from: None, to: None });
    for population in Population::ALL {
        let (mut count, mut hash, mut indices) = (0, Sha256::new(), Vec::new());
        for line in &lines {
            let value: Value = serde_json::from_str(line).unwrap();
            if value["withheld"] != "filtered" && selects(population.filter(), &value) {
                count += 1;
                hash.update(leaf_hash(value["leaf"].as_str().unwrap().as_bytes()));
                indices.push(value["seq"].as_u64().unwrap());
            }
        }
        let counted = report.counted(*population);
        assert_eq!(counted.count, count, "{}", population.name());
        assert!(count > 0, "nothing is in `{}`", population.name());
        assert_eq!(counted.digest, data_encoding::HEXLOWER.encode(&hash.finalize()), "{}", population.name());
        let span = counted.spans.values().next().unwrap();
        assert_eq!((span.first, span.last), (indices[0], *indices.last().unwrap()), "{}", population.name());
        assert!(counted.sample.iter().all(|event| indices.contains(&event.index)), "{}", population.name());
        assert_eq!(counted.sample.len(), indices.len().min(10), "{}", population.name());
    }
    let totals = &report.gathered.totals;
    assert_eq!((totals.events, totals.pruned), (u64::try_from(lines.len()).unwrap() - 1, 1));
    assert!(report.gathered.limits[0].contains("1 events were pruned"), "{:?}", report.gathered.limits);
}

#[test]
fn a_sample_is_the_same_whoever_draws_it_and_not_the_first_events() {
    let mut script = Script::default();
    for _ in 0..500 {
        script.by("alice", EventType::SessionStart, &[]);
    }
    let indices = |report: &Report| -> Vec<u64> {
        report.counted(Population::SignIns).sample.iter().map(|event| event.index).collect()
    };
    let (one, two) = (indices(&script.report(FrameworkName::Soc2)), indices(&script.report(FrameworkName::Hipaa)));
    assert_eq!(one, two);
    assert!(one.len() == 10 && one.iter().any(|index| *index > 250), "{one:?}");
}

#[test]
fn grants_stand_out_by_what_did_not_follow_or_precede_them() {
    let mut script = Script::default();
    let fine = script.grant(1, 2, &["bob", "carol"], false);
    script.used(fine);
    script.grant(2, 1, &["bob"], false); // nobody uses it
    let short = script.grant(3, 2, &["bob", "bob"], false); // one person twice
    script.used(short);
    let own = script.grant(4, 1, &["alice"], false);
    script.used(own);
    // Emergencies: one reviewed by two, one by its holder and one other.
    for (number, reviewers) in [(5, ["bob", "carol"]), (6, ["bob", "alice"])] {
        let grant = script.grant(number, 0, &[], true);
        script.used(grant);
        for reviewer in reviewers {
            script.by(reviewer, EventType::BreakGlassReviewed, &[("id", grant.to_string().into())]);
        }
    }
    let expected = [
        ("no_emergency_path", 1),
        ("self_approved", 1),
        ("unapproved_grants", 1),
        ("unreviewed_emergency_grants", 1),
        ("unused_grants", 1),
    ];
    assert_eq!(script.found(), BTreeMap::from(expected));
    let report = script.report(FrameworkName::Soc2);
    let unused = &report.found(Exception::UnusedGrants).rows[0];
    assert!(unused.note.contains(&GrantId::from_bytes([2; 16]).to_string()), "{unused:?}");
    let control = report.framework.control.iter().find(|control| control.id == "CC6.3").unwrap();
    assert_eq!(report.verdict(control), Verdict::Exceptions);
}

#[test]
fn the_order_of_two_logs_changes_nothing() {
    let mut script = Script::default();
    let grant = script.grant(1, 1, &["bob"], false);
    script.used(grant);
    let set = script.by("carol", EventType::LockSet, &[]);
    set.resource = Some("lck_1".into());
    script.by("carol", EventType::LockCleared, &[]).resource = Some("lck_1".into());
    let opening = [("id", Value::from("brk_1"))];
    script.by("dave", EventType::BreakGlassOpened, &opening);
    script.by("bob", EventType::BreakGlassReviewed, &opening);
    script.by("carol", EventType::BreakGlassReviewed, &opening);
    script.data(EventType::BreakGlassDrilled, &[]);
    assert_eq!(script.found(), BTreeMap::new());
    script.events.reverse();
    assert_eq!(script.found(), BTreeMap::new());
}

#[test]
fn an_opening_of_before_the_period_stands_out_until_two_people_have_reviewed_it() {
    let mut script = Script::default();
    for id in ["brk_1", "brk_2"] {
        script.by("dave", EventType::BreakGlassOpened, &[("id", id.into())]);
        script.by("bob", EventType::BreakGlassReviewed, &[("id", id.into())]);
    }
    script.by("carol", EventType::BreakGlassReviewed, &[("id", "brk_1".into())]);
    script.data(EventType::BreakGlassDrilled, &[]);
    script.by("carol", EventType::BreakGlassReviewed, &[("id", "brk_2".into())]);
    let time = |index: usize| script.events[index].time;
    let found = |from, to| {
        let report = report(FrameworkName::Soc2, &script.lines(), Period { from: Some(from), to });
        let rows = report.found(Exception::UnreviewedBreakGlass).rows.clone();
        (report.counted(Population::BreakGlass).count, rows)
    };
    // The second review of the one is before the period; of the other, after its end.
    let (count, rows) = found(time(5), Some(time(6)));
    assert_eq!((count, rows.len()), (0, 1), "{rows:?}");
    assert_eq!(rows[0].event.as_ref().unwrap().time, time(2));
    assert!(rows[0].note.starts_with("brk_2, opened before the period, has 1 of 2 reviewers"), "{rows:?}");
    assert!(found(time(5), None).1.is_empty());
}

#[test]
fn openings_locks_losses_and_readings_stand_out() {
    let mut script = Script::default();
    script.by("dave", EventType::BreakGlassOpened, &[("id", "brk_1".into())]);
    script.by("bob", EventType::BreakGlassReviewed, &[("id", "brk_1".into())]);
    script.by("bob", EventType::BreakGlassReviewed, &[("id", "brk_1".into())]);
    script.by("carol", EventType::LockSet, &[]).resource = Some("lck_1".into());
    script.data(EventType::RecordLost, &[("count", 17.into())]);
    script.data(EventType::AuditStreamStalled, &[("stream", "siem".into()), ("error", "it hangs".into())]);
    script.data(EventType::AuditStreamGap, &[("stream", "siem".into()), ("count", 3.into())]);
    script.by("carol", EventType::AuditExported, &[("lines", 5.into())]);
    script.by("carol", EventType::AuditRead, &[("what", "events".into())]);
    script.data(EventType::SessionEnd, &[("end", "logout".into())]);
    script.data(EventType::SessionEnd, &[("end", "provider".into())]);
    script.add(EventType::NodeStarted, Outcome::Success);
    script.add(EventType::NodeStopped, Outcome::Success);
    script.add(EventType::NodeStarted, Outcome::Success);
    script.add(EventType::NodeStarted, Outcome::Success);
    let expected = [
        ("audit_left", 2),
        ("drill_overdue", 1),
        ("locks_standing", 1),
        ("records_lost", 17),
        ("sessions_revoked", 1),
        ("streams_behind", 2),
        ("unclean_stops", 1),
        ("unreviewed_break_glass", 1),
    ];
    assert_eq!(script.found(), BTreeMap::from(expected));
    let report = script.report(FrameworkName::PciDss);
    let notes: Vec<_> = report.found(Exception::StreamsBehind).rows.iter().map(|row| row.note.as_str()).collect();
    assert_eq!(notes, ["siem: it hangs", "siem: 3 events were pruned before they were sent"]);
    assert_eq!(script.report(FrameworkName::Soc2).gathered.totals.lost, 17);
}

#[test]
fn a_drill_of_before_the_period_counts_for_as_long_as_the_record_says() {
    let mut script = Script::default();
    script.data(EventType::BreakGlassDrilled, &[]);
    script.data(EventType::BreakGlassCustodiansChanged, &[]);
    script.data(EventType::BreakGlassReviewed, &[("id", "brk_1".into())]);
    let overdue = |script: &Script| {
        let from = Some(Timestamp::from_millis(START + 60_000));
        report(FrameworkName::Soc2, &script.lines(), Period { from, to: None }).found(Exception::DrillOverdue).count
    };
    assert_eq!(overdue(&script), 0);
    script.data(EventType::BreakGlassDrillOverdue, &[("drill_every", "1m".into())]);
    let late = Timestamp::from_millis(START + 3_600_000);
    script.at(late, EventType::NodeStarted, Outcome::Success);
    assert_eq!(overdue(&script), 1);
}

#[test]
fn ten_failures_of_one_address_in_one_hour_stand_out_and_nine_do_not() {
    let hour = |number: i64| Timestamp::from_millis(START + number * 3_600_000);
    let fail = |script: &mut Script, time: Timestamp, address: &str| {
        script.at(time, EventType::SignInFailed, Outcome::Failed).actor.address = Some(address.parse().unwrap());
    };
    let mut script = Script::default();
    for minute in 0..9 {
        fail(&mut script, hour(0).plus(Ttl::minutes(minute)), "192.0.2.1");
        fail(&mut script, hour(0).plus(Ttl::minutes(minute)), "192.0.2.2");
    }
    fail(&mut script, hour(1), "192.0.2.1");
    assert_eq!(script.found().get("failed_sign_ins"), None, "the tenth is in another hour");
    fail(&mut script, hour(1).minus(Ttl::millis(1)), "192.0.2.2");
    let report = script.report(FrameworkName::PciDss);
    let found = report.found(Exception::FailedSignIns);
    assert_eq!(found.count, 1);
    assert!(found.rows[0].note.starts_with("10 failures of address 192.0.2.2 in the hour from"), "{found:?}");
}

#[test]
fn a_flood_of_addresses_does_not_hide_the_one_that_guesses() {
    let mut script = Script::default();
    let (first, second) = (Timestamp::from_millis(START), Timestamp::from_millis(START).plus(Ttl::hours(1)));
    let mut fail = |time: Timestamp, address: std::net::Ipv4Addr| {
        script.at(time, EventType::SignInFailed, Outcome::Failed).actor.address = Some(address.into());
    };
    for _ in 0..12 {
        fail(first, "192.0.2.1".parse().unwrap());
    }
    for number in 0..5_100u32 {
        fail(second, std::net::Ipv4Addr::from(0x0a00_0000 + number));
        // Twelve times in the flood's own hour, and by the order of addresses the first to go.
        if number % 425 == 0 {
            fail(second, "1.0.0.1".parse().unwrap());
        }
    }
    let report = script.report(FrameworkName::PciDss);
    let notes: Vec<&str> = report
        .found(Exception::FailedSignIns)
        .rows
        .iter()
        .map(|row| row.note.split(" in the").next().unwrap())
        .collect();
    assert_eq!(notes, ["12 failures of address 192.0.2.1", "12 failures of address 1.0.0.1"]);
    assert!(report.gathered.limits[0].contains("too many to be counted together"), "{:?}", report.gathered.limits);
}

#[test]
fn only_the_period_counts_and_its_end_is_outside() {
    let script = every_type();
    let (from, to) = (script.events[10].time, script.events[20].time);
    let report = report(FrameworkName::Soc2, &script.lines(), Period { from: Some(from), to: Some(to) });
    assert_eq!(report.counted(Population::Events).count, 10);
    assert_eq!((report.begins(), report.ends()), (from, to));
    let span = report.counted(Population::Events).spans.values().next().copied().unwrap();
    assert_eq!((span.first, span.last), (10, 19));
}

#[test]
fn what_is_pruned_too_early_is_an_exception_and_what_is_pruned_in_time_is_not() {
    let mut script = Script::default();
    let now = Timestamp::from_millis(START).plus(Ttl::hours(24));
    script.at(now.minus(Ttl::hours(366 * 24)), EventType::SessionStart, Outcome::Success);
    script.at(now.minus(Ttl::hours(364 * 24)), EventType::SessionStart, Outcome::Success);
    let mut lines = script.lines();
    for line in &mut lines {
        let leaf = serde_json::from_str::<Value>(line).unwrap()["leaf"].as_str().unwrap().to_owned();
        *line = withheld_line(&leaf, &Leaf::parse(leaf.as_bytes()).unwrap(), Withheld::Pruned);
    }
    let report = report(FrameworkName::PciDss, &lines, Period { from: None, to: None });
    assert_eq!(report.found(Exception::PrunedEarly).count, 1);
    assert_eq!(report.found(Exception::ContentGone).count, 2);
    assert_eq!(report.counted(Population::SignIns).count, 2, "counted by their leaves");
}

/// A record with a hostile name wherever people have a say.
pub fn hostile() -> Script {
    let mut script = every_type();
    for event in &mut script.events {
        event.actor.principal = Principal::user("dev", "<script>alert(1)</script>");
        event.reason = Some(HOSTILE.into());
        event.resource = Some(HOSTILE.into());
        event.data.insert("entitlement", HOSTILE.into());
        event.data.insert("end", HOSTILE.into());
    }
    script.grant(9, 1, &["bob"], false);
    script
}

#[test]
fn the_page_runs_nothing_loads_nothing_and_shows_hostile_names_as_text() {
    for name in FrameworkName::ALL {
        let report = hostile().report(name);
        let page = html::write(&report).unwrap();
        assert!(!page.contains("<script") && !page.contains("calc'!A0<"), "{name:?}");
        assert!(page.contains("&#60;script&#62;alert(1)"), "{name:?}");
        for forbidden in [" src=", "@import", "url(", "<img", "<iframe", "javascript:", " on"] {
            let found = page.find(forbidden).map(|at| &page[at..at + 40]);
            // `on` begins words of the text, and no attribute.
            let attribute = found.filter(|text| {
                forbidden != " on"
                    || text
                        .split_once('=')
                        .is_some_and(|(name, _)| name.trim_start().chars().all(|c| c.is_ascii_lowercase()))
            });
            assert_eq!(attribute, None, "{name:?}: `{forbidden}`");
        }
        for href in page.split("href=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0) {
            let within = href.starts_with('#') || href == "data:,";
            assert!(within || href.starts_with("https://door.example.com/api/v1/audit/inclusion?"), "{href}");
            if let Some(anchor) = href.strip_prefix('#') {
                assert_eq!(page.matches(&format!(" id=\"{anchor}\"")).count(), 1, "{name:?}: #{anchor}");
            }
        }
        for control in &report.framework.control {
            assert!(page.contains(&format!("<span>{} · ", control.id)), "{}", control.id);
        }
    }
}

#[test]
fn no_cell_of_the_table_is_a_formula_and_its_numbers_are_those_of_the_report() {
    let report = hostile().report(FrameworkName::PciDss);
    let text = csv::write(&report);
    let mut rows = text.split("\r\n").filter(|row| !row.is_empty());
    assert_eq!(rows.next().unwrap(), csv::HEADER.join(","));
    let mut controls = 0;
    for row in rows {
        assert!(!row.split(',').any(|cell| cell.trim_start_matches('"').starts_with(['=', '+', '-', '@'])), "{row}");
        controls += u32::from(row.starts_with("control,"));
    }
    assert_eq!(controls as usize, report.framework.control.len());
    let decisions = report.counted(Population::Decisions).count;
    assert!(text.contains(&format!(
        "population,10.2.1.1,decisions,\"Decisions about requests, allowed and refused\",,,{decisions},"
    )));
}

#[test]
fn oscal_has_the_shape_of_assessment_results() {
    for name in FrameworkName::ALL {
        let report = hostile().report(name);
        let text = oscal::write(&report);
        assert_eq!(text, oscal::write(&report), "the same report has the same identifiers");
        let document: Value = serde_json::from_str(&text).unwrap();
        let results = &document["assessment-results"];
        assert_eq!(results["metadata"]["oscal-version"], oscal::VERSION);
        let result = &results["results"][0];
        let mut uuids = Vec::new();
        collect_uuids(&document, &mut uuids);
        assert_eq!(uuids.iter().collect::<BTreeSet<_>>().len(), uuids.len(), "each names one thing");
        for uuid in &uuids {
            let parsed = uuid::Uuid::parse_str(uuid).unwrap();
            assert_eq!((parsed.get_version_num(), parsed.get_variant()), (5, uuid::Variant::RFC4122));
        }
        let token = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        let selected = &result["reviewed-controls"]["control-selections"][0]["include-controls"];
        let ids: BTreeSet<_> =
            selected.as_array().unwrap().iter().map(|control| control["control-id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), report.framework.control.len());
        assert!(ids.iter().all(|id| token(id)), "{ids:?}");
        for finding in result["findings"].as_array().unwrap() {
            assert!(ids.contains(finding["target"]["target-id"].as_str().unwrap()));
            let observed = finding["related-observations"][0]["observation-uuid"].as_str().unwrap();
            let observations = result["observations"].as_array().unwrap();
            assert_eq!(observations.iter().filter(|observation| observation["uuid"] == observed).count(), 1);
        }
        no_empty_and_one_line(result);
    }
}

#[test]
fn trestle_accepts_the_oscal_of_every_framework() {
    let trestle = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
        .join("tools/audit-venv/bin/trestle");
    if !trestle.exists() {
        assert!(std::env::var_os("DOORWARD_TEST_REQUIRE_FORMATS").is_none(), "{} is missing", trestle.display());
        eprintln!("{} is missing: OSCAL was not validated; tests/run installs it", trestle.display());
        return;
    }
    let folder = temporary_folder();
    let run = |arguments: &[&str]| {
        let output = Command::new(&trestle).args(arguments).current_dir(folder.path()).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&told).into_owned())
    };
    assert_eq!(run(&["init"]).0, Some(0));
    for name in FrameworkName::ALL {
        let model = folder.path().join("assessment-results").join(name.name());
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("assessment-results.json"), oscal::write(&hostile().report(name))).unwrap();
    }
    let (code, told) = run(&["validate", "-t", "assessment-results"]);
    assert_eq!((code, told.matches("VALID: ").count()), (Some(0), FrameworkName::ALL.len()), "{told}");
    // It does find fault: the same with one identifier that is none.
    let file = folder.path().join("assessment-results/hipaa/assessment-results.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"uuid\": \"", "\"uuid\": \"x", 1)).unwrap();
    assert_ne!(run(&["validate", "-t", "assessment-results"]).0, Some(0));
}

fn collect_uuids(value: &Value, uuids: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            uuids.extend(map.get("uuid").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect_uuids(value, uuids));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_uuids(value, uuids)),
        _ => {}
    }
}

/// OSCAL has neither empty lists nor properties and titles of more than one line.
fn no_empty_and_one_line(value: &Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let ("value" | "title", Value::String(text)) = (key.as_str(), value) {
                    assert!(!text.is_empty() && text.trim() == text && !text.contains('\n'), "{key}: {text:?}");
                }
                no_empty_and_one_line(value);
            }
        }
        Value::Array(items) => {
            assert!(!items.is_empty());
            items.iter().for_each(no_empty_and_one_line);
        }
        _ => {}
    }
}

/// A record that a store holds, exported with its proofs, and its root key.
pub async fn exported(filter: &Filter) -> (String, String) {
    exported_of(&every_type(), filter).await
}

/// The same of these events.
pub async fn exported_of(script: &Script, filter: &Filter) -> (String, String) {
    let (clock, entropy) = (TestClock::new(), SeededEntropy::new(1));
    let sealer = Arc::new(Sealer::new(&[9; 32]).unwrap());
    let store = Store::open(&sqlite_database()).unwrap();
    store.migrate().await.unwrap();
    store.log_open(NodeId::from_bytes([1; 16]), sealing(1), clock.now()).await.unwrap();
    let root = Root::ensure(&store, &sealer, clock.now(), &entropy).await.unwrap();
    let mut tree = LogTree::open(&store, &sealer, &root, clock.now(), &entropy).await.unwrap();
    let sealed: Vec<_> = script.events.iter().map(|event| sealing(1).seal(event)).collect();
    let mut tx = store.begin().await.unwrap();
    tx.record_batch(store.own_log().unwrap(), &sealed).await.unwrap();
    tx.commit().await.unwrap();
    tree.grow(&store, clock.now()).await.unwrap();
    let Begun { statement, mut evidence, mut export } =
        begin(&store, root.key(), filter, clock.now().plus(Ttl::hours(12))).await.unwrap();
    evidence.statement = statement.sign(root.signer());
    let (mut text, mut count) = (format!("{}\n", Head { evidence }.line()), 0);
    while let Some(page) = export.next().await.unwrap() {
        count += u64::try_from(page.len()).unwrap();
        text.push_str(&format!("{}\n", page.join("\n")));
    }
    text.push_str(&format!("{}\n", end_line(count)));
    (text, root.key().to_string())
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    audit(folder, "report", arguments)
}

/// `doorward audit COMMAND` in this folder, with nothing else around it.
pub fn audit(folder: &Path, command: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["audit", command])
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("DOORWARD_HOME", folder)
        .output()
        .unwrap()
}

pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn an_export_gives_its_report_without_a_server_and_a_changed_one_gives_none() {
    let (text, key) = exported(&Filter::default()).await;
    let folder = temporary_folder();
    let write =
        |name: &str, text: &str| std::fs::File::create(folder.path().join(name)).unwrap().write_all(text.as_bytes());
    write("record.jsonl", &text).unwrap();
    let output =
        run(folder.path(), &["--framework", "nist800-53", "--in", "record.jsonl", "--key", &key, "--format", "csv"]);
    assert_eq!((output.status.code(), told(&output)), (Some(0), String::new()));
    let table = String::from_utf8(output.stdout).unwrap();
    let events = every_type().events.len();
    assert!(table.contains(&format!("population,AU-2,events,Everything on record,,,{events},")), "{table}");
    assert!(table.contains("report,,verified,,,,,,,,,,,,,whole\r\n"), "{table}");

    let args = ["--framework", "hipaa", "--in", "record.jsonl", "--out", "report.html"];
    let output = run(folder.path(), &args);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(told(&output).contains("nothing from outside holds this record"), "{}", told(&output));
    assert!(std::fs::read_to_string(folder.path().join("report.html")).unwrap().starts_with("<!doctype html>"));
    let output = run(folder.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("`report.html` can't be written: it is there already"), "{}", told(&output));

    let (lines, cut) = (text.lines().count(), text.lines().collect::<Vec<_>>());
    for (name, changed, code) in [
        ("altered", text.replacen("dev|alice", "dev|alicf", 1), 10),
        ("gap", [&cut[..5], &cut[6..]].concat().join("\n") + "\n", 11),
        ("truncated", cut[..lines - 1].join("\n") + "\n", 12),
    ] {
        write(name, &changed).unwrap();
        let output = run(folder.path(), &["--framework", "soc2", "--in", name, "--out", "none.html"]);
        assert_eq!(output.status.code(), Some(code), "{name}: {}", told(&output));
        assert!(told(&output).contains("no report is made"), "{name}: {}", told(&output));
        assert!(!folder.path().join("none.html").exists());
    }
}

#[tokio::test]
async fn what_leaves_events_out_or_asks_for_no_time_is_refused() {
    let parse = |text: FilterText| Filter::parse(&text).unwrap();
    let denied = parse(FilterText { kind: Some("decision.deny".into()), ..FilterText::default() });
    let hour = parse(FilterText {
        from: Some("2026-11-22T10:00:00Z".into()),
        to: Some("2026-11-22T11:00:00Z".into()),
        ..FilterText::default()
    });
    let folder = temporary_folder();
    for (name, filter) in [("denied", &denied), ("hour", &hour)] {
        std::fs::write(folder.path().join(name), exported(filter).await.0).unwrap();
    }
    for (args, part) in [
        (vec!["--framework", "soc2", "--in", "denied"], "leaves events out by its filter"),
        (vec!["--framework", "soc2", "--in", "hour", "--to", "2026-11-22T12:00:00Z"], "of a shorter period"),
        (vec!["--framework", "soc2", "--in", "hour", "--from", "2026-11-22T12:00:00Z"], "nothing of the period"),
        (vec!["--framework", "soc2", "--in", "nowhere"], "`nowhere` can't be read"),
        (vec!["--framework", "cobit", "--in", "hour"], "soc2, iso27001, nist800-53, pci-dss, hipaa"),
        (
            vec!["--framework", "soc2", "--from", "2026-11-23T00:00:00Z", "--to", "2026-11-22T00:00:00Z"],
            "the period is empty",
        ),
        (vec!["--framework", "soc2", "--from", "yesterday"], "`from` is a time"),
    ] {
        let output = run(folder.path(), &args);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {}", told(&output));
        assert!(told(&output).contains(part), "{args:?}: {}", told(&output));
    }
    let output = run(folder.path(), &["--framework", "soc2", "--in", "hour", "--format", "csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("report,,from,,,,,,,,,,,,,2026-11-22T10:00:00.000Z\r\n"), "{table}");
}
