//! The binary: installs the process-wide providers and hands over to the command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Under many small buffers huge pages are memory that nobody uses: 26 of 63 MiB at rest, measured. A
    // kernel that has none answers with an error, which is as good.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // An error says that one is installed already, which is all that is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    doorward::cli::main(std::env::args_os())
}
