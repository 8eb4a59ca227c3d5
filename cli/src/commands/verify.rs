//! `seal verify`: finds the files, and reports what [`crate::lint`] says about each.

use std::{
    fs, io as std_io,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    certificate::{self, Origin},
    command::CommandError,
    commands::unseal,
    exit::{self, Error, Exit},
    io::Io,
    key_file,
    lint::{Linter, Rules},
    output::{self, OutputError},
    verbs::{Report, Verify},
};

/// Why a folder cannot be searched.
#[derive(Debug, thiserror::Error)]
#[error("open {}", path.display())]
struct FolderError {
    path: PathBuf,
    source: std_io::Error,
}

pub async fn run(command: Verify, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Verify { paths, cert, recovery_private_key, allow_plain, output } = command;
    let mut certificates = Vec::new();
    for cert in cert {
        let origin = Origin::parse(&cert).map_err(CommandError::from)?;
        certificates.push(certificate::fetch(&origin, io).await?.certificate);
    }
    let keys = key_file::ring(unseal::private_keys(recovery_private_key, io)?);
    let rules = Rules { certificates, keys, allow_plain };

    let (mut files, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        find(path, true, &mut files, &mut unreadable);
    }
    let mut linter = Linter::new(&rules);
    for file in &files {
        let stdin = file == Path::new("-");
        match io.read_text(Some(file.as_path()).filter(|_| !stdin)) {
            Ok((text, _)) => linter.file(&file.display().to_string(), &text),
            Err(error) => unreadable.push(exit::chain(&error)),
        }
    }

    let Linter { mut findings, checked, .. } = linter;
    findings.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
    let text = match output {
        Report::Text => findings.iter().map(|finding| finding.to_string() + "\n").collect(),
        Report::Json => {
            let report = json!({"checked": checked, "findings": findings, "unreadable": unreadable});
            serde_json::to_string_pretty(&report).map_err(OutputError::Json)? + "\n"
        }
    };
    output::write(text.as_bytes(), None, io)?;
    unreadable.iter().for_each(|error| io.error(error));
    let (s, found) = (if checked == 1 { "" } else { "s" }, findings.len());
    io.remark(&format!("{checked} SealedSecret{s} in {} files: {found} found wrong", files.len()));
    Ok(match (unreadable.is_empty(), findings.is_empty()) {
        (false, _) => Exit::Unreadable,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Ok,
    })
}

/// The files to read. What is hidden, and what a link leads to, is left out unless it was named itself.
fn find(path: PathBuf, named: bool, files: &mut Vec<PathBuf>, unreadable: &mut Vec<String>) {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    if path == Path::new("-") && named {
        return files.push(path);
    }
    let metadata = if named { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
    let failed = |source| exit::chain(&FolderError { path: path.clone(), source });
    match metadata {
        Err(source) => unreadable.push(failed(source)),
        Ok(_) if hidden && !named => {}
        Ok(metadata) if metadata.is_dir() => {
            let entries = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            match entries {
                Ok(entries) => {
                    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
                    paths.sort();
                    paths.into_iter().for_each(|path| find(path, false, files, unreadable));
                }
                Err(source) => unreadable.push(failed(source)),
            }
        }
        Ok(metadata) => {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if named || metadata.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
                files.push(path);
            }
        }
    }
}
