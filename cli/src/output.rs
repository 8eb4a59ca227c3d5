//! How results leave: the two formats, and files that are either whole or untouched. Knows nothing of sealing.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crds::{SealedSecret, guard, sealed_secret::SealedSecretSpec, unseal::ClearSecret};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Resource as _;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{
    io::{Io, read_text_file},
    text::{self, Encoding},
};

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
struct Document<'a, B> {
    kind: &'a str,
    api_version: &'a str,
    metadata: InOrder,
    #[serde(flatten)]
    body: B,
}

#[derive(Serialize)]
struct SealedBody {
    spec: SealedSpec,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SealedSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<InOrder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    encrypted_data: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct ClearBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
    data: Option<&'a BTreeMap<String, ByteString>>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    type_: Option<&'a str>,
}

/// Fields as Go writes those of an object's metadata and of a template: the known ones in this order, others after.
struct InOrder(Map<String, Value>);

const FIELDS: [&str; 12] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "metadata",
    "type",
    "immutable",
    "data",
    "apiVersion",
    "kind",
];

impl Serialize for InOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rank = |key: &str| FIELDS.iter().position(|known| *known == key).unwrap_or(FIELDS.len());
        let mut fields: Vec<_> = self.0.iter().collect();
        fields.sort_by_key(|(key, _)| rank(key));
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("metadata", Value::Object(inner)) => map.serialize_entry(key, &InOrder(inner.clone()))?,
                _ => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

fn in_order(value: &impl Serialize) -> Result<InOrder, OutputError> {
    match serde_json::to_value(value).map_err(OutputError::Json)? {
        Value::Object(fields) => Ok(InOrder(fields)),
        _ => Ok(InOrder(Map::new())),
    }
}

/// Writes one SealedSecret. A status is a cluster's business and stays out.
pub fn render(sealed: &SealedSecret, format: Format) -> Result<String, OutputError> {
    let SealedSecret { metadata, spec, status: _ } = sealed;
    let SealedSecretSpec { template, data, encrypted_data } = spec;
    let template = template.as_ref().map(in_order).transpose()?;
    let spec = SealedSpec { template, data: data.clone(), encrypted_data: encrypted_data.clone() };
    let (kind, api_version) = (&*SealedSecret::kind(&()), &*SealedSecret::api_version(&()));
    document(&Document { kind, api_version, metadata: in_order(metadata)?, body: SealedBody { spec } }, format)
}

/// Writes one Secret in the clear.
pub fn render_secret(secret: &ClearSecret, format: Format) -> Result<Zeroizing<String>, OutputError> {
    let Secret { metadata, data, string_data: _, type_, immutable } = secret.expose();
    let body = ClearBody { immutable: *immutable, data: data.as_ref(), type_: type_.as_deref() };
    let text = document(&Document { kind: "Secret", api_version: "v1", metadata: in_order(metadata)?, body }, format)?;
    Ok(Zeroizing::new(text))
}

fn document(document: &impl Serialize, format: Format) -> Result<String, OutputError> {
    match format {
        Format::Json => Ok(serde_json::to_string_pretty(document).map_err(OutputError::Json)? + "\n"),
        Format::Yaml => {
            // Through a value, because kubeseal's YAML is sorted.
            let sorted = serde_json::to_value(document).map_err(OutputError::Json)?;
            let text = crds::yaml::to_string(&sorted).map_err(|error| OutputError::Yaml(error.to_string()))?;
            Ok(format!("---\n{text}"))
        }
    }
}

/// Writes a result, all of it or nothing.
pub fn write(text: &[u8], path: Option<&Path>, io: &mut Io<'_>) -> Result<(), OutputError> {
    put(text, path, PUBLIC, io)
}

/// As [`write`], but a new file is for its owner only: what it holds is not sealed.
pub fn write_private(text: &[u8], path: Option<&Path>, io: &mut Io<'_>) -> Result<(), OutputError> {
    put(text, path, PRIVATE, io)
}

/// Writes a file that was read as `before`, unless it is another one by now: what somebody did to it meanwhile is not
/// undone. Needs no [`Io`], so that work beside it can use it.
pub fn write_back(before: &str, after: &str, encoding: Encoding, path: &Path) -> Result<(), OutputError> {
    guard::wipe();
    // What is no file (a pipe) was read for good.
    let stream = fs::metadata(path).is_ok_and(|found| !found.is_file());
    let outcome = if stream || read_text_file(path).is_ok_and(|(text, now)| *text == before && now == encoding) {
        replace(path, &text::encode(after, encoding), PUBLIC)
    } else {
        Err(io::Error::other("it was changed by somebody else meanwhile, and stays as they left it: run this again"))
    };
    outcome.map_err(|source| OutputError::File { path: path.to_owned(), source })
}

/// Makes a file for its owner only, in folders that are made for its owner only. One that is there stays as it is.
pub fn write_new_private(text: &[u8], path: &Path) -> Result<(), OutputError> {
    create(path, text).map_err(|source| OutputError::File { path: path.to_owned(), source })
}

fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let taken = || io::Error::new(io::ErrorKind::AlreadyExists, "it is there already, and is not overwritten");
    if fs::symlink_metadata(path).is_ok() {
        return Err(taken());
    }
    let folder = folder(path);
    let mut folders = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
    folders.recursive(true).create(folder)?;
    let mut file = builder(PRIVATE).tempfile_in(folder).map_err(|error| without_path(error, folder))?;
    io::Write::write_all(&mut file, text)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => taken(),
        _ => error.error,
    })?;
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn put(text: &[u8], path: Option<&Path>, mode: u32, io: &mut Io<'_>) -> Result<(), OutputError> {
    // Whoever reads it may take long, and nothing else of the work is to stay meanwhile.
    guard::wipe();
    match path.filter(|path| *path != Path::new("/dev/stdout")) {
        Some(path) => replace(path, text, mode).map_err(|source| OutputError::File { path: path.to_owned(), source }),
        None => io.stdout.write_all(text).and_then(|()| io.stdout.flush()).map_err(OutputError::Stdout),
    }
}

/// Replaces a file at once, if it may be written. A link stays a link, permissions stay as they are, and what is no file
/// (`/dev/stdout`, a pipe) is simply written to.
fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let existing = match fs::metadata(path) {
        Ok(existing) if !existing.is_file() => return fs::write(path, text),
        Ok(existing) => {
            // To rename over it takes no more than the folder's permission.
            fs::OpenOptions::new().write(true).open(path)?;
            Some(existing)
        }
        Err(_) => None,
    };
    let target = target(path)?;
    let mut file = builder(mode).tempfile_in(folder(&target)).map_err(|error| without_path(error, folder(&target)))?;
    io::Write::write_all(&mut file, text)?;
    if let Some(existing) = existing {
        keep_owner(file.as_file(), &existing)?;
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

/// Whose file it was, it stays, where that is allowed: root may, and others may choose among their groups.
#[cfg(unix)]
fn keep_owner(file: &fs::File, existing: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let made = file.metadata()?;
    let differs = |now: u32, before: u32| (now != before).then_some(before);
    for (owner, group) in [(None, differs(made.gid(), existing.gid())), (differs(made.uid(), existing.uid()), None)] {
        match fchown(file, owner, group) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as elsewhere, where it can fail")]
fn keep_owner(_: &fs::File, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

/// Where a path leads, also if that is not there yet.
fn target(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), fs::read_link(path)) {
        (Err(error), Ok(next)) if error.kind() == io::ErrorKind::NotFound => target(&folder(path).join(next)),
        (Err(error), Err(_)) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        (found, _) => found,
    }
}

/// A new file may be read by whomever the umask allows: what is sealed is no secret.
const PUBLIC: u32 = 0o666;
/// For what is.
const PRIVATE: u32 = 0o600;

fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".seal-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    builder
}

/// The temporary name would only confuse: the error already names the file that was asked for, but not whose folder it
/// takes.
fn without_path(error: io::Error, folder: &Path) -> io::Error {
    let folder = folder.display();
    let denied = || format!("permission denied: no file may be made in {folder}, to take the old one's place");
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "no such directory"),
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), denied()),
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
        replace(&link, b"new", PUBLIC).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_ne!(fs::metadata(&file).unwrap().ino(), before, "renamed, not rewritten");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
        replace(Path::new("/dev/null"), b"gone", PUBLIC).unwrap();
        assert_eq!(
            replace(&folder.path().join("none/a.yaml"), b"new", PUBLIC).unwrap_err().to_string(),
            "no such directory"
        );
        let (first, last) = (folder.path().join("first.yaml"), folder.path().join("last.yaml"));
        symlink("second.yaml", &first).unwrap();
        symlink("./last.yaml", folder.path().join("second.yaml")).unwrap();
        replace(&first, b"new", PUBLIC).unwrap();
        assert!(fs::symlink_metadata(&first).unwrap().is_symlink(), "it stays one, also when it leads nowhere yet");
        assert_eq!(fs::read_to_string(&last).unwrap(), "new");
        fs::remove_file(&last).unwrap();
        symlink("first.yaml", &last).unwrap();
        replace(&first, b"new", PUBLIC).unwrap_err();
    }

    #[test]
    #[cfg(unix)]
    fn a_file_stays_whose_it_was_where_that_is_allowed() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root may; whoever else changes a file keeps it as it is.
        let given = chown(&file, Some(4321), Some(4322)).is_ok();
        replace(&file, b"new", PUBLIC).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert_eq!((after.uid(), after.gid()) == (4321, 4322), given);
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), after.mode() & 0o777), ("new", 0o640));
    }

    #[test]
    fn a_folder_that_is_in_the_way_is_named() {
        let told = |kind| without_path(io::Error::new(kind, "/ro/.seal-x"), Path::new("ro")).to_string();
        let denied = "permission denied: no file may be made in ro, ";
        assert!(told(io::ErrorKind::PermissionDenied).starts_with(denied));
        assert_eq!(told(io::ErrorKind::NotFound), "no such directory");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_may_not_be_written_is_not_replaced() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        // A program that runs can be written by nobody, the superuser included.
        let program = std::env::current_exe().unwrap();
        let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let busy = folder.path().join("busy");
        fs::hard_link(&program, &busy).unwrap();
        let before = fs::metadata(&busy).unwrap().ino();
        assert_eq!(replace(&busy, b"new", PUBLIC).unwrap_err().kind(), io::ErrorKind::ExecutableFileBusy);
        assert_eq!(fs::metadata(&busy).unwrap().ino(), before);

        let file = folder.path().join("a.yaml");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        let may = fs::OpenOptions::new().write(true).open(&file).is_ok();
        assert_eq!(replace(&file, b"new", PUBLIC).is_ok(), may);
        assert_eq!(fs::read_to_string(&file).unwrap(), if may { "new" } else { "old" });
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o444);
    }
}
