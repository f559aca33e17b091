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
body { font: 1.05rem/1.55 system-ui, sans-serif; max-width: 38rem; margin: 12vh auto 4rem; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
pre { padding: .75rem 1rem; border: 1px solid #8886; border-radius: .4rem; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; margin-top: 2rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; }
.button { display: inline-block; padding: .5rem 1rem; border: 1px solid #8886; border-radius: .4rem; color: inherit; text-decoration: none; }
.button:focus-visible { outline: 3px solid #1d5fa8; outline-offset: 2px; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p>{{ detail }}</p>
{% if let Some(command) = command %}
<p>What helps:</p>
<pre><code>{{ command }}</code></pre>
{% endif %}
{% if let Some(again) = again %}
<p><a class="button" href="{{ again }}">Go to the front page</a></p>
{% endif %}
{% if let Some(ask) = ask %}
<p><a class="button" href="{{ ask }}">Ask for it here</a></p>
{% endif %}
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
    detail: &'a str,
    reason: &'a str,
    command: Option<&'a str>,
    ask: Option<&'a str>,
    again: Option<&'a str>,
    decision: &'a str,
}

/// What helps against a refusal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Help<'a> {
    /// The ready command.
    pub command: Option<&'a str>,
    /// The page where it can be asked for.
    pub ask: Option<&'a str>,
    /// The page of this host where it can be begun again.
    pub again: Option<&'a str>,
}

/// The page for a refusal.
#[must_use]
pub fn refusal_page(title: &str, detail: &str, reason: &str, help: Help<'_>, decision: &str) -> String {
    let Help { command, ask, again } = help;
    let page = RefusalPage { title, detail, reason, command, ask, again, decision };
    page.render().unwrap_or_else(|_| format!("<!doctype html><title>Refused</title><p>Refused: {reason}. {decision}"))
}
