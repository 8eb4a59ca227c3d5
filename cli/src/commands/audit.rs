//! `seal audit`: reads logs of the controller, and reports what [`crds::audit`] says about the entries in them.

use std::path::Path;

use crds::audit::{Reader, Seen};
use serde_json::json;

use crate::{
    exit::{self, Error, Exit},
    io::Io,
    output::{self, OutputError},
    verbs::{Audit, Report},
};

pub fn run(command: Audit, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Audit { files, output } = command;
    let mut reader = Reader::default();
    let (mut findings, mut unreadable) = (Vec::new(), Vec::new());
    for file in &files {
        let stdin = file == Path::new("-");
        match io.read_text(Some(file.as_path()).filter(|_| !stdin)) {
            Ok((text, _)) => {
                let faults = text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, reader.line(line).err()?)));
                findings.extend(faults.map(|(line, fault)| (file.display().to_string(), line, fault.to_string())));
            }
            Err(error) => unreadable.push(exit::chain(&error)),
        }
    }
    let text = match output {
        Report::Text => {
            let findings = findings.iter().map(|(file, line, fault)| format!("{file}:{line}: {fault}\n"));
            let chains = reader.chains.iter().map(|(id, seen)| {
                let Seen { first, last, entries, at, hash } = seen;
                let noun = if *entries == 1 { "entry" } else { "entries" };
                format!("chain {id}: {entries} {noun}, {first} to {last}; the last of {at}, {hash}\n")
            });
            findings.chain(chains).collect()
        }
        Report::Json => {
            let findings: Vec<_> = findings
                .iter()
                .map(|(file, line, fault)| json!({"file": file, "line": line, "message": fault}))
                .collect();
            let report = json!({"chains": reader.chains, "findings": findings, "unreadable": unreadable});
            serde_json::to_string_pretty(&report).map_err(OutputError::Json)? + "\n"
        }
    };
    output::write(text.as_bytes(), None, io)?;
    unreadable.iter().for_each(|error| io.error(error));
    if !unreadable.is_empty() {
        return Ok(Exit::Unreadable);
    }
    if reader.chains.is_empty() && findings.is_empty() {
        io.error("there is no entry of an audit record: is this the log of a controller, at the level INFO?");
        return Ok(Exit::Failed);
    }
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Failed })
}
