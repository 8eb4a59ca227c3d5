//! The door to [`cli`]: parse, run, exit code.

use std::{io::Write as _, process::ExitCode};

use cli::Io;
use crds::guard;

#[global_allocator]
static ALLOCATOR: guard::Allocator = guard::ALLOCATOR;

fn main() -> ExitCode {
    // Where the system refuses, sealing is no less wanted.
    let _ = guard::keep_memory_private();
    // There is nobody to tell that stderr is closed.
    std::panic::set_hook(Box::new(|panic| drop(writeln!(std::io::stderr(), "{}", guard::told(panic)))));
    // Fails only when a provider is installed already, and then there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os(), &mut Io::std()).into()
}
