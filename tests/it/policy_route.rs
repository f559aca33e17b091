//! Routes: anchored, byte for byte, the most specific first, and never two readings of a path.

use doorward::policy::{PolicySet, load};
use proptest::prelude::*;

use crate::policy::{folder, settings, shown};

fn service(routes: &[(&str, &str)], more: &str) -> PolicySet {
    let mut text = format!("upstreams = [\"http://127.0.0.1:9080\"]\n{more}\n");
    for (pattern, action) in routes {
        text.push_str(&format!("[[route]]\nmatch = \"{pattern}\"\naction = \"{action}\"\n"));
    }
    let access = "permit (principal in Group::\"g\", action, resource is Service);";
    let dir = folder(&[("svc/service.toml", &text), ("svc/access.cedar", access)]);
    load(dir.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

/// `action(name=value,…)`, or `-`.
fn found(set: &PolicySet, method: &str, path: &str) -> String {
    let service = set.services().next().unwrap();
    service.route(method, path).map_or_else(
        || "-".to_owned(),
        |matched| {
            let params: Vec<String> = matched.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{}({})", matched.action, params.join(","))
        },
    )
}

#[test]
fn a_literal_beats_a_name_and_a_name_beats_the_rest() {
    let set = service(
        &[
            ("GET /", "root"),
            ("GET /v1/{env}", "one"),
            ("GET /v1/prod", "prod"),
            ("GET /v1/{env}/{part}", "two"),
            ("GET /v1/prod/**", "deep"),
            ("GET /v1/**", "rest"),
            ("POST /v1/{name}", "write"),
            ("* /v1/{name}", "other"),
            ("HEAD /v1/prod", "head"),
            ("GET|PUT /dir/", "dir"),
        ],
        "",
    );
    for (method, path, expected) in [
        ("GET", "/", "root()"),
        ("GET", "/v1/prod", "prod()"),
        ("GET", "/v1/test", "one(env=test)"),
        ("GET", "/v1/test/x", "two(env=test,part=x)"),
        ("GET", "/v1/prod/x", "deep()"),
        ("GET", "/v1/prod/x/y", "deep()"),
        ("GET", "/v1/test/x/y", "rest()"),
        ("GET", "/v1", "rest()"),
        ("GET", "/v1/", "rest()"),
        ("GET", "/v1x", "-"),
        ("POST", "/v1/prod", "write(name=prod)"),
        ("DELETE", "/v1/prod", "other(name=prod)"),
        ("HEAD", "/v1/prod", "head()"),
        ("HEAD", "/v1/test", "one(env=test)"),
        ("get", "/v1/test", "other(name=test)"),
        ("PUT", "/dir/", "dir()"),
        ("PUT", "/dir", "-"),
        ("GET", "", "-"),
        ("GET", "v1/prod", "-"),
        ("OPTIONS", "*", "-"),
        ("GET", "/v1/caf%C3%A9", "one(env=café)"),
        ("GET", "/v1/a%20b", "one(env=a b)"),
        ("GET", "/v1/%FF", "-"),
        ("GET", "/v1/a%0Ab", "-"),
    ] {
        assert_eq!(found(&set, method, path), expected, "{method} {path}");
    }
}

#[test]
fn a10_patterns_are_anchored_and_metacharacters_are_themselves() {
    let set = service(&[("GET /a.c/$x+(y)", "meta"), ("GET /public/{name}", "public")], "");
    assert_eq!(found(&set, "GET", "/a.c/$x+(y)"), "meta()");
    for path in [
        "/abc/$x+(y)",
        "/a.c/$xx(y)",
        "/x/a.c/$x+(y)",
        "/a.c/$x+(y)/z",
        "/a.c",
        "/evil?/public/x",
        "/evil#/public/x",
        "/public",
        "/public/",
        "/public/a/b",
        "/.*",
        "/public/../a.c",
        "//public/x",
        "/evil/public/x",
        "/*",
        "/{name}",
    ] {
        assert_eq!(found(&set, "GET", path), "-", "{path}");
    }
    // A wildcard character that a client sends is a value, never a pattern.
    assert_eq!(found(&set, "GET", "/public/*"), "public(name=*)");
    assert_eq!(found(&set, "GET", "/public/{name}"), "public(name={name})");
    assert_eq!(found(&set, "GET", "/public/**"), "public(name=**)");
    assert_eq!(found(&set, "GET", "/public/a?b"), "public(name=a?b)");
}

#[test]
fn a08_a_spelling_that_an_upstream_may_fold_never_takes_a_wider_route() {
    let routes =
        [("GET /**", "read"), ("* /admin/**", "admin"), ("GET /{page}/edit", "edit"), ("GET /status", "status")];
    let set = service(&routes, "");
    for path in [
        "/Admin",
        "/ADMIN/users",
        "/admin;x/users",
        "/admin./users",
        "/.admin/users",
        "/admin%20/users",
        "/%41dmin",
        "/admin%3Bx/users",
        "/%61dmin/users",
        "/Status",
        "/status/",
        "/status;v=1",
        "/status.",
        "/x/Edit",
        "/x/edit/",
        "/status%00",
        "/admin%09",
    ] {
        assert_eq!(found(&set, "GET", path), "-", "{path}");
    }
    for path in ["/wiki/Start", "/a;b", "/Other/", "/administrator", "/statuses", "/x.y"] {
        assert_eq!(found(&set, "GET", path), "read()", "{path}");
    }
    assert_eq!(found(&set, "GET", "/admin"), "admin()");
    assert_eq!(found(&set, "GET", "/admin/"), "admin()");
    assert_eq!(found(&set, "GET", "/admin/Users"), "admin()");
    let exact = service(&routes, "exact_paths = true");
    assert_eq!(found(&exact, "GET", "/Admin"), "read()");
}

#[test]
fn a25_a_path_of_many_segments_costs_no_more_than_the_tree() {
    let deep = format!("GET {}", (0..60).map(|n| format!("/{{p{n}}}")).collect::<String>());
    let set = service(&[(deep.as_str(), "deep"), ("GET /a/**", "rest")], "");
    assert_eq!(found(&set, "GET", &"/a".repeat(60)), "rest()");
    assert!(found(&set, "GET", &"/b".repeat(60)).starts_with("deep("));
    assert_eq!(found(&set, "GET", &"/b".repeat(61)), "-");
    assert_eq!(found(&set, "GET", &"/a".repeat(30_000)), "rest()");
    assert_eq!(found(&set, "GET", &"/b".repeat(30_000)), "-");
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("admin".to_owned()),
        Just("v1".to_owned()),
        Just("a".to_owned()),
        "[a-z]{1,4}".prop_map(|text| text)
    ]
}

/// What each place of a path may be written as by someone who wants it to look like another.
fn disguise() -> impl Strategy<Value = fn(&str) -> String> {
    prop_oneof![
        Just((|s| s.to_owned()) as fn(&str) -> String),
        Just((|s| s.to_uppercase()) as fn(&str) -> String),
        Just((|s| format!("{s};x=1")) as fn(&str) -> String),
        Just((|s| format!("{s}.")) as fn(&str) -> String),
        Just((|s| format!("{s}%20")) as fn(&str) -> String),
        Just((|s| s.bytes().map(|b| format!("%{b:02X}")).collect()) as fn(&str) -> String),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a disguise reaches, it is the plain path's action or nothing.
    #[test]
    fn a08_a_disguised_path_reaches_the_plain_ones_action_or_nothing(
        parts in proptest::collection::vec((segment(), disguise()), 1..5),
    ) {
        thread_local! {
            static SET: PolicySet = service(
                &[("GET /**", "read"), ("GET /admin/**", "admin"), ("GET /v1/{x}/a", "a"), ("GET /{x}/admin", "sub"), ("GET /v1/admin/{y}", "deep")],
                "",
            );
        }
        let plain: String = parts.iter().map(|(part, _)| format!("/{part}")).collect();
        let odd: String = parts.iter().map(|(part, disguise)| format!("/{}", disguise(part))).collect();
        SET.with(|set| {
            let action = |path: &str| found(set, "GET", path).split('(').next().unwrap_or_default().to_owned();
            let (plain, disguised) = (action(&plain), action(&odd));
            prop_assert!(disguised == "-" || disguised == plain, "{odd}: {disguised}, not {plain}");
            Ok(())
        })?;
    }

    /// No text at all makes the router fail, and what it takes starts with a slash.
    #[test]
    fn a10_no_text_breaks_the_router(method in "\\PC{0,8}", path in "\\PC{0,40}") {
        thread_local! {
            static SET: PolicySet = service(&[("GET /**", "read"), ("* /admin/{x}", "admin")], "");
        }
        let answer = SET.with(|set| found(set, &method, &path));
        prop_assert!(answer == "-" || path.starts_with('/'));
    }
}
