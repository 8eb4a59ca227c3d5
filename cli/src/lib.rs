//! `seal`: seals Kubernetes Secrets so that they can live in Git. Under the name `kubeseal` it is kubeseal.
//!
//! ```text
//!   argv ── args ──► command ──► commands/{seal, merge_into, …} ──► output ──► exit
//!          (typed)   (meant)        │                 │
//!                                manifest         certificate ──► cluster ──► API server
//! ```
//!
//! - [`args`]: what was typed. [`command`] (pure): what was meant; every conflict of flags is decided there.
//! - [`commands`]: one verb each, `run(what, io)`.
//! - [`manifest`] (pure): a stream of documents to Secrets and SealedSecrets, with the place of every fault;
//!   [`key_file`] (pure): private keys in the forms that operators keep; [`text`] (pure): bytes to text and back.
//! - [`surgery`] (pure): edits of a manifest's text that leave everything else as it was.
//! - [`certificate`]: the certificate to seal with; [`cluster`]: the only module that talks to an API server.
//! - [`io`], [`output`]: reading, writing, atomically; [`exit`]: errors to words and exit codes.
//!
//! What is sealed, and how, stands in `crds`: this side may not disagree with the controller.

pub mod args;
pub mod certificate;
pub mod cluster;
pub mod command;
pub mod commands;
pub mod exit;
pub mod io;
pub mod key_file;
pub mod manifest;
pub mod output;
pub mod surgery;
pub mod text;

use std::ffi::OsString;

pub use exit::Exit;
pub use io::Io;

/// Does what a command line asks for. Never prints past `io`, never ends the process.
pub fn run(argv: impl IntoIterator<Item = OsString>, io: &mut Io<'_>) -> Exit {
    let args = match args::parse(argv) {
        Ok(args) => args,
        Err(error) => return exit::usage(&error, io),
    };
    io.stderr_is_read |= args.files.verbosity > 0;
    command::warnings(&args).for_each(|words| io.warning(words));
    match command::Command::try_from(args).map_err(exit::Error::from).and_then(|command| commands::run(command, io)) {
        Ok(()) => Exit::Ok,
        Err(error) => exit::failure(&error, io),
    }
}
