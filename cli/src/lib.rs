//! `seal`: seals Kubernetes Secrets so that they can live in Git. Under the name `kubeseal` it is kubeseal.
//!
//! ```text
//!   argv ── args ──► command ──► commands/{seal, merge_into, …} ──► output ──► exit
//!          (typed)   (meant)        │                 │
//!                                manifest         certificate ──► cluster ──► API server
//! ```
//!
//! - [`args`]: what was typed. [`command`] (pure): what was meant; every conflict of flags is decided there.
//!   [`verbs`]: what was typed after a verb, which kubeseal has none of.
//! - [`commands`]: one verb each, `run(what, io)`.
//! - [`manifest`] (pure): a stream of documents to Secrets and SealedSecrets, with the place of every fault;
//!   [`key_file`] and [`backup`] (pure): private keys in the forms that operators keep; [`text`] (pure): bytes to text and back;
//!   [`spelling`] (pure): numbers that are text.
//! - [`item`] (pure): one item of an object, with all that belongs to it. [`surgery`] (pure): edits of a manifest's text that leave everything else as it was.
//! - [`describe`], [`difference`], [`lint`] (pure): what SealedSecrets show, and what is wrong with them. [`sight`] and
//!   [`view`] (pure): which present values may be seen, and the text in which somebody edits them.
//! - [`renewal`] (pure): a file whose values are sealed anew, by whomever; [`passed`] (pure): sealed values that nobody reads. [`table`] (pure): columns.
//! - [`verdict`], [`pending`], [`idle`] (pure): what a GitSync's status means, what is asked of it, and whether anybody
//!   works; [`delta`] (pure): two forms of an object beside each other, and
//!   nothing of a Secret; [`hidden`] (pure): what of it nobody may see.
//! - [`manifests`] (pure): what `seal install` installs.
//! - [`certificate`]: the certificate to seal with; [`cluster`]: the only module that talks to an API server.
//! - [`io`], [`output`]: reading, writing, atomically; [`signals`]: being ended; [`exit`]: errors to words and exit codes.
//!
//! What is sealed, and how, stands in `crds`: this side may not disagree with the controller.

pub mod args;
pub mod backup;
pub mod certificate;
pub mod cluster;
pub mod command;
pub mod commands;
pub mod delta;
pub mod describe;
pub mod difference;
pub mod exit;
pub mod hidden;
pub mod idle;
pub mod io;
pub mod item;
pub mod key_file;
pub mod lint;
pub mod manifest;
pub mod manifests;
pub mod output;
pub mod passed;
pub mod pending;
pub mod renewal;
pub mod sight;
pub mod signals;
pub mod spelling;
pub mod surgery;
pub mod table;
pub mod text;
pub mod verbs;
pub mod verdict;
pub mod view;

use std::ffi::OsString;

use args::Typed;
pub use exit::Exit;
pub use io::Io;

/// Does what a command line asks for. Never prints past `io`, never ends the process.
pub fn run(argv: impl IntoIterator<Item = OsString>, io: &mut Io<'_>) -> Exit {
    let args = match args::parse(argv) {
        Ok(Typed::Flags(args)) => *args,
        Ok(Typed::Verb(verb)) => return commands::run_verb(*verb, io),
        Err(error) => return exit::usage(&error, io),
    };
    io.stderr_is_read |= args.files.verbosity > 0;
    command::warnings(&args).for_each(|words| io.warning(words));
    match command::Command::try_from(args).map_err(exit::Error::from).and_then(|command| commands::run(command, io)) {
        Ok(()) => Exit::Ok,
        Err(error) => exit::failure(&error, io),
    }
}
