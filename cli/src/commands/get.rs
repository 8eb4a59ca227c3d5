//! `seal get`: what SealedSecrets show without a key.

use std::path::Path;

use crate::{
    commands::{input, sealed_file::FileError},
    describe::{self, Description},
    exit::Error,
    io::Io,
    output::{self, OutputError},
    verbs::{Get, GetOutput},
};

pub fn run(command: Get, io: &mut Io<'_>) -> Result<(), Error> {
    let Get { files, output } = command;
    let files = if files.is_empty() { vec![None] } else { files.iter().map(|path| Some(path.as_path())).collect() };
    let mut all: Vec<Description> = Vec::new();
    for file in files {
        let file = file.filter(|path| *path != Path::new("-"));
        let (text, _) = io.read_text(file).map_err(FileError::Read)?;
        let found = input::sealed_secrets(&text, "SealedSecrets cannot be read").map_err(FileError::within(file))?;
        all.extend(found.iter().map(|(_, sealed)| describe::describe(sealed)));
    }
    let text = match output {
        GetOutput::Table => describe::table(&all),
        GetOutput::Json => serde_json::to_string_pretty(&all).map_err(OutputError::Json)? + "\n",
        GetOutput::Yaml => crds::yaml::to_string(&all).map_err(|error| OutputError::Yaml(error.to_string()))?,
    };
    Ok(output::write(text.as_bytes(), None, io)?)
}
