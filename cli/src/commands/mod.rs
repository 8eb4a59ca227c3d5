//! One verb each, `run(what was meant, io)`. A verb reads, calls `crds`, and writes once, at its end: whatever fails
//! before leaves nothing behind.

pub mod audit;
pub mod cert;
pub mod diff;
pub mod edit;
pub mod fetch_cert;
pub mod get;
pub mod input;
pub mod install;
pub mod keyring;
pub mod keys;
pub mod merge_into;
pub mod raw;
pub mod re_encrypt;
pub mod reseal;
pub mod seal;
pub mod sealed_file;
pub mod set;
pub mod shell;
pub mod sync;
pub mod tree;
pub mod unseal;
pub mod validate;
pub mod verify;

use crate::{
    args::Program,
    command::{self, Command},
    exit::{self, Error, Exit},
    io::Io,
    output::{self, OutputError},
    verbs::{
        self, Verb,
        keys::{Backup, Keys},
        sync::Sync,
    },
};

/// Does what was meant.
pub fn run(command: Command, io: &mut Io<'_>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    runtime.block_on(async {
        match command {
            Command::Version(program) => Ok(version(program, io)?),
            Command::FetchCert(command) => fetch_cert::run(command, io).await,
            Command::MergeInto(command) => merge_into::run(command, io).await,
            Command::ReEncrypt(command) => re_encrypt::run(command, io).await,
            Command::Raw(command) => raw::run(command, io).await,
            Command::Seal(command) => seal::run(command, io).await,
            Command::Unseal(command) => unseal::run(command, io),
            Command::Validate(command) => validate::run(command, io).await,
        }
    })
}

/// Does what a verb says.
pub fn run_verb(verb: Verb, io: &mut Io<'_>) -> Exit {
    let trouble = match verb {
        Verb::Diff(_) | Verb::Sync(Sync::Diff(_)) => Exit::Usage,
        Verb::Verify(_) | Verb::Reseal(_) | Verb::Keys(Keys::Backup(Backup { verify: true, .. })) => Exit::Unreadable,
        _ => Exit::Failed,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start);
    let done = |result: Result<(), Error>| result.map(|()| Exit::Ok);
    let outcome = runtime.and_then(|runtime| {
        runtime.block_on(async {
            match verb {
                Verb::Cert(command) => done(cert::run(command, io).await),
                Verb::Raw(command) => done(match raw_of(command) {
                    Ok(command) => raw::run(command, io).await,
                    Err(error) => Err(error),
                }),
                Verb::Get(command) => done(get::run(command, io)),
                Verb::Verify(command) => verify::run(command, io).await,
                Verb::Diff(command) => diff::run(command, io),
                Verb::Set(command) => done(set::set(command, io).await),
                Verb::Unset(command) => done(set::unset(command, io)),
                Verb::Edit(command) => done(edit::run(command, io).await),
                Verb::Unseal(command) => unseal::files(command, io),
                Verb::Reseal(command) => reseal::run(command, io).await,
                Verb::Keys(command) => keys::run(command, io).await,
                Verb::Sync(command) => sync::run(command, io).await,
                Verb::Audit(command) => audit::run(command, io),
                Verb::Install(command) => install::run(command, io).await,
                Verb::Completion(command) => done(shell::completion(&command, io)),
                Verb::Man(command) => done(shell::man(&command)),
            }
        })
    });
    outcome.unwrap_or_else(|error| match exit::failure(&error, io) {
        Exit::Failed => trouble,
        exit => exit,
    })
}

/// `seal raw` is `--raw` with fewer words.
fn raw_of(command: verbs::Raw) -> Result<command::Raw, Error> {
    let verbs::Raw { name: target, file, scope, namespace, certificate, connection } = command;
    let target = target.unwrap_or_default();
    let (within, name) = target.split_once('/').map_or((None, target.as_str()), |(own, name)| (Some(own), name));
    if name.contains('/') {
        return Err(raw::RawError::Target(target).into());
    }
    let given = namespace.filter(|namespace| !namespace.is_empty());
    let namespace = match (within, given) {
        (Some(own), Some(given)) if own != given => {
            let own = own.to_owned();
            return Err(raw::RawError::NamespaceMismatch { target, own, given }.into());
        }
        (own, given) => own.map(str::to_owned).or(given),
    };
    if name.is_empty() && scope == crds::Scope::Strict {
        return Err(raw::RawError::NoTarget.into());
    }
    let name = name.to_owned();
    let (access, certificate) = sealed_file::origin(certificate, connection)?;
    Ok(command::Raw { input: file, output: None, scope, name, namespace, access, certificate })
}

fn version(program: Program, io: &mut Io<'_>) -> Result<(), OutputError> {
    let name = match program {
        Program::Seal => "seal",
        Program::Kubeseal => "kubeseal",
    };
    output::write(format!("{name} version: v{}\n", env!("CARGO_PKG_VERSION")).as_bytes(), None, io)
}
