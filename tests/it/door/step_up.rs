//! A policy that wants a sign-in of lately: what it refuses says that signing in again helps.

use doorward::model::Ttl;

use super::fixture::{BOTH, POLICY, Plan, Speaks, with_door};

#[test]
fn a_sign_in_that_is_too_long_ago_is_told_so_where_a_new_one_would_help() {
    // A moved clock leaves the feed of revocations behind for a moment: not what is tried here.
    let lines = "on_stale = \"continue\"".to_owned();
    with_door(Plan { lines, ..Plan::default() }, async |door| {
        let fresh = r#"
@id("lately")
permit (principal in Group::"engineering", action == Action::"open", resource)
when { context has session && context.session.auth_age_seconds < 40 };
@id("security-administers")
permit (principal in Group::"security", action == Action::"manage", resource);
"#;
        let barred = format!(
            "{POLICY}\n@id(\"not-old\")\nforbid (principal, action == Action::\"open\", resource)\n\
             when {{ context has session && context.session.auth_age_seconds >= 40 }};\n"
        );
        door.write("app/access.cedar", fresh);
        door.write("web/access.cedar", &barred);
        door.running().reload().unwrap();
        let (alice, dave) = (door.sign_in("alice").await, door.sign_in("dave").await);
        for speaks in BOTH {
            assert_eq!(door.get("app", Some(&alice), speaks, "/x").await.status, 200);
            assert_eq!(door.get("web", Some(&alice), speaks, "/x").await.status, 200);
        }
        door.clock.advance(Ttl::seconds(50));
        for (service, reason) in [("app", "no_policy_match"), ("web", "forbidden_by_policy")] {
            for speaks in BOTH {
                let got = door.get(service, Some(&alice), speaks, "/x").await;
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (403, reason), "{service}");
                let remedy = &got.problem()["remedy"];
                assert_eq!((&remedy["kind"], &remedy["command"]), (&"step_up".into(), &"doorward login".into()));
                door.recorded(got.decision()).await;
                // Whom a new sign-in would not help is not sent to one.
                let got = door.get(service, Some(&dave), speaks, "/x").await;
                assert_eq!((got.status.as_u16(), &got.problem()["remedy"]["kind"]), (403, &"none".into()), "{service}");
            }
        }
        let again = door.sign_in("alice").await;
        assert_eq!(door.get("app", Some(&again), Speaks::Http2, "/x").await.status, 200);
        assert_eq!(door.get("web", Some(&again), Speaks::Http2, "/x").await.status, 200);
    });
}
