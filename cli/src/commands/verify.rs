//! `seal verify`: finds the files, and reports what [`crate::lint`] says about each.

use std::path::Path;

use serde_json::json;

use crate::{
    certificate::{self, Origin},
    command::CommandError,
    commands::{
        keyring,
        tree::{self, Files},
    },
    exit::{self, Error, Exit},
    io::Io,
    lint::{Linter, Rule, Rules},
    output::{self, OutputError},
    verbs::{Report, Verify},
};

pub async fn run(command: Verify, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Verify { paths, cert, recovery, mut allow, allow_plain, output } = command;
    let mut certificates = Vec::new();
    for cert in cert {
        let origin = Origin::parse(&cert).map_err(CommandError::from)?;
        certificates.push(certificate::fetch(&origin, io).await?.certificate);
    }
    let keys = keyring::ring(recovery, io)?;
    allow.extend(allow_plain.then_some(Rule::Plain));
    let rules = Rules { certificates, keys, allowed: allow };

    let named = paths.clone();
    let Files { files, mut unreadable } = tree::find(paths);
    let mut linter = Linter::new(&rules);
    for file in &files {
        let stdin = file == Path::new("-");
        match io.read_text(Some(file.as_path()).filter(|_| !stdin)) {
            Ok((text, _)) => linter.file(&file.display().to_string(), &text, named.contains(file)),
            Err(error) => unreadable.push(exit::chain(&error)),
        }
    }

    let Linter { mut findings, checked, skipped, .. } = linter;
    findings.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
    let text = match output {
        Report::Text => findings.iter().map(|finding| finding.to_string() + "\n").collect(),
        Report::Json => {
            let report =
                json!({"checked": checked, "findings": findings, "skipped": skipped, "unreadable": unreadable});
            serde_json::to_string_pretty(&report).map_err(OutputError::Json)? + "\n"
        }
    };
    output::write(text.as_bytes(), None, io)?;
    skipped.iter().for_each(|it| io.warning(&it.to_string()));
    unreadable.iter().for_each(|error| io.error(error));
    let (s, read, found) = (if checked == 1 { "" } else { "s" }, files.len(), findings.len());
    if checked == 0 && findings.is_empty() && unreadable.is_empty() {
        let place = match &named[..] {
            [one] => one.display().to_string(),
            several => format!("{} places", several.len()),
        };
        io.warning(&format!("there is no SealedSecret in {place} (files read: {read})"));
    } else {
        io.remark(&format!("{checked} SealedSecret{s} in {read} files: {found} found wrong"));
    }
    Ok(match (unreadable.is_empty(), findings.is_empty()) {
        (false, _) => Exit::Unreadable,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Ok,
    })
}
