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
fn a08_a_stricter_route_is_not_bypassed_by_its_plain_spelling() {
    for (wide, strict, method, path) in [
        ("* /**", "DELETE /api/Users/{id}", "DELETE", "/api/users/5"),
        ("* /**", "DELETE /api/Users/{id}", "DELETE", "/API/users/5"),
        ("* /**", "DELETE /api/Users/{id}", "DELETE", "/api/users/5/"),
        ("GET /**", "GET /admin/", "GET", "/admin"),
        ("GET /**", "GET /admin/", "HEAD", "/admin"),
        ("GET /**", "GET /admin/", "GET", "/Admin"),
        ("HEAD /**", "GET /admin/", "HEAD", "/admin"),
        ("GET /{page}", "GET /admin/", "GET", "/admin"),
        ("GET /{a}/{b}", "GET /{a}/Edit/", "GET", "/x/edit"),
        ("GET /**", "* /Admin/**", "GET", "/admin"),
        ("GET /**", "* /Admin/**", "GET", "/admin/users"),
        ("GET /**", "* /caf%C3%89/**", "GET", "/caf%C3%A9/x"),
        ("GET /**", "* /a%20b/**", "GET", "/A%20b/x"),
        ("GET /**", "* /a%2Fb/**", "GET", "/a/b/x"),
        ("GET /**", "* /v1./**", "GET", "/v1/x"),
        ("GET /**", "* /a;b/**", "GET", "/a/x"),
        ("GET /**", "* /.../status", "GET", "/status"),
        // A literal that takes any method is as wide as a name.
        ("* /users", "DELETE /Users", "DELETE", "/users"),
        ("* /users", "DELETE /users/", "DELETE", "/users"),
        // Letters that are others in upper case, or in lower case only.
        ("GET /**", "* /status/**", "GET", "/%C5%BFtatus/x"),
        ("GET /**", "* /keys/**", "GET", "/%E2%84%AAeys"),
        ("GET /**", "* /items/**", "GET", "/%C4%B0tems"),
        ("GET /**", "* /items/**", "GET", "/%C4%B1tems"),
        ("GET /**", "* /admin/**", "GET", "/admin /x"),
    ] {
        let routes = [(wide, "wide"), (strict, "strict")];
        assert_eq!(found(&service(&routes, ""), method, path), "-", "{wide} {strict}: {method} {path}");
        let turned = [(strict, "strict"), (wide, "wide")];
        assert_eq!(found(&service(&turned, ""), method, path), "-", "{strict} {wide}: {method} {path}");
        let exact = service(&routes, "exact_paths = true");
        assert!(found(&exact, method, path).starts_with("wide("), "{wide} {strict}: {method} {path}");
        let same = service(&[(wide, "wide"), (strict, "wide")], "");
        assert!(found(&same, method, path).starts_with("wide("), "{wide} {strict}: {method} {path}");
    }
}

#[test]
fn a08_an_upstream_that_folds_only_in_part_is_thought_of_too() {
    let routes = [("GET /**", "use"), ("GET /files/public", "use"), ("GET /files/{name}", "admin")];
    let set = service(&routes, "");
    // Without its slash alone, or in lower letters alone, it would be a file of its own.
    assert_eq!(found(&set, "GET", "/files/PUBLIC/"), "-");
    assert_eq!(found(&set, "GET", "/files/PUBLIC"), "-");
    assert_eq!(found(&set, "GET", "/FILES/public"), "use()");
    assert_eq!(found(&set, "GET", "/files/public"), "use()");
    assert_eq!(found(&set, "GET", "/files/Other"), "admin(name=Other)");
    let set = service(&[("GET /**", "use"), ("GET /a%2Fb", "use"), ("GET /a/{x}", "admin")], "encoded_slash = true");
    assert_eq!(found(&set, "GET", "/A/b"), "-");
    assert_eq!(found(&set, "GET", "/a%2Fb"), "use()");
    assert_eq!(found(&set, "GET", "/a/c"), "admin(x=c)");
}

#[test]
fn a08_an_encoded_slash_never_leads_around_a_stricter_route() {
    let routes = [("GET /**", "read"), ("* /admin/**", "admin"), ("GET /{page}/edit", "edit"), ("GET /x/y", "xy")];
    let set = service(&routes, "encoded_slash = true");
    for path in [
        "/admin%2Fusers",
        "/admin%2fusers",
        "/Admin%2Fusers",
        "/admin%2Fusers%2F5",
        "/admin%2Fusers/5",
        "/%2Fadmin",
        "/%2F%2Fadmin%2F",
        "/admin%2F",
        "/x%2Fy",
        "/x%2FY/",
        "/x%2Fedit",
        // One segment to who keeps it, three to who decodes it.
        "/a%2Fb/Edit",
    ] {
        assert_eq!(found(&set, "GET", path), "-", "{path}");
    }
    assert_eq!(found(&set, "GET", "/wiki%2Fadmin"), "read()");
    assert_eq!(found(&set, "GET", "/a%2Fb"), "read()");
    assert_eq!(found(&set, "GET", "/admin/a%2Fb"), "admin()");
    let exact = service(&routes, "encoded_slash = true\nexact_paths = true");
    assert_eq!(found(&exact, "GET", "/admin%2Fusers"), "read()");
}

#[test]
fn a08_a_name_takes_an_encoded_slash_where_no_other_action_has_the_decoded_path() {
    let routes = [
        ("GET /projects/{id}", "project"),
        ("GET /projects/{id}/files", "files"),
        ("GET /projects/{id}/**", "project"),
        ("GET /tags/{tag}", "tag"),
    ];
    let set = service(&routes, "encoded_slash = true");
    assert_eq!(found(&set, "GET", "/projects/a%2Fb"), "project(id=a/b)");
    assert_eq!(found(&set, "GET", "/projects/a%2Fb%2Fc"), "project(id=a/b/c)");
    assert_eq!(found(&set, "GET", "/tags/a%2Fb"), "tag(tag=a/b)");
    assert_eq!(found(&set, "GET", "/projects/a%2Ffiles"), "-");
    // Decoded it is no list of files.
    assert_eq!(found(&set, "GET", "/projects/a%2Fb/files"), "-");
}

#[test]
fn a_route_in_any_spelling_takes_what_it_says() {
    let set = service(
        &[
            ("GET /", "root"),
            ("GET /**", "read"),
            ("GET /api/Users/{id}", "user"),
            ("GET /api/Users/{id}/", "user"),
            ("* /Admin/**", "admin"),
            ("GET /docs/", "docs"),
            ("GET /Status", "status"),
            ("HEAD /status", "status"),
        ],
        "",
    );
    for (method, path, expected) in [
        ("GET", "/", "root()"),
        ("GET", "/api/Users/5", "user(id=5)"),
        ("GET", "/api/Users/Bob", "user(id=Bob)"),
        ("GET", "/api/Users/5/", "user(id=5)"),
        ("GET", "/Admin", "admin()"),
        ("GET", "/Admin/", "admin()"),
        ("GET", "/Admin/Users/x", "admin()"),
        ("PUT", "/Admin/x", "admin()"),
        ("PUT", "/admin/x", "-"),
        ("GET", "/docs/", "docs()"),
        ("GET", "/docs/a", "read()"),
        ("GET", "/Status", "status()"),
        ("HEAD", "/Status", "status()"),
        ("HEAD", "/status", "status()"),
        ("GET", "/api/teams/5", "read()"),
        ("GET", "/Wiki/", "read()"),
    ] {
        assert_eq!(found(&set, method, path), expected, "{method} {path}");
    }
}

#[test]
fn a08_two_routes_that_an_upstream_may_take_for_one_are_told_of_and_serve_nobody() {
    for (one, other, paths) in [
        ("GET /v1/Users", "GET /v1/users", ["/v1/Users", "/v1/users"]),
        ("GET /docs", "GET|PUT /docs/", ["/docs", "/docs/"]),
        ("GET /{a}", "GET /{b}/", ["/x", "/x/"]),
        ("* /a%2Fb/**", "* /a/B/**", ["/a%2Fb/x", "/a/B/x"]),
    ] {
        let routes = [(one, "one"), (other, "other")];
        let set = service(&routes, "");
        let told = shown(set.warnings());
        let expected = format!("to an upstream `{other}` may be the same as `{one}`: what both would take is refused");
        assert!(told.contains(&expected), "{told}");
        for path in paths {
            assert_eq!(found(&set, "GET", path), "-", "{one} {other}: {path}");
        }
        let apart = service(&routes, "exact_paths = true");
        assert_eq!(shown(apart.warnings()), "");
        assert!(paths.iter().zip(["one(", "other("]).all(|(path, own)| found(&apart, "GET", path).starts_with(own)));
        assert_eq!(shown(service(&[(one, "one"), (other, "one")], "").warnings()), "");
    }
    let fine = [("GET /docs", "one"), ("PUT /docs/", "other"), ("* /Docs", "third")];
    assert_eq!(shown(service(&fine, "").warnings()), "");
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

/// What stands between two segments, for the same someone.
fn joint() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("/"), 1 => Just("%2F"), 1 => Just("//")]
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

    /// Whatever a disguise reaches, it is the plain path's action or nothing; and so it is where
    /// the routes are in disguise.
    #[test]
    fn a08_a_disguised_path_reaches_the_plain_ones_action_or_nothing(
        parts in proptest::collection::vec((joint(), segment(), disguise()), 1..5),
        end in prop_oneof![Just(""), Just("/"), Just("%2F")],
    ) {
        thread_local! {
            static SET: PolicySet = service(
                &[("GET /**", "read"), ("GET /admin/**", "admin"), ("GET /v1/{x}/a", "a"), ("GET /{x}/admin", "sub"), ("GET /v1/admin/{y}", "deep")],
                "",
            );
            static ODD: PolicySet = service(
                &[("GET /**", "read"), ("GET /Admin/**", "admin"), ("GET /v1/{x}/A/", "a"), ("GET /{x}/admin;/", "sub"), ("GET /V1%2Fadmin/{y}", "deep")],
                "",
            );
        }
        let plain: String = parts.iter().map(|(_, part, _)| format!("/{part}")).collect();
        let odd: String = parts.iter().skip(1).fold(
            parts.first().map(|(_, part, disguise)| format!("/{}", disguise(part))).unwrap(),
            |path, (joint, part, disguise)| format!("{path}{joint}{}", disguise(part)),
        );
        let odd = format!("{odd}{end}");
        let action = |set: &PolicySet, path: &str| found(set, "GET", path).split('(').next().unwrap().to_owned();
        let expected = SET.with(|set| action(set, &plain));
        for (set, path) in [(&SET, &odd), (&ODD, &odd), (&ODD, &plain)] {
            let reached = set.with(|set| action(set, path));
            prop_assert!(reached == "-" || reached == expected, "{path}: {reached}, not {expected}");
        }
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
