//! One verb each, `run(what was meant, io)`. A verb reads, calls `crds`, and writes once, at its end: whatever fails
//! before leaves nothing behind.

pub mod fetch_cert;
pub mod input;
pub mod merge_into;
pub mod raw;
pub mod re_encrypt;
pub mod seal;
pub mod unseal;
pub mod validate;

use crate::{
    args::Program,
    command::Command,
    exit::Error,
    io::Io,
    output::{self, OutputError},
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

fn version(program: Program, io: &mut Io<'_>) -> Result<(), OutputError> {
    let name = match program {
        Program::Seal => "seal",
        Program::Kubeseal => "kubeseal",
    };
    output::write(format!("{name} version: v{}\n", env!("CARGO_PKG_VERSION")).as_bytes(), None, io)
}
