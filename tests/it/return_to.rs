//! Where a browser goes after signing in (ATTACKS A41).

use doorward::control::return_to::{RETURN_TO_BYTES_MAX, ReturnTo};
use proptest::prelude::*;
use url::Url;

/// What open-redirect lists try, for a site that is called `doorward.example`.
const TRICKS: &[&str] = &[
    "",
    " ",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "//evil.example/%2f..",
    "///evil.example/%2f..",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/\\/evil.example",
    "\\/\\/evil.example",
    "/\\\\evil.example",
    "//\\evil.example",
    "\\evil.example",
    "/a/\\evil.example",
    "https://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "https:\\\\evil.example",
    "HTTPS://evil.example",
    "http://evil.example",
    "http:evil.example",
    "//evil.example:443/",
    "//evil.example@doorward.example",
    "//doorward.example@evil.example",
    "https://doorward.example@evil.example",
    "https://doorward.example.evil.example",
    "https://doorward.example\\@evil.example",
    "@evil.example",
    "doorward.example",
    "evil.example",
    "evil.example/",
    ".evil.example",
    "./",
    "../",
    "..",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "\tjavascript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "about:blank",
    "file:///etc/passwd",
    "blob:https://evil.example/x",
    "view-source:x",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r/evil.example",
    "/\r\n/evil.example",
    "/%09//evil.example",
    "\t//evil.example",
    "\n//evil.example",
    " //evil.example",
    "/ /evil.example",
    "/\u{0}/evil.example",
    "/a\r\nSet-Cookie: x=y",
    "/a\nLocation: https://evil.example",
    "/%0d%0aSet-Cookie:x=y",
    "/%0a/evil.example",
    "/%0d/evil.example",
    "/%00/evil.example",
    "/%5cevil.example",
    "/%5c%5cevil.example",
    "/%5C/evil.example",
    "/%2fevil.example",
    "/%2Fevil.example",
    "/%2f%2fevil.example",
    "/%2f%5cevil.example",
    "/%252fevil.example",
    "/%255cevil.example",
    "/a/%2fevil.example",
    "/a/%5cevil.example",
    "/./evil.example",
    "/.//evil.example",
    "/././/evil.example",
    "/..//evil.example",
    "/../evil.example",
    "/a/..//evil.example",
    "/a/../..//evil.example",
    "/%2e/evil.example",
    "/%2e%2e/evil.example",
    "/%2e%2e//evil.example",
    "/.%2e/evil.example",
    "/%2E.//evil.example",
    "/a/./b",
    "/a/../b",
    "/a//b",
    "/a//",
    "//",
    "///",
    "/a//evil.example",
    "/#//evil.example",
    "/#@evil.example",
    "#//evil.example",
    "/a#b",
    "?//evil.example",
    "?next=//evil.example",
    "/\u{2044}evil.example",
    "/\u{ff0f}evil.example",
    "\u{ff0f}\u{ff0f}evil.example",
    "/\u{3002}evil.example",
    "/\u{202e}moc.live//",
    "/é",
    "\u{feff}//evil.example",
    "\u{a0}//evil.example",
    "/\u{a0}/evil.example",
    "/\u{7f}/evil.example",
    "/\u{85}/evil.example",
    "/\u{2028}/evil.example",
    "/a b",
    "/<script>\u{0}",
    "/a\\b",
    "/\\?x=y",
    "/a\\b?x=y",
    "/%5cevil.example?x=\\",
    "/?x=a b",
    "/?\u{0}",
    "/?x=\r\ny",
    "x",
    "//[::1]",
    "//127.1",
    "//0x7f.1",
    "//evil%E3%80%82example",
    "/%1f/x",
    "/%7f/x",
];

/// What services and our own endpoints really need.
const GOOD: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b.html",
    "/a/b?c=d&e=f",
    "/?",
    "/?x=https://evil.example",
    "/?next=//evil.example",
    "/device?user_code=BCDF-GHJK",
    "/oauth2/authorize?response_type=code&redirect_uri=http%3A%2F%2F127.0.0.1%3A49152%2Fcallback",
    "/signin/service?host=wiki.example&return_to=%2Fa%2Fb&binding=x",
    "/a@b",
    "/a:b",
    "/~user",
    "/a;v=1",
    "/a%20b",
    "/a%2Fb",
    "/caf%C3%A9",
    "/...",
    "/.well-known/x",
    "/a/..b",
    "/a/b..",
    "/[x]",
    "/'\"<>",
    "/a/?b//c",
    "/?x=\\",
    "/?\\\\evil.example",
    "/a?path=C:\\temp\\x&next=/\\evil.example",
    "/-",
];

#[test]
fn a41_only_a_path_of_the_same_host_is_taken() {
    for text in TRICKS {
        assert_eq!(ReturnTo::parse(text), None, "{text:?}");
    }
    for text in GOOD {
        assert_eq!(ReturnTo::parse(text).expect(text).as_str(), *text);
        stays(text);
    }
    let longest = format!("/{}", "a".repeat(RETURN_TO_BYTES_MAX - 1));
    assert!(ReturnTo::parse(&longest).is_some());
    assert_eq!(ReturnTo::parse(&format!("{longest}a")), None);
    // Too long is no trick, and what is a trick stays one.
    assert_eq!(ReturnTo::parse_or_root(&format!("{longest}a")), Some(ReturnTo::root()));
    assert_eq!(ReturnTo::parse_or_root("//evil.example"), None);
}

/// A browser's own reading of the text, from the page that redirects to it.
fn stays(text: &str) {
    for page in ["https://doorward.example/signin/callback?code=x", "https://doorward.example:8443/"] {
        let page = Url::parse(page).unwrap();
        let there = page.join(text).unwrap();
        assert_eq!(there.origin(), page.origin(), "{text:?}");
        assert!(there.username().is_empty() && there.password().is_none());
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        // Browsers write some characters encoded; what they mean stays.
        let meant = |path| percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
        assert_eq!(meant(there.path()), meant(path), "{text:?}");
        assert!(there.query().unwrap_or_default().len() >= query.len(), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a41_whatever_is_taken_stays_at_the_host(text in r"[/\\]{0,3}([a-z.@:%/\\?#\t\n ]|%2[eEfF]|%5[cC]|%0[ad9]|evil\.example|https?:){0,12}") {
        if ReturnTo::parse(&text).is_some() {
            stays(&text);
        }
    }

    #[test]
    fn a41_any_text_at_all_stays_or_is_refused(text in any::<String>()) {
        if ReturnTo::parse(&text).is_some() {
            stays(&text);
        }
    }
}
