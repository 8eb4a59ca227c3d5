//! `seal completion` and `seal man`: what packages install beside the program, written by the program itself, so that
//! whoever packages it needs nothing else.

use std::fs;

use crate::{
    args,
    exit::Error,
    io::Io,
    output::{self, OutputError},
    verbs::{Completion, Man},
};

pub fn completion(command: &Completion, io: &mut Io<'_>) -> Result<(), Error> {
    let mut text = Vec::new();
    clap_complete::generate(command.shell, &mut args::command_of_seal(), "seal", &mut text);
    Ok(output::write(&text, None, io)?)
}

pub fn man(command: &Man) -> Result<(), Error> {
    let failed = |source| OutputError::File { path: command.folder.clone(), source };
    fs::create_dir_all(&command.folder).map_err(failed)?;
    clap_mangen::generate_to(args::command_of_seal(), &command.folder).map_err(failed)?;
    Ok(())
}
