//! `seal diff`: what differs between two versions of a file. Ends as diff(1) does.

use std::path::Path;

use crds::{KeyRing, SealedSecret};

use crate::{
    commands::{input, keyring, sealed_file::FileError},
    difference,
    exit::{Error, Exit},
    io::Io,
    output::{self, OutputError},
    verbs::{Diff, Report},
};

pub fn run(command: Diff, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Diff { files, recovery, output } = command;
    let keys: KeyRing = keyring::ring(recovery, io)?;
    let (before, after) = match files.as_slice() {
        [before, after] => (read(Some(before), io)?, read(Some(after), io)?),
        one => (read(None, io)?, read(one.first().map(AsRef::as_ref), io)?),
    };
    let found = difference::differences(&before, &after, &keys);
    let text = match output {
        Report::Text => found.iter().map(|difference| difference.to_string() + "\n").collect(),
        Report::Json => serde_json::to_string_pretty(&found).map_err(OutputError::Json)? + "\n",
    };
    output::write(text.as_bytes(), None, io)?;
    Ok(if found.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// A version without any SealedSecret is one: before the first, or after the last.
fn read(path: Option<&Path>, io: &mut Io<'_>) -> Result<Vec<SealedSecret>, Error> {
    let path = path.filter(|path| *path != Path::new("-"));
    let (text, _) = io.read_text(path).map_err(FileError::Read)?;
    if crds::yaml::documents(&text).is_empty() {
        return Ok(Vec::new());
    }
    let found = input::sealed_secrets(&text, "SealedSecrets cannot be compared").map_err(FileError::within(path))?;
    Ok(found.into_iter().map(|(_, sealed)| sealed).collect())
}
