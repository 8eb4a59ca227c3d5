//! `seal reseal`: goes through files and folders, and has every value that is not sealed with the newest key sealed anew,
//! by the controller or with keys at hand. A file is written once, whole, when all its documents are through; whatever
//! fails stops nothing but itself.

use std::{
    collections::BTreeSet,
    fs, io as std_io,
    num::NonZero,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crds::{Certificate, KeyRing, SealedSecret};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    certificate,
    cluster::{self, Proxied},
    command,
    commands::{
        keyring,
        re_encrypt::{self, ReEncryptError},
        tree::{self, Files},
    },
    exit::{self, Error, Exit},
    io::{self, Io},
    lint::Skipped,
    manifest::Place,
    output::{self, OutputError},
    renewal,
    signals::{self, Pressed},
    text::Encoding,
    verbs::{Report, Reseal},
};

/// Why nothing is sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ResealCommandError {
    #[error("--cert names the certificate to seal with here: that takes the keys too, with --recovery-private-key")]
    NoKeys,
    #[error("none of the keys comes with its certificate: name the one to seal with, with --cert")]
    NoCertificate,
    #[error("cannot wait for an interruption")]
    Interruption(#[source] std_io::Error),
}

/// What is sealed with here.
struct Keys {
    ring: KeyRing,
    certificate: Certificate,
}

/// How files are treated.
struct Rules {
    namespace: Option<String>,
    write: bool,
    /// Paths that were named, and are not passed over without a word.
    named: BTreeSet<PathBuf>,
}

/// A SealedSecret with something stale in it.
#[derive(Serialize)]
struct Stale {
    file: String,
    document: usize,
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    items: Vec<String>,
}

/// What could not be read or sealed anew.
#[derive(Serialize)]
struct Failed {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<usize>,
    error: String,
}

/// What came of one file.
#[derive(Default)]
struct Outcome {
    seen: usize,
    stale: Vec<Stale>,
    failed: Vec<Failed>,
    skipped: Vec<Skipped>,
    /// A named file in which there is nothing to do.
    idle: Option<String>,
}

/// A file on its way.
struct Sheet<'a> {
    path: &'a Path,
    text: Zeroizing<String>,
    encoding: Encoding,
    renewed: Vec<(Place, SealedSecret)>,
    outcome: Outcome,
}

pub async fn run(command: Reseal, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Reseal { paths, recovery, namespace, dry_run, check, output, certificate, connection } = command;
    let rules = Rules { namespace, write: !dry_run && !check, named: paths.iter().cloned().collect() };
    let Files { files, unreadable } = tree::find(paths);
    // Two ways to one file are one file: it is written by one.
    let mut seen = BTreeSet::new();
    let files: Vec<_> =
        files.into_iter().filter(|file| seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.clone()))).collect();

    let (mut outcomes, whole) = if recovery.recovery_private_key.is_empty() {
        if !certificate.cert.is_empty() {
            return Err(ResealCommandError::NoKeys.into());
        }
        let cluster = cluster::connect(&command::access(connection)?).await?;
        let controller = cluster.controller(&command::controller(&certificate)).await?;
        by_controller(&files, &rules, &controller, io).await?
    } else {
        let ring = keyring::ring(recovery, io)?;
        let certificate = match certificate.cert.as_slice() {
            [] => newest(&ring)?,
            _ => {
                certificate::fetch(&command::origin(certificate, command::access(connection)?)?, io).await?.certificate
            }
        };
        certificate::check_valid(&certificate, io.now)?;
        here(files, rules, Keys { ring, certificate }, io).await?
    };
    let bare = |error| Failed { file: String::new(), document: None, error };
    outcomes.push(Outcome { failed: unreadable.into_iter().map(bare).collect(), ..Outcome::default() });
    report(&outcomes, &Told { output, written: !dry_run && !check, whole }, io)?;
    let unknown = outcomes.iter().any(|outcome| !outcome.failed.is_empty() || (check && !outcome.skipped.is_empty()));
    Ok(if !whole || unknown {
        Exit::Unreadable
    } else if check && outcomes.iter().any(|outcome| !outcome.stale.is_empty()) {
        Exit::Failed
    } else {
        Exit::Ok
    })
}

fn newest(ring: &KeyRing) -> Result<Certificate, ResealCommandError> {
    let certificate = ring.keys().iter().find_map(|key| key.certificate.as_deref());
    certificate.cloned().ok_or(ResealCommandError::NoCertificate)
}

/// One file after the other: a controller does one thing at a time. Also answers whether it came to the end.
async fn by_controller(
    files: &[PathBuf],
    rules: &Rules,
    controller: &Proxied<'_>,
    io: &Io<'_>,
) -> Result<(Vec<Outcome>, bool), Error> {
    let (bar, mut outcomes) = (io.progress(files.len()), Vec::new());
    let mut end = pin!(signals::end(Pressed::Ours).map_err(ResealCommandError::Interruption)?);
    for file in files {
        let done = async {
            let (mut sheet, found) = match Sheet::read(file, rules) {
                Ok(read) => read,
                Err(outcome) => return outcome,
            };
            for (place, sealed) in found {
                let renewed = ask(controller, &place, &sealed).await;
                sheet.take(place, &sealed, renewed);
            }
            sheet.finish(rules)
        };
        // Nothing is awaited between the last answer and the end of the writing: a file is done or it is not begun.
        tokio::select! {
            outcome = done => outcomes.push(outcome),
            () = &mut end => break,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let whole = outcomes.len() == files.len();
    Ok((outcomes, whole))
}

async fn ask(controller: &Proxied<'_>, place: &Place, sealed: &SealedSecret) -> Result<SealedSecret, Error> {
    let answer = controller.rotate(&re_encrypt::request(sealed)?).await?;
    let mut renewed = sealed.clone();
    re_encrypt::renew(&mut renewed, &answer)
        .map_err(|source| ReEncryptError::Answer { place: place.clone(), source })?;
    Ok(renewed)
}

/// As many files at once as there are processors; RSA is all that takes time here.
async fn here(
    files: Vec<PathBuf>,
    rules: Rules,
    keys: Keys,
    io: &Io<'_>,
) -> Result<(Vec<Outcome>, bool), ResealCommandError> {
    let (bar, total) = (io.progress(files.len()), files.len());
    let job = Arc::new((files, rules, keys, AtomicUsize::new(0), AtomicBool::new(false)));
    let (done, mut outcomes) = mpsc::unbounded_channel();
    for _ in 0..thread::available_parallelism().map_or(1, NonZero::get).min(total) {
        let (job, done) = (Arc::clone(&job), done.clone());
        thread::spawn(move || {
            let (files, rules, keys, next, stopped) = &*job;
            while !stopped.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(index) else { break };
                // Whoever would take it is gone only when this process is.
                let _ = done.send((index, one(file, rules, keys)));
            }
        });
    }
    drop(done);
    let mut finished = Vec::with_capacity(total);
    let mut end = pin!(signals::end(Pressed::Ours).map_err(ResealCommandError::Interruption)?);
    loop {
        tokio::select! {
            outcome = outcomes.recv() => match outcome {
                Some(outcome) => finished.push(outcome),
                None => break,
            },
            () = &mut end, if !job.4.load(Ordering::Relaxed) => job.4.store(true, Ordering::Relaxed),
        }
        bar.set_position(finished.len() as u64);
    }
    bar.finish_and_clear();
    finished.sort_by_key(|(index, _)| *index);
    let whole = finished.len() == total;
    Ok((finished.into_iter().map(|(_, outcome)| outcome).collect(), whole))
}

fn one(path: &Path, rules: &Rules, Keys { ring, certificate }: &Keys) -> Outcome {
    let (mut sheet, found) = match Sheet::read(path, rules) {
        Ok(read) => read,
        Err(outcome) => return outcome,
    };
    for (place, sealed) in found {
        let renewed = renewal::renew(&sealed, ring, certificate, &mut rand::rng());
        sheet.take(place, &sealed, renewed);
    }
    sheet.finish(rules)
}

impl<'a> Sheet<'a> {
    fn read(path: &'a Path, rules: &Rules) -> Result<(Self, Vec<(Place, SealedSecret)>), Outcome> {
        let (text, encoding) = match io::read_text_file(path) {
            Ok(read) => read,
            // The error names the file itself.
            Err(error) => {
                let error = exit::chain(&error);
                let failed = vec![Failed { file: String::new(), document: None, error }];
                return Err(Outcome { failed, ..Outcome::default() });
            }
        };
        let renewal::Found { sealed, wrong, passed } = renewal::found(&text, rules.namespace.as_deref());
        let file = path.display().to_string();
        let skipped = passed.into_iter().map(|(place, values)| Skipped::new(&file, place, values)).collect::<Vec<_>>();
        let is_idle = sealed.is_empty() && wrong.is_empty() && skipped.is_empty() && rules.named.contains(path);
        let idle = is_idle.then_some(file);
        let outcome = Outcome { seen: sealed.len(), skipped, idle, ..Outcome::default() };
        let mut sheet = Self { path, text, encoding, renewed: Vec::new(), outcome };
        wrong.into_iter().for_each(|(place, why)| sheet.fail(Some(&place), &why));
        Ok((sheet, sealed))
    }

    /// What came of one SealedSecret.
    fn take<E: std::error::Error + 'static>(
        &mut self,
        place: Place,
        before: &SealedSecret,
        renewed: Result<SealedSecret, E>,
    ) {
        let renewed = match renewed {
            Ok(renewed) => renewed,
            Err(error) => return self.fail(Some(&place), &exit::chain(&error)),
        };
        let items = renewal::stale(before, &renewed);
        if !items.is_empty() {
            let Place { document, line, name, .. } = place.clone();
            self.outcome.stale.push(Stale { file: self.file(), document, line, object: name, items });
            self.renewed.push((place, renewed));
        }
    }

    /// Writes the file when there is something new; not when somebody else has meanwhile.
    fn finish(mut self, rules: &Rules) -> Outcome {
        if self.renewed.is_empty() {
            return self.outcome;
        }
        let why = match renewal::in_place(&self.text, &self.renewed) {
            Err(error) => exit::chain(&error),
            Ok(_) if !rules.write => return self.outcome,
            Ok(edited) => match output::write_back(&self.text, &edited, self.encoding, self.path) {
                Ok(()) => return self.outcome,
                Err(error) => exit::chain(&error),
            },
        };
        self.outcome.stale.clear();
        self.fail(None, &why);
        self.outcome
    }

    fn fail(&mut self, place: Option<&Place>, why: &str) {
        let error = place.map_or_else(|| why.to_owned(), |place| format!("{place}: {why}"));
        let document = place.map(|place| place.document);
        self.outcome.failed.push(Failed { file: self.file(), document, error });
    }

    fn file(&self) -> String {
        self.path.display().to_string()
    }
}

struct Told {
    output: Report,
    written: bool,
    whole: bool,
}

fn report(outcomes: &[Outcome], told: &Told, io: &mut Io<'_>) -> Result<(), OutputError> {
    let Told { output, written, whole } = *told;
    let stale: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.stale).collect();
    let failed: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.failed).collect();
    let skipped: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.skipped).collect();
    let seen: usize = outcomes.iter().map(|outcome| outcome.seen).sum();
    let text = match output {
        Report::Text => {
            let done = if written { "sealed anew" } else { "sealed with an older key" };
            let line = |it: &&Stale| {
                let object = it.object.as_deref().map(|object| format!("{object}: ")).unwrap_or_default();
                format!("{}:{}: {object}{} {done}\n", it.file, it.line, it.items.join(", "))
            };
            stale.iter().map(line).collect()
        }
        Report::Json => {
            let report = json!({
                "sealedSecrets": seen, "stale": stale, "written": written, "failed": failed, "skipped": skipped,
                "interrupted": !whole,
            });
            serde_json::to_string_pretty(&report).map_err(OutputError::Json)? + "\n"
        }
    };
    output::write(text.as_bytes(), None, io)?;
    skipped.iter().for_each(|it| io.warning(&it.to_string()));
    if !skipped.is_empty() {
        io.hint(
            "What a chart makes is not seen here: seal keys list counts what the cluster still needs an old key for",
        );
    }
    for file in outcomes.iter().filter_map(|outcome| outcome.idle.as_ref()) {
        io.warning(&format!("{file}: there is no SealedSecret in it, or none that can be read"));
    }
    for Failed { file, error, .. } in &failed {
        io.error(&if file.is_empty() { error.clone() } else { format!("{file}: {error}") });
    }
    if !whole {
        io.error("interrupted: every file is whole, and the same command goes on where this ended");
    }
    io.remark(&format!("{seen} SealedSecrets: {} with something stale, {} errors", stale.len(), failed.len()));
    Ok(())
}
