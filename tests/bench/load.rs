//! The load program of `tests/bench/run`: a bounded closed-loop generator, an upstream that answers
//! at once, connections that are only held, and the credentials that a baseline proxy needs.
//!
//! Everything runs on one thread, so that one core carries it, and each subcommand prints one JSON
//! object on standard output. Figures of CPU are those of the process under load (`--pid`), taken
//! from `/proc/PID/stat` at both ends of the measured time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measuring program of our own, stopped by its first surprise"
)]

mod client;
mod credentials;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What `cargo bench` adds.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Sends requests for a time and prints what it cost.
    Load(Load),
    /// Holds connections that had one request each, and prints the memory of `--pid`.
    Idle(Idle),
    /// Answers every request at once: with as many bytes as the last part of the path says, else `--bytes`.
    Serve {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long, default_value_t = 200)]
        bytes: usize,
    },
    /// Writes a CA, a server and a client certificate, a key set, and bearer tokens signed with ES256.
    Mint(credentials::Mint),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    H1,
    H2,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Handshakes {
    /// Nothing is resumed.
    Full,
    /// Each connection offers the ticket of one before.
    Resumed,
}

/// Where requests go and what they carry.
#[derive(Args)]
pub struct Target {
    /// Address to connect to.
    #[arg(long)]
    connect: SocketAddr,
    /// Name for SNI and Host.
    #[arg(long)]
    host: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// Plain HTTP, for the way without a proxy.
    #[arg(long)]
    plain: bool,
    #[arg(long)]
    ca: Option<PathBuf>,
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Files with one bearer token each; connections take them in turn.
    #[arg(long = "token-file")]
    token_files: Vec<PathBuf>,
    /// Header for the token; any but `authorization` carries it without `Bearer`.
    #[arg(long, default_value = "authorization")]
    token_header: String,
    #[arg(long, value_enum, default_value = "h1")]
    protocol: Protocol,
    /// Offer X25519MLKEM768 too; without it the key exchange is the one that all proxies know.
    #[arg(long)]
    post_quantum: bool,
    /// Process whose CPU time and memory are told.
    #[arg(long = "pid")]
    pids: Vec<u32>,
}

#[derive(Args)]
pub struct Load {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests under way on each connection; more than one needs `--protocol h2`.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds of load before the measured time.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// A new connection for each request.
    #[arg(long, value_enum)]
    handshakes: Option<Handshakes>,
}

#[derive(Args)]
pub struct Idle {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// How long they are held before memory is read.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

fn main() {
    let arguments = Arguments::parse();
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        match arguments.command {
            Command::Load(load) => println!("{}", client::load(load).await),
            Command::Idle(idle) => println!("{}", client::idle(idle).await),
            Command::Serve { listen, bytes } => upstream::serve(listen, bytes).await,
            Command::Mint(mint) => println!("{}", credentials::mint(&mint)),
        }
    };
    tokio::task::LocalSet::new().block_on(&runtime, work);
}
