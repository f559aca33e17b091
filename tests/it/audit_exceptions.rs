//! What stands out in a record beyond single events: standing access that nobody uses, credentials that
//! outlived what they rest on, and access reviews that are not done.

use doorward::audit::EventType;
use doorward::audit::Outcome;
use doorward::audit::filter::Filter;
use doorward::audit::report::{Exception, FrameworkName};
use doorward::model::{GrantId, Principal, Timestamp, Ttl};
use serde_json::{Value, json};

use crate::audit_report::{START, Script, exported_of, run, told};
use crate::support::temporary_folder;

fn days(ago: u32) -> Timestamp {
    Timestamp::from_millis(START).minus(Ttl::hours(24 * ago))
}

fn session(script: &mut Script, who: &str, id: &str, at: Timestamp) {
    let event = script.at(at, EventType::SessionStart, Outcome::Success);
    event.actor.principal = Principal::user("dev", who);
    event.resource = Some(id.into());
    event.data.insert("expires_at", at.plus(Ttl::hours(12)).to_string().into());
}

fn judged(script: &mut Script, kind: EventType, who: &str, action: &str, at: Timestamp) {
    let event = script.at(at, kind, Outcome::Success);
    event.actor.principal = Principal::user("dev", who);
    event.service = doorward::model::ServiceName::parse("ops-api").ok();
    event.action = Some(action.into());
    if kind == EventType::DecisionDeny {
        event.reason = Some("no_policy_match".into());
    }
}

fn barred(script: &mut Script, who: &str, at: Timestamp) {
    let event = script.at(at, EventType::LockSet, Outcome::Success);
    event.resource = Some(format!("lck_{who}").into());
    event.subject = Principal::user("dev", who);
}

fn notes(script: &Script, exception: Exception) -> Vec<String> {
    let report = script.report(FrameworkName::Soc2);
    report.found(exception).rows.iter().map(|row| row.note.clone()).collect()
}

#[test]
fn standing_access_that_its_holder_has_not_used_for_90_days_stands_out() {
    let mut script = Script::default();
    for who in ["alice", "bob", "carol", "dave"] {
        judged(&mut script, EventType::DecisionAllow, who, "status", days(120));
    }
    // Bob used it since, carol is barred, dave was refused it since; all of them still sign in.
    judged(&mut script, EventType::DecisionAllow, "bob", "status", days(20));
    barred(&mut script, "carol", days(30));
    judged(&mut script, EventType::DecisionDeny, "dave", "status", days(40));
    for who in ["alice", "bob", "carol", "dave"] {
        session(&mut script, who, "ses_1", days(10));
    }
    // Erin has not signed in since, and nobody else was there either.
    judged(&mut script, EventType::DecisionAllow, "erin", "admin", days(100));
    // Under a grant it is no standing access.
    judged(&mut script, EventType::DecisionAllow, "alice", "deploy", days(110));
    script.events.last_mut().unwrap().grant = Some(GrantId::from_bytes([1; 16]));
    for _ in 0..2 {
        let notes = notes(&script, Exception::UnusedStanding);
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].starts_with("usr_") && notes[0].contains("has not used `status` of `ops-api`"), "{notes:?}");
        assert!(notes[1].contains("nobody has used `admin` of `ops-api`"), "{notes:?}");
        script.events.reverse();
    }
    let report = script.report(FrameworkName::Soc2);
    let row = &report.found(Exception::UnusedStanding).rows[0];
    assert!(row.event.as_ref().unwrap().who.as_ref().unwrap().starts_with("dev|alice"), "{row:?}");
}

#[test]
fn a_period_shorter_than_90_days_says_that_it_can_not_tell_what_is_unused() {
    let mut script = Script::default();
    judged(&mut script, EventType::DecisionAllow, "alice", "status", days(60));
    session(&mut script, "alice", "ses_1", days(1));
    let report = script.report(FrameworkName::Soc2);
    assert_eq!(report.found(Exception::UnusedStanding).count, 0);
    assert!(report.gathered.limits.iter().any(|limit| limit.contains("for 90 days can't be told")), "{report:?}");
}

#[tokio::test]
async fn an_export_shows_unused_standing_access_without_a_server() {
    let mut script = Script::default();
    judged(&mut script, EventType::DecisionAllow, "alice", "status", days(120));
    judged(&mut script, EventType::DecisionAllow, "bob", "status", days(3));
    session(&mut script, "alice", "ses_1", days(10));
    let (text, key) = exported_of(&script, &Filter::default()).await;
    let folder = temporary_folder();
    std::fs::write(folder.path().join("record.jsonl"), text).unwrap();
    let output = run(folder.path(), &["--framework", "soc2", "--in", "record.jsonl", "--key", &key, "--format", "csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<_> = table.lines().filter(|row| row.starts_with("exception,CC6.3,unused_standing_access")).collect();
    assert!(rows.len() == 1 && rows[0].contains("dev|alice") && rows[0].contains("`status` of `ops-api`"), "{rows:?}");
}

fn credential(script: &mut Script, session: &str, name: &str, at: Timestamp, lasts: Ttl, grant: Option<GrantId>) {
    let event = script.at(at, EventType::TokenIssued, Outcome::Success);
    event.actor.principal = Principal::user("dev", "alice");
    event.resource = Some(session.into());
    event.grant = grant;
    event.data.insert("jti", name.into());
    event.data.insert("expires_at", at.plus(lasts).to_string().into());
}

fn ended(script: &mut Script, kind: EventType, id: &str, at: Timestamp) {
    let event = script.at(at, kind, Outcome::Success);
    event.resource = Some(id.into());
    event.grant = GrantId::parse(id).ok();
    event.data.insert("end", "logout".into());
}

#[test]
fn credentials_that_outlive_their_session_stand_out_and_those_that_it_ended_do_not() {
    let (at, minute) = (days(2), Ttl::minutes(1));
    let mut script = Script::default();
    // Ended with its session: nothing to explain.
    session(&mut script, "alice", "ses_fine", at);
    credential(&mut script, "ses_fine", "one", at, Ttl::hours(1), None);
    ended(&mut script, EventType::SessionEnd, "ses_fine", at.plus(minute));
    // Issued after its end; longer than its session.
    session(&mut script, "alice", "ses_over", at);
    ended(&mut script, EventType::SessionEnd, "ses_over", at.plus(minute));
    credential(&mut script, "ses_over", "two", at.plus(Ttl::minutes(2)), minute, None);
    session(&mut script, "alice", "ses_short", at);
    credential(&mut script, "ses_short", "three", at, Ttl::hours(13), None);
    for _ in 0..2 {
        let notes = notes(&script, Exception::OrphanedCredentials);
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].starts_with("issued under ses_over, which had ended at"), "{notes:?}");
        assert!(notes[1].contains("longer than ses_short, which ends at"), "{notes:?}");
        script.events.reverse();
    }
}

#[test]
fn a_token_that_is_good_after_its_grant_ended_stands_out_unless_it_or_its_session_was_ended() {
    let at = days(2);
    let grants = [1, 2, 3, 4].map(|number| GrantId::from_bytes([number; 16]));
    let mut script = Script::default();
    for (grant, session_id, name) in [
        (grants[0], "ses_1", "orphan"),
        (grants[1], "ses_1", "withdrawn"),
        (grants[2], "ses_2", "ended"),
        (grants[3], "ses_1", "shorter"),
    ] {
        let lasts = if name == "shorter" { Ttl::minutes(1) } else { Ttl::minutes(10) };
        credential(&mut script, session_id, name, at, lasts, Some(grant));
        ended(&mut script, EventType::GrantRevoked, &grant.to_string(), at.plus(Ttl::minutes(2)));
    }
    let event = script.at(at.plus(Ttl::minutes(2)), EventType::TokenRevoked, Outcome::Success);
    event.data.insert("jti", "withdrawn".into());
    ended(&mut script, EventType::SessionEnd, "ses_2", at.plus(Ttl::minutes(3)));
    for _ in 0..2 {
        let notes = notes(&script, Exception::OrphanedCredentials);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("orphan is good until") && notes[0].contains(&grants[0].to_string()), "{notes:?}");
        script.events.reverse();
    }
}

#[test]
fn credentials_of_one_who_is_barred_stand_out_until_the_session_ends_or_the_bar_is_lifted() {
    let at = days(2);
    let mut script = Script::default();
    session(&mut script, "alice", "ses_1", at);
    credential(&mut script, "ses_1", "one", at, Ttl::hours(1), None);
    barred(&mut script, "alice", at.plus(Ttl::minutes(5)));
    let found = notes(&script, Exception::OrphanedCredentials);
    assert!(found.len() == 1 && found[0].contains("its holder is barred since"), "{found:?}");
    let count = script.events.len();
    ended(&mut script, EventType::SessionEnd, "ses_1", at.plus(Ttl::minutes(6)));
    assert_eq!(notes(&script, Exception::OrphanedCredentials), Vec::<String>::new());
    script.events.truncate(count);
    ended(&mut script, EventType::LockCleared, "lck_alice", at.plus(Ttl::minutes(6)));
    assert_eq!(notes(&script, Exception::OrphanedCredentials), Vec::<String>::new());
    // A bar that came when the credential was over is none of its business.
    script.events.truncate(count - 1);
    barred(&mut script, "alice", at.plus(Ttl::minutes(65)));
    assert_eq!(notes(&script, Exception::OrphanedCredentials), Vec::<String>::new());
}

fn reviewed(script: &mut Script, kind: EventType, at: Timestamp, data: Value) {
    let event = script.at(at, kind, Outcome::Success);
    event.data.insert("review", "rev_1".into());
    event.data.extend(data.as_object().unwrap().clone());
}

#[test]
fn a_rule_that_is_to_go_stands_out_until_it_is_gone_or_kept_after_all() {
    use EventType::{ReviewDecided, ReviewOutstanding, ReviewRemoved};
    let remove = json!({"item": 3, "name": "everyone-reads", "after": {"decision": "remove"}});
    let keep = json!({"item": 3, "name": "everyone-reads", "after": {"decision": "keep"}});
    let item = json!({"item": 3, "name": "everyone-reads"});
    for (events, open) in [
        (vec![(ReviewDecided, &remove)], 1),
        (vec![(ReviewDecided, &remove), (ReviewDecided, &keep)], 0),
        (vec![(ReviewDecided, &keep), (ReviewDecided, &remove)], 1),
        (vec![(ReviewDecided, &remove), (ReviewRemoved, &item)], 0),
        (vec![(ReviewDecided, &remove), (ReviewRemoved, &item), (ReviewOutstanding, &item)], 1),
        // Decided before the period: the reminder shows it.
        (vec![(ReviewOutstanding, &item)], 1),
    ] {
        let mut script = Script::default();
        for (day, (kind, data)) in (1..).zip(&events) {
            reviewed(&mut script, *kind, days(30 - day), (*data).clone());
        }
        for _ in 0..2 {
            let found = notes(&script, Exception::RemovalsOpen);
            assert_eq!(found.len(), open, "{events:?}: {found:?}");
            assert!(found.iter().all(|note| note.starts_with("rule 3 of rev_1, `everyone-reads`")), "{found:?}");
            script.events.reverse();
        }
    }
}

#[test]
fn rules_that_are_undecided_stand_out_once_their_review_is_due_or_closed() {
    use EventType::{ReviewClosed, ReviewDecided, ReviewStarted};
    let start = |due: Timestamp| json!({"undecided": 2, "due_at": due.to_string()});
    let one = json!({"undecided": 1, "item": 1, "after": {"decision": "keep"}});
    let both = json!({"undecided": 0, "item": 2, "after": {"decision": "keep"}});
    let left = json!({"undecided": 1});
    let late = Timestamp::from_millis(START).plus(Ttl::hours(48));
    for (due, events, undecided) in [
        (days(10), vec![], 2),
        (days(10), vec![(ReviewDecided, &one)], 1),
        (days(10), vec![(ReviewDecided, &one), (ReviewDecided, &both)], 0),
        (late, vec![(ReviewDecided, &one)], 0),
        (late, vec![(ReviewDecided, &one), (ReviewClosed, &left)], 1),
    ] {
        let mut script = Script::default();
        reviewed(&mut script, ReviewStarted, days(20), start(due));
        for (hour, (kind, data)) in (1..).zip(&events) {
            reviewed(&mut script, *kind, days(20).plus(Ttl::hours(hour)), (*data).clone());
        }
        for _ in 0..2 {
            let report = script.report(FrameworkName::PciDss);
            assert_eq!(report.found(Exception::ReviewsUndecided).count, undecided, "{due} {events:?}");
            script.events.reverse();
        }
    }
}

#[test]
fn what_stands_out_is_told_in_whole_sentences_with_single_spaces() {
    for exception in Exception::ALL {
        for text in [exception.title(), exception.about()] {
            assert!(!text.contains("  ") && !text.contains('\n'), "{}: {text}", exception.name());
        }
        assert!(exception.about().ends_with('.'), "{}", exception.name());
    }
}
