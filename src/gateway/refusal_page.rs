//! The refusal as a person's browser shows it: the same words as the problem, nothing loaded from
//! anywhere, readable on a telephone and in the dark.

use askama::Template;

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{{ title }} · Doorward</title>
<style>
:root { color-scheme: light dark; }
body { font: 1.05rem/1.55 system-ui, sans-serif; max-width: 38rem; margin: 12vh auto 4rem; padding: 0 1.25rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
pre { padding: .75rem 1rem; border: 1px solid #8886; border-radius: .4rem; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; margin-top: 2rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; }
.button { display: inline-block; padding: .5rem 1rem; border: 1px solid #767676; border-radius: .4rem; color: inherit; text-decoration: none; }
.button:focus-visible { outline: 3px solid #1d5fa8; outline-offset: 2px; }
@media (prefers-color-scheme: dark) { .button { border-color: #8c8c8c; } .button:focus-visible { outline-color: #7db7f5; } }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p>{% for (code, text) in detail %}{% if code %}<code>{{ text }}</code>{% else %}{{ text }}{% endif %}{% endfor %}</p>
{% if let Some(command) = command %}
<p>What helps:</p>
<pre><code>{{ command }}</code></pre>
{% endif %}
{% if let Some(again) = again %}
<p><a class="button" href="{{ again }}">Go to the front page</a></p>
{% endif %}
{% if let Some(sign_in) = sign_in %}
<p><a class="button" href="{{ sign_in }}">Sign in again</a></p>
{% endif %}
{% for (name, href) in asks %}
<p><a class="button" href="{{ href }}">{% if asks.len() == 1 %}Ask for it here{% else %}Ask for {{ name }}{% endif %}</a></p>
{% endfor %}
<dl>
<dt>Reason</dt><dd><code>{{ reason }}</code></dd>
<dt>Decision</dt><dd><code>{{ decision }}</code></dd>
<dt>More</dt><dd><code>doorward why {{ decision }}</code></dd>
</dl>
</main>
</body>
</html>
"#
)]
struct RefusalPage<'a> {
    title: &'a str,
    /// Each part, and whether it is code.
    detail: Vec<(bool, &'a str)>,
    reason: &'a str,
    command: Option<&'a str>,
    asks: &'a [(String, String)],
    sign_in: Option<&'a str>,
    again: Option<&'a str>,
    decision: &'a str,
}

/// What helps against a refusal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Help<'a> {
    /// The ready command.
    pub command: Option<&'a str>,
    /// What can be asked for, each with the page where that is done.
    pub asks: &'a [(String, String)],
    /// Where this browser signs in again.
    pub sign_in: Option<&'a str>,
    /// The page of this host where it can be begun again.
    pub again: Option<&'a str>,
}

/// The page for a refusal.
#[must_use]
pub fn refusal_page(title: &str, detail: &str, reason: &str, help: Help<'_>, decision: &str) -> String {
    let Help { command, asks, sign_in, again } = help;
    // What stands in backticks is code; of our own texts each has an even number of them.
    let detail = detail.split('`').enumerate().map(|(place, part)| (place % 2 == 1, part)).collect();
    let page = RefusalPage { title, detail, reason, command, asks, sign_in, again, decision };
    page.render().unwrap_or_else(|_| format!("<!doctype html><title>Refused</title><p>Refused: {reason}. {decision}"))
}
