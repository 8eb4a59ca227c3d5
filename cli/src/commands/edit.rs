//! `seal edit`: a view of the file in an editor, and what was changed there sealed. What stands in the clear lives in a
//! file that only its owner can read, in a folder of its own, in memory where the system has such a place; it is
//! overwritten and removed however the edit ends, by a signal too.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use crds::recipients;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::{
    certificate::{self, Certificates, Origins},
    commands::{
        raw::RawError,
        sealed_file::{self, SealedFile},
    },
    exit::{self, Error},
    io::Io,
    signals::{self, Pressed},
    verbs::Edit,
    view::{self, Becomes, Items, ViewError, Wanted},
};

/// Why nothing was edited. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("cannot write the view of {}: {problem}", path.display())]
    View { path: PathBuf, problem: String },
    #[error("cannot keep the view in a private folder")]
    Folder(#[source] io::Error),
    #[error("cannot start the editor {editor:?}")]
    Start { editor: String, source: io::Error },
    #[error("the editor {editor:?} failed ({status}), so nothing was changed")]
    Editor { editor: String, status: ExitStatus },
    #[error("cannot wait for an interruption")]
    Signals(#[source] io::Error),
    #[error("interrupted, so nothing was changed")]
    Interrupted,
    #[error("nothing was changed, because what was written cannot be used")]
    Unusable(#[source] ViewError),
}

pub async fn run(command: Edit, io: &mut Io<'_>) -> Result<(), Error> {
    let Edit { file, which, sight, certificate, connection } = command;
    let (access, origins) = sealed_file::origins(certificate, connection)?;
    let file = SealedFile::read(&file, which, io)?;
    file.destination()?;
    let sight = file.sight(sight, &access, io).await?;
    let names = file.sealed.spec.encrypted_data.keys();
    let items: Items = names.map(|item| (item.clone(), sight.value(&file.sealed, item))).collect();
    let mut draft = Draft::new(&file, &items)?;
    loop {
        let end = signals::end(Pressed::Theirs).map_err(EditError::Signals)?;
        let wanted = tokio::select! {
            wanted = draft.next(io) => wanted?,
            () = end => return Err(EditError::Interrupted.into()),
        };
        let Some(wanted) = wanted else {
            io.remark(&format!("nothing was changed: {} stays as it is", file.path().display()));
            return Ok(());
        };
        let end = signals::end(Pressed::Ours).map_err(EditError::Signals)?;
        let done = tokio::select! {
            done = apply(wanted, &file, &items, &origins, io) => done,
            () = end => return Err(EditError::Interrupted.into()),
        };
        match done {
            // What somebody has typed is not to be typed again because the cluster is away.
            Err(error) if io.stdin_is_terminal => draft.refuse(&exit::chain(&error), error, io)?,
            done => return done,
        }
    }
}

/// Seals what is new, and writes the file.
async fn apply(
    wanted: Wanted,
    file: &SealedFile,
    items: &Items,
    origins: &Origins,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let (scope, namespace, name) = file.destination()?;
    let mut object = file.object()?;
    let is_new = |(item, becomes): (&'_ String, &_)| matches!(becomes, Becomes::Value(_)).then(|| item.clone());
    let news: Vec<String> = wanted.items.iter().filter_map(is_new).collect();
    let certificates = if news.is_empty() { None } else { Some(certificate::fetch_all(origins, io).await?) };
    if let Some(certificates) = &certificates {
        sealed_file::tell_left_out(&file.sealed, &news, certificates, io);
    }
    for item in items.keys().filter(|item| !wanted.items.contains_key(*item)) {
        file.put(&mut object, item, None)?;
    }
    for (item, becomes) in wanted.items {
        if let (Becomes::Value(value), Some(Certificates { first, others })) = (becomes, &certificates) {
            let label = scope.label(&namespace, &name);
            let sealed = recipients::seal(value.expose(), &label, first, others, &mut rand::rng());
            file.put(&mut object, &item, Some(sealed.map_err(RawError::Seal)?))?;
        }
    }
    let before = file.sealed.spec.template.as_ref().map(serde_json::to_value).and_then(Result::ok);
    if wanted.template != before {
        let spec = file.mapping(&mut object, &["spec"])?;
        match wanted.template {
            Some(template) => drop(spec.insert("template".to_owned(), template)),
            None => drop(spec.remove("template")),
        }
    }
    if !file.write(object)? {
        io.remark(&format!("nothing was changed: {} stays as it is", file.path().display()));
    }
    Ok(())
}

/// What somebody writes. It is lost neither to a mistake in it nor to what comes after.
struct Draft<'a> {
    items: &'a Items,
    desk: Desk,
    first: Zeroizing<String>,
    /// With what is wrong with it on top.
    offered: Zeroizing<String>,
    edited: Zeroizing<String>,
    /// Why it was offered again.
    refused: Option<Error>,
}

impl<'a> Draft<'a> {
    fn new(file: &SealedFile, items: &'a Items) -> Result<Self, EditError> {
        let hidden = items.values().any(Option::is_none);
        let mut head = format!(
            "{} in {}\n\nLeave an item out to remove it; write a value to seal it. What you leave as it is stays as it is.",
            file.sealed.metadata.name.as_deref().unwrap_or_default(),
            file.path().display()
        );
        if hidden {
            head = format!("{head}\n{} stands for a value that cannot be seen here.", view::SEALED);
        }
        let failed = |problem| EditError::View { path: file.path().to_owned(), problem };
        let first = view::write(&file.sealed, items, &head).map_err(failed)?;
        let desk = Desk::new().map_err(EditError::Folder)?;
        Ok(Self { items, desk, offered: first.clone(), first, edited: Zeroizing::default(), refused: None })
    }

    /// Lets somebody edit until it can be read; `None` when nothing was written. Whoever leaves what was refused as it
    /// was offered gives up.
    async fn next(&mut self, io: &mut Io<'_>) -> Result<Option<Wanted>, Error> {
        loop {
            self.edited = self.desk.edit(&self.offered).await?;
            if self.edited == self.first || self.edited.trim().is_empty() {
                return Ok(None);
            }
            if let Some(error) = self.refused.take_if(|_| self.edited == self.offered) {
                return Err(error);
            }
            match view::read(&self.edited, self.items) {
                Ok(wanted) => return Ok(Some(wanted)),
                Err(error) => self.refuse(&exit::chain(&error), EditError::Unusable(error).into(), io)?,
            }
        }
    }

    /// Offers what was written once more. Who edits without a terminal is a program, which gets one second chance, since
    /// it may be wrong for ever.
    fn refuse(&mut self, why: &str, error: Error, io: &mut Io<'_>) -> Result<(), Error> {
        let lines = self.edited.split_inclusive('\n').filter(|line| !line.starts_with('#'));
        let body = Zeroizing::new(lines.collect::<String>());
        let head = why.lines().collect::<Vec<_>>().join("\n# ERROR: ");
        let again =
            Zeroizing::new(format!("# ERROR: {head}\n# Write it right, or leave it as it is to give up.\n{}", *body));
        if again == self.offered || (self.refused.is_some() && !io.stdin_is_terminal) {
            return Err(error);
        }
        io.warning(why);
        (self.offered, self.refused) = (again, Some(error));
        Ok(())
    }
}

/// A private folder with the view in it.
struct Desk {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Desk {
    fn new() -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("seal-edit-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(fs::Permissions::from_mode(0o700));
        }
        let in_memory = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let folder = match in_memory.map(|path| builder.tempdir_in(path)) {
            Some(Ok(folder)) => folder,
            _ => builder.tempdir()?,
        };
        let file = folder.path().join("secret.yaml");
        Ok(Self { folder, file })
    }

    /// One round in the editor.
    async fn edit(&self, text: &str) -> Result<Zeroizing<String>, EditError> {
        self.put(text).map_err(EditError::Folder)?;
        let named = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| env::var(name).ok());
        let editor = named.into_iter().find(|editor| !editor.trim().is_empty());
        let editor = editor.unwrap_or_else(|| if cfg!(windows) { "notepad" } else { "vi" }.to_owned());
        let status = start(&editor, &self.file).await;
        let status = status.map_err(|source| EditError::Start { editor: editor.clone(), source })?;
        if !status.success() {
            return Err(EditError::Editor { editor, status });
        }
        fs::read_to_string(&self.file).map(Zeroizing::new).map_err(EditError::Folder)
    }

    fn put(&self, text: &str) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&self.file)?.write_all(text.as_bytes())
    }
}

/// Editors leave copies beside the file (`secret.yaml~`): all of the folder is overwritten.
impl Drop for Desk {
    fn drop(&mut self) {
        let entries = fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            // The folder goes anyway; that it was overwritten first is more than most file systems promise.
            let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
            let _ = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(&zeros));
        }
    }
}

/// As Git and kubectl do it: `$EDITOR` may hold words for the shell.
async fn start(editor: &str, file: &Path) -> io::Result<ExitStatus> {
    if cfg!(windows) {
        return Command::new("cmd").arg("/C").arg(editor).arg(file).status().await;
    }
    Command::new("sh").arg("-c").arg(format!("{editor} \"$@\"")).arg(editor).arg(file).status().await
}
