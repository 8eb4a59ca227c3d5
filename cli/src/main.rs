//! The door to [`cli`]: parse, run, exit code.

use std::process::ExitCode;

use cli::Io;

fn main() -> ExitCode {
    // Fails only when a provider is installed already, and then there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os(), &mut Io::std()).into()
}
