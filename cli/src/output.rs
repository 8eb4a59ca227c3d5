//! How results leave: the two formats, and files that are either whole or untouched. Knows nothing of sealing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crds::{SealedSecret, sealed_secret::SealedSecretSpec};
use kube::{Resource as _, core::ObjectMeta};
use serde::Serialize;

use crate::io::Io;

/// How documents are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Indented by two, one newline after each.
    #[default]
    Json,
    /// Each after a line of `---`.
    Yaml,
}

/// Where results go, and how.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Standard output without one.
    pub path: Option<PathBuf>,
    pub format: Format,
}

/// Why a result did not get out.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("cannot write a SealedSecret as JSON")]
    Json(#[source] serde_json::Error),
    #[error("cannot write a SealedSecret as YAML: {0}")]
    Yaml(String),
    #[error("write {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("write to standard output")]
    Stdout(#[source] io::Error),
}

/// The order of fields that kubeseal's JSON has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: &'a ObjectMeta,
    spec: &'a SealedSecretSpec,
}

/// Writes one document. A status is a cluster's business and stays out.
pub fn render(sealed: &SealedSecret, format: Format) -> Result<String, OutputError> {
    let SealedSecret { metadata, spec, status: _ } = sealed;
    let (kind, api_version) = (&*SealedSecret::kind(&()), &*SealedSecret::api_version(&()));
    let document = Document { kind, api_version, metadata, spec };
    match format {
        Format::Json => Ok(serde_json::to_string_pretty(&document).map_err(OutputError::Json)? + "\n"),
        Format::Yaml => {
            // Through a value, because kubeseal's YAML is sorted.
            let sorted = serde_json::to_value(&document).map_err(OutputError::Json)?;
            let text = crds::yaml::to_string(&sorted).map_err(|error| OutputError::Yaml(error.to_string()))?;
            Ok(format!("---\n{text}"))
        }
    }
}

/// Writes a result, all of it or nothing.
pub fn write(text: &str, path: Option<&Path>, io: &mut Io<'_>) -> Result<(), OutputError> {
    match path {
        Some(path) => replace(path, text).map_err(|source| OutputError::File { path: path.to_owned(), source }),
        None => io.stdout.write_all(text.as_bytes()).and_then(|()| io.stdout.flush()).map_err(OutputError::Stdout),
    }
}

/// Replaces a file at once. A link stays a link, permissions stay as they are, and what is no file (`/dev/stdout`, a
/// pipe) is simply written to.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let permissions = match fs::metadata(&target) {
        Ok(existing) if !existing.is_file() => return fs::write(&target, text),
        Ok(existing) => Some(existing.permissions()),
        Err(_) => None,
    };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = builder().tempfile_in(folder).map_err(without_path)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions)?;
    }
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

/// A new file may be read by whomever the umask allows: what is sealed is no secret.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".seal-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

/// The temporary name would only confuse: the error already names the file that was asked for.
fn without_path(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "no such directory"),
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), "permission denied"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_look_as_kubeseals_do() {
        let mut sealed = SealedSecret::new(
            "db",
            SealedSecretSpec { encrypted_data: [("p".to_owned(), "AgA=".to_owned())].into(), ..Default::default() },
        );
        sealed.status = Some(crds::sealed_secret::SealedSecretStatus::default());
        assert_eq!(
            render(&sealed, Format::Json).unwrap(),
            "{\n  \"kind\": \"SealedSecret\",\n  \"apiVersion\": \"bitnami.com/v1alpha1\",\n  \"metadata\": {\n    \"name\": \"db\"\n  },\n  \"spec\": {\n    \"encryptedData\": {\n      \"p\": \"AgA=\"\n    }\n  }\n}\n"
        );
        assert_eq!(
            render(&sealed, Format::Yaml).unwrap(),
            "---\napiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: db\nspec:\n  encryptedData:\n    p: AgA=\n"
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_file_is_replaced_at_once_and_stays_what_it_was() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.yaml"), folder.path().join("link.yaml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        let before = fs::metadata(&file).unwrap().ino();
        replace(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_ne!(fs::metadata(&file).unwrap().ino(), before, "renamed, not rewritten");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
        replace(Path::new("/dev/null"), "gone").unwrap();
        assert_eq!(replace(&folder.path().join("none/a.yaml"), "new").unwrap_err().to_string(), "no such directory");
    }
}
