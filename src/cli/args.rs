//! The command line as clap reads it: every command, flag and example.
//!
//! INVARIANT: what is listed here is built. `-o` stands before or after a command's arguments;
//! only what follows `curl` is handed on unread (see [`raw_arguments`]).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::access_args::{
    ApproveArgs, DenyArgs, DropArgs, ExtendArgs, GrantsArgs, LockArgs, REQUEST_EXAMPLES, RequestArgs, RequestsArgs,
    RevokeArgs, ShowArgs, WithdrawArgs,
};
use crate::model::{Timestamp, Ttl};

/// The form in which data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: the resource as the API has it
    Json,
    /// For CI: only `policy test` writes it
    #[value(hide = true)]
    Junit,
}

const EXAMPLES: &str = "\
Examples:
  doorward demo                              the whole story in half a minute
  doorward dev                               a whole door here, to try it out
  doorward login --server https://doorward.example.com
  doorward services                          what there is, what you may use
  doorward curl https://ops-api.example.com/  curl, with your certificate
  doorward why dec_…                         why a request was refused";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not signed in or session ended, 4 denied, \
5 still pending when the wait ran out, 6 could not reach the server.

Environment: DOORWARD_SERVER, DOORWARD_PROFILE, DOORWARD_CA stand in for the flags of these names; DOORWARD_HOME \
is where profiles are kept (else $XDG_CONFIG_HOME/doorward, else ~/.config/doorward); NO_COLOR is honoured.";

/// A zero-trust door for internal services
#[derive(Debug, Parser)]
#[command(
    name = "doorward",
    version,
    about,
    before_help = EXAMPLES,
    after_help = EXIT_CODES,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Arguments {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that stand before or after any command's arguments.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// How data is printed
    #[arg(short = 'o', long = "output", global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// The door's control host, https://HOST[:PORT] [env: DOORWARD_SERVER; else the profile's]
    #[arg(long, global = true, value_name = "URL", help_heading = "Client options")]
    pub server: Option<String>,
    /// Whose session is used [env: DOORWARD_PROFILE; else `default`]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Client options")]
    pub profile: Option<String>,
    /// PEM file with the authorities that may vouch for the server [env: DOORWARD_CA; else the system's]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Client options")]
    pub ca: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play the whole story on this machine, with nothing installed
    #[command(before_help = "Example:\n  doorward demo")]
    Demo,
    /// Run a door on loopback: gateway, provider with four people, sample service
    #[command(before_help = DEV_EXAMPLES)]
    Dev(DevArgs),
    /// Write a new installation: doorward.toml, authority, keys and policies
    #[command(before_help = "Example:\n  doorward init --dir /etc/doorward --domain example.com")]
    Init(InitArgs),
    /// Run the gateway
    #[command(before_help = "Example:\n  doorward serve --config /etc/doorward/doorward.toml")]
    Serve(ConfigArgs),
    /// Say everything that `serve` would refuse, with file, line and what to do
    #[command(before_help = "Example:\n  doorward check --config /etc/doorward/doorward.toml")]
    Check(ConfigArgs),
    /// Check, and also ask providers, database, upstreams and the clock
    #[command(before_help = "Example:\n  doorward doctor --config /etc/doorward/doorward.toml")]
    Doctor(ConfigArgs),
    /// Sign in: makes a key on this machine and gets a certificate for it
    #[command(before_help = LOGIN_EXAMPLES)]
    Login(LoginArgs),
    /// End the session and remove its key and certificate
    #[command(before_help = "Example:\n  doorward logout")]
    Logout,
    /// Who is signed in, until when, in which groups
    #[command(before_help = "Example:\n  doorward whoami -o json")]
    Whoami,
    /// What there is, and for each: allowed, can be asked for, or denied
    #[command(before_help = "Examples:\n  doorward services\n  doorward services -o json")]
    Services,
    /// Sign-ins that are live: your own, or all that you may revoke
    #[command(before_help = "Examples:\n  doorward sessions\n  doorward sessions --all -o json")]
    Sessions(SessionsArgs),
    /// curl with your certificate; everything after `curl` is curl's
    #[command(before_help = CURL_EXAMPLES, disable_help_flag = true)]
    Curl(CurlArgs),
    /// Plain HTTP on loopback, mutual TLS onward: for programs that can't do it themselves
    #[command(before_help = PROXY_EXAMPLES)]
    Proxy(ProxyArgs),
    /// Ask for an entitlement
    #[command(before_help = REQUEST_EXAMPLES)]
    Request(RequestArgs),
    /// What was asked for: your own, or what waits for your answer
    #[command(
        before_help = "Examples:\n  doorward requests\n  doorward requests --to-approve\n  doorward requests --all --state pending -o json"
    )]
    Requests(RequestsArgs),
    /// A request or grant, whole
    #[command(before_help = "Examples:\n  doorward show req_…\n  doorward show grt_… -o json")]
    Show(ShowArgs),
    /// Say yes to a request; on a terminal it is shown first
    #[command(
        before_help = "Examples:\n  doorward approve req_…\n  doorward approve req_… --reason \"as agreed\" --yes"
    )]
    Approve(ApproveArgs),
    /// Say no to a request, which ends it
    #[command(before_help = "Example:\n  doorward deny req_… --reason \"not during the freeze\"")]
    Deny(DenyArgs),
    /// Take back a request of your own
    #[command(before_help = "Example:\n  doorward withdraw req_…")]
    Withdraw(WithdrawArgs),
    /// What is held, and how long still
    #[command(before_help = "Examples:\n  doorward grants\n  doorward grants --all -o json")]
    Grants(GrantsArgs),
    /// Ask for more time with a grant; meanwhile it goes on
    #[command(before_help = "Example:\n  doorward extend grt_… --for 30m")]
    Extend(ExtendArgs),
    /// Give back a grant of your own
    #[command(before_help = "Example:\n  doorward drop grt_…")]
    Drop(DropArgs),
    /// End a grant or a session at once, its open streams too
    #[command(
        before_help = "Examples:\n  doorward revoke grt_… --reason \"wrong cluster\"\n  doorward revoke ses_… --reason \"laptop lost\""
    )]
    Revoke(RevokeArgs),
    /// Bar somebody from everything until it is lifted
    #[command(
        before_help = "Examples:\n  doorward lock alice@example.com --reason \"laptop lost\"\n  doorward lock 'User::\"corp|alice\"' --reason \"laptop lost\""
    )]
    Lock(LockArgs),
    /// Lift the bar
    #[command(before_help = "Example:\n  doorward unlock alice@example.com --reason \"it was found\"")]
    Unlock(LockArgs),
    /// What people were told: webhooks and mail that wait, were taken, or were given up
    #[command(before_help = "Examples:\n  doorward notices --dead\n  doorward notices retry evt_…")]
    Notices(super::notices::NoticesArgs),
    /// Review who may do what at a service: keep or remove, rule by rule
    #[command(
        subcommand,
        before_help = "Examples:\n  doorward review start --service ops-api\n  doorward review show rev_…\n  doorward review decide rev_… 1 keep --reason \"needed for releases\""
    )]
    Review(super::review::ReviewCommand),
    /// A token for one service, alone on standard output
    #[command(before_help = TOKEN_EXAMPLES)]
    Token(TokenArgs),
    /// Check, test and explain policies
    #[command(
        subcommand,
        before_help = "Examples:\n  doorward policy check --dir policies\n  doorward policy test\n  doorward policy explain --principal alice@example.com --group engineering \\\n    ops-api GET /status"
    )]
    Policy(super::policy::PolicyCommand),
    /// Export, verify, follow and search the record
    #[command(
        subcommand,
        before_help = "Examples:\n  doorward audit export --format evidence --out ./evidence\n  doorward audit verify ./evidence\n  doorward audit tail -f"
    )]
    Audit(super::audit::AuditCommand),
    /// Explain a decision: who, what, which policies decided, what would change it
    #[command(before_help = "Examples:\n  doorward why dec_…\n  doorward why dec_… -o json")]
    Why(WhyArgs),
    /// The emergency path: when provider and database are away, custodians open the door
    #[command(
        subcommand,
        before_help = "Examples:\n  doorward breakglass custodians\n  doorward breakglass open --config doorward.toml --all \\\n    --reason \"all is down\" --for 30m --challenge-out challenge.txt"
    )]
    Breakglass(super::breakglass::BreakGlassCommand),
    /// Write a completion script for a shell
    #[command(before_help = "Example:\n  doorward completions bash > /etc/bash_completion.d/doorward")]
    Completions(CompletionsArgs),
    /// Write the manual page, or all of them
    #[command(before_help = "Examples:\n  doorward man | man -l -\n  doorward man --out /usr/local/share/man/man1")]
    Man(ManArgs),
}

const DEV_EXAMPLES: &str = "\
Examples:
  doorward dev
  doorward dev --dir ./door --listen 127.0.0.1:0 --json";

/// `doorward dev`
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where everything is kept [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where the door listens; loopback only, port 0 takes a free one [default: where that of DIR listened last,
    /// else 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// The database [default: SQLite in DIR]
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Print only the lines starting, ready, reloaded, stopping, each one JSON object
    #[arg(long)]
    pub json: bool,
    /// Only provider and sample upstream, for a `serve` of the written doorward.toml
    #[arg(long)]
    pub parts_only: bool,
}

/// `doorward init`
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Where it is written; must not hold an installation yet
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// The domain below which services have their hosts
    #[arg(long, value_name = "DOMAIN", default_value = "doorward.localhost")]
    pub domain: String,
}

/// Commands that read `doorward.toml`
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "doorward.toml")]
    pub config: PathBuf,
}

const LOGIN_EXAMPLES: &str = "\
Examples:
  doorward login --server https://doorward.example.com
  doorward login --print-url        when you open the browser yourself
  doorward login --device-code      when the browser is on another device
  doorward login --as alice         against `doorward dev`, without a browser";

/// `doorward login`
#[derive(Debug, Clone, Default, Args)]
pub struct LoginArgs {
    /// Sign in with a browser on another device, where the installation allows it
    #[arg(long, conflicts_with_all = ["print_url", "sign_in_as"])]
    pub device_code: bool,
    /// Print the address instead of opening a browser
    #[arg(long, conflicts_with = "sign_in_as")]
    pub print_url: bool,
    /// Sign in as one of the people of `doorward dev`, without a browser
    #[arg(long = "as", value_name = "NAME", id = "sign_in_as")]
    pub sign_in_as: Option<String>,
    /// The provider to sign in at, where there are several
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Certificate of this device, shown at sign-in [env: DOORWARD_DEVICE_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    pub device_certificate: Option<PathBuf>,
    /// Key of the device certificate [env: DOORWARD_DEVICE_KEY]
    #[arg(long, value_name = "FILE")]
    pub device_key: Option<PathBuf>,
}

/// `doorward sessions`
#[derive(Debug, Clone, Args)]
pub struct SessionsArgs {
    /// Your own (the default)
    #[arg(long, conflicts_with = "all")]
    pub mine: bool,
    /// All that you may revoke or audit
    #[arg(long)]
    pub all: bool,
}

const CURL_EXAMPLES: &str = "\
Examples:
  doorward curl https://ops-api.example.com/status
  doorward curl -X POST -o answer.json \\
    https://ops-api.example.com/v1/deployments/staging
  doorward --profile work curl -N https://ops-api.example.com/events

Flags of doorward itself stand before `curl`; the exit code is curl's.";

/// `doorward curl`
#[derive(Debug, Clone, Args)]
pub struct CurlArgs {
    /// Handed to curl as they are
    #[arg(value_name = "CURL_ARGUMENTS", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

const PROXY_EXAMPLES: &str = "\
Examples:
  doorward proxy                        on a free port; prints address, secret
  doorward proxy --listen 127.0.0.1:3128
  doorward proxy --socket ~/.door.sock  for this user only, no secret needed
  http_proxy=http://doorward:SECRET@127.0.0.1:3128 \\
    legacy-tool http://ops-api.example.com/status";

/// `doorward proxy`
#[derive(Debug, Clone, Args)]
pub struct ProxyArgs {
    /// Loopback address to listen on; port 0 takes a free one [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR", conflicts_with = "socket", value_parser = loopback)]
    pub listen: Option<SocketAddr>,
    /// Unix socket to listen on, for this user only
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

const TOKEN_EXAMPLES: &str = "\
Examples:
  doorward token --service ops-api --scope \"status echo\" --for 5m
  doorward token --service ops-api --grant grt_06h  ends with it at the latest
  doorward token --service ops-api --subject-token-file job.jwt \\
    --certificate-out door
  doorward token --service ops-api --request deploy-prod \\
    --reason hotfix --for 30m --wait

In a job, --subject-token-file is the token that its own issuer gave it.
A gate, --request with --wait, goes on once somebody has approved: exit 0 with the token,
4 when it is denied, 5 when the wait ran out, 1 when it ended otherwise (never answered,
withdrawn, revoked); what is waited for is said on standard error. A job waits in a session
of its token, 15 minutes at most, unless the file holds a fresh token by then.";

/// `doorward token`
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// The service that it is good at
    #[arg(long, value_name = "SERVICE")]
    pub service: String,
    /// Actions of the service that it is narrowed to, with blanks between [default: all]
    #[arg(long, value_name = "ACTIONS")]
    pub scope: Option<String>,
    /// How long it lasts: at most 15m, which is the default; with --request, how long the access is needed
    #[arg(long = "for", value_name = "LENGTH", value_parser = length)]
    pub length: Option<Ttl>,
    /// A grant of yours, or the beginning of its id: the token is worth nothing once that is over
    #[arg(long, value_name = "GRANT", conflicts_with = "request")]
    pub grant: Option<String>,
    /// Ask for this entitlement of the service first; the token ends with what is granted
    #[arg(long, value_name = "ENTITLEMENT")]
    pub request: Option<String>,
    /// Why it is needed; most entitlements require it
    #[arg(long, value_name = "TEXT", requires = "request", value_parser = reason)]
    pub reason: Option<String>,
    /// The ticket that it belongs to
    #[arg(long, value_name = "TICKET", requires = "request")]
    pub ticket: Option<String>,
    /// When it is to begin, 2026-11-22T10:15:00Z
    #[arg(long, value_name = "TIME", requires = "request", value_parser = moment)]
    pub start: Option<Timestamp>,
    /// A parameter of the entitlement
    #[arg(long = "param", value_name = "KEY=VALUE", requires = "request", value_parser = parameter)]
    pub params: Vec<(String, String)>,
    /// Say that it can't wait for approvals
    #[arg(long, requires = "request")]
    pub emergency: bool,
    /// Wait until it is granted
    #[arg(long, requires = "request")]
    pub wait: bool,
    /// How long to wait [default: 10m]
    #[arg(long, value_name = "LENGTH", requires = "wait", value_parser = length)]
    pub timeout: Option<Ttl>,
    /// A workload that may act for you by the token, `ISSUER|RULE`: hand the token on to it
    #[arg(long, value_name = "WORKLOAD", requires = "scope", conflicts_with = "actor_token_file")]
    pub may_act: Option<String>,
    /// A pipeline's own token, instead of a session of this profile; with --actor-token-file, the token that
    /// was handed on to it
    #[arg(long, value_name = "FILE")]
    pub subject_token_file: Option<PathBuf>,
    /// A pipeline's own token, by which it acts for whoever handed a token on to it
    #[arg(long, value_name = "FILE", requires = "subject_token_file", conflicts_with_all = ["grant", "request"])]
    pub actor_token_file: Option<PathBuf>,
    /// Also make a key, and write it here with a certificate that ends with the token
    #[arg(long, value_name = "DIR")]
    pub certificate_out: Option<PathBuf>,
}

/// `doorward why`
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The decision, `dec_…`: the `Doorward-Decision` of an answer
    #[arg(value_name = "DECISION")]
    pub decision: String,
}

/// `doorward completions`
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `doorward man`
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub(super) fn length(text: &str) -> Result<Ttl, String> {
    Ttl::parse(text).ok_or_else(|| "a length of time is written `90s`, `15m`, `1h30m` or `1d`".to_owned())
}

pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "a time is written `2026-11-22T10:15:00Z`".to_owned())
}

pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a parameter is written `key=value`".to_owned()),
    }
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        1..=1000 => Ok(text.to_owned()),
        _ => Err("a reason has 1 to 1,000 characters".to_owned()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address is written `127.0.0.1:8443` or `[::1]:8443`, in figures".to_owned())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("only a loopback address may be listened on: others could use your session".to_owned())
    }
}

/// The arguments with `--` put in after `curl`, so that clap reads nothing of what follows it:
/// an `-o` there is curl's, and so is a `--help`.
#[must_use]
pub fn raw_arguments(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut position = 1;
    while let Some(argument) = arguments.get(position) {
        let text = argument.to_string_lossy();
        if text == "curl" {
            arguments.insert(position + 1, "--".into());
            break;
        }
        if !text.starts_with('-') || text == "--" {
            break;
        }
        let takes_next = ["-o", "--output", "--server", "--profile", "--ca"].contains(&&*text);
        position += if takes_next { 2 } else { 1 };
    }
    arguments
}

/// Whether these arguments, which clap could not read, ask for JSON: then what is wrong with them is
/// told in JSON too.
#[must_use]
pub fn asks_for_json(arguments: &[OsString]) -> bool {
    let own = arguments.iter().take_while(|argument| *argument != "--").map(|argument| argument.to_string_lossy());
    let own: Vec<_> = own.collect();
    let after = own
        .windows(2)
        .any(|pair| matches!(pair, [flag, format] if (flag == "-o" || flag == "--output") && format == "json"));
    after || own.iter().any(|argument| argument == "-ojson" || argument == "-o=json" || argument == "--output=json")
}
