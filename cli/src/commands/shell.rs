//! `seal completion` and `seal man`: what packages install beside the program, written by the program itself, so that
//! whoever packages it needs nothing else.

use std::fs;

use clap_complete::Shell as Writer;

use crate::{
    args,
    exit::Error,
    io::Io,
    output::{self, OutputError},
    verbs::{Completion, Man, Shell},
};

/// Around bash's completion: a program that kubectl asks with the words so far. It answers with a line for each
/// candidate, and a last one that lets the shell complete files where there is none.
const KUBECTL: [&str; 2] = [
    "#!/usr/bin/env bash\n",
    r#"
compopt() { :; }
COMP_WORDS=(seal "$@")
COMP_CWORD=$#
_seal seal "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
((${#COMPREPLY[@]})) && printf '%s\n' "${COMPREPLY[@]}"
echo :0
"#,
];

pub fn completion(command: &Completion, io: &mut Io<'_>) -> Result<(), Error> {
    let writer = match command.shell {
        Shell::Bash | Shell::Kubectl => Writer::Bash,
        Shell::Elvish => Writer::Elvish,
        Shell::Fish => Writer::Fish,
        Shell::Powershell => Writer::PowerShell,
        Shell::Zsh => Writer::Zsh,
    };
    let mut text = Vec::new();
    clap_complete::generate(writer, &mut args::command_of_seal(), "seal", &mut text);
    if command.shell == Shell::Kubectl {
        let [first, last] = KUBECTL.map(str::as_bytes);
        text = [first, &text, last].concat();
    }
    Ok(output::write(&text, None, io)?)
}

pub fn man(command: &Man) -> Result<(), Error> {
    let failed = |source| OutputError::File { path: command.folder.clone(), source };
    fs::create_dir_all(&command.folder).map_err(failed)?;
    clap_mangen::generate_to(args::command_of_seal(), &command.folder).map_err(failed)?;
    Ok(())
}
