//! `--recovery-unseal` and `seal unseal`: open SealedSecrets with private keys from files, when there is no controller
//! that could. Ask no cluster and read no kubeconfig.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crds::{
    KeyRing, SealedSecret, explain,
    template::Environment,
    unseal::{self, ClearSecret, UnsealError},
};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{
    command::Unseal,
    commands::{
        input::{self, InputError},
        keyring::{self, KeyringError},
        tree::{self, Files},
    },
    exit::{self, Error, Exit},
    io::Io,
    lint::Skipped,
    output::{self, Format},
    renewal::{self, Found},
    verbs::{self, Manifests, Recovery},
};

/// What several refusals add up to.
const WHAT: &str = "SealedSecrets cannot be opened";

pub fn run(command: Unseal, io: &mut Io<'_>) -> Result<(), Error> {
    let Unseal { input, output, namespace, keys } = command;
    let ring = keyring::ring(Recovery { recovery_private_key: keys, ..Recovery::default() }, io)?;
    let (text, _) = input::read(input.as_deref(), io)?;
    let mut found = input::sealed_secrets(&text, WHAT)?;
    input::settle_namespaces(&mut found, namespace.as_deref(), None, io)?;
    let opened = found.into_iter().map(|(place, sealed)| open(&sealed, &ring).map_err(|error| (place, error)));
    let secrets = input::all(WHAT, opened).map_err(|refused| match ring.keys() {
        [] => Error::NoKeys(refused),
        _ => input::InputError::from(refused).into(),
    })?;
    let text = render(&secrets, output.format)?;
    Ok(output::write_private(text.as_bytes(), output.path.as_deref(), io)?)
}

fn open(sealed: &SealedSecret, ring: &KeyRing) -> Result<ClearSecret, UnsealError> {
    let opened = unseal::open(sealed, ring, None).outcome.map_err(|error| match error {
        UnsealError::NoKey(mut closed) if !ring.keys().is_empty() => {
            explain::explain(sealed, ring, &mut closed);
            UnsealError::NoKey(closed)
        }
        error => error,
    })?;
    unseal::secret(sealed, opened, Environment { rng: &mut rand::rng(), now: Timestamp::now() })
}

/// Opens what there is in files and folders; what does not open stops nothing else.
pub fn files(command: verbs::Unseal, io: &mut Io<'_>) -> Result<Exit, Error> {
    let verbs::Unseal { paths, recovery, namespace, to, output } = command;
    let ring = keyring::ring(recovery, io)?;
    if ring.keys().is_empty() {
        return Err(KeyringError::None.into());
    }
    let (mut failed, mut skipped) = (Vec::new(), Vec::new());
    let (mut seen, mut opened) = (0, 0);
    let mut taken: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for named in paths {
        let Files { files, unreadable } = tree::find(vec![named.clone()]);
        failed.extend(unreadable);
        for file in files {
            let stdin = file == Path::new("-");
            let text = match io.read_text(Some(file.as_path()).filter(|_| !stdin)) {
                Ok((text, _)) => text,
                Err(error) => {
                    failed.push(exit::chain(&error));
                    continue;
                }
            };
            let shown = file.display().to_string();
            let Found { sealed, wrong, passed } = renewal::found(&text, namespace.as_deref());
            seen += sealed.len() + wrong.len();
            failed.extend(wrong.into_iter().map(|(place, why)| format!("{shown}: {place}: {why}")));
            skipped.extend(passed.into_iter().map(|(place, values)| Skipped::new(&shown, place, values)));
            let mut secrets = Vec::new();
            for (place, sealed) in sealed {
                match open(&sealed, &ring) {
                    Ok(secret) => secrets.push(secret),
                    Err(error) => failed.push(format!("{shown}: {place}: {}", exit::chain(&error))),
                }
            }
            if secrets.is_empty() {
                continue;
            }
            let Some(folder) = &to else {
                let format = if output == Manifests::Json { Format::Json } else { Format::Yaml };
                output::write_private(render(&secrets, format)?.as_bytes(), None, io)?;
                opened += secrets.len();
                continue;
            };
            let target = folder.join(below(&named, &file));
            if let Some(other) = taken.insert(target.clone(), file.clone()) {
                failed.push(format!("{shown} would be written over {}: name one of them alone", other.display()));
                continue;
            }
            let json = target.extension().is_some_and(|extension| extension == "json");
            let text = render(&secrets, if json { Format::Json } else { Format::Yaml })?;
            match output::write_new_private(text.as_bytes(), &target) {
                Ok(()) => opened += secrets.len(),
                Err(error) => failed.push(exit::chain(&error)),
            }
        }
    }
    skipped.iter().for_each(|it| io.warning(&it.to_string()));
    failed.iter().for_each(|error| io.error(error));
    if seen == 0 && failed.is_empty() {
        return Err(InputError::NoSealedSecrets.into());
    }
    io.remark(&format!("{opened} of {seen} SealedSecrets opened"));
    Ok(if failed.is_empty() { Exit::Ok } else { Exit::Unreadable })
}

fn render(secrets: &[ClearSecret], format: Format) -> Result<Zeroizing<String>, output::OutputError> {
    let texts = secrets.iter().map(|secret| output::render_secret(secret, format));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    // Of the right size at once: a text that is outgrown is not wiped.
    let mut whole = Zeroizing::new(String::with_capacity(texts.iter().map(|text| text.len()).sum()));
    texts.iter().for_each(|text| whole.push_str(text));
    Ok(whole)
}

/// The name of a file below what was named, or its own where it was named itself.
fn below(named: &Path, file: &Path) -> PathBuf {
    let rest = file.strip_prefix(named).ok().filter(|rest| !rest.as_os_str().is_empty());
    match (rest, file.file_name()) {
        (Some(rest), _) => rest.to_owned(),
        (None, Some(name)) if name != "-" => name.into(),
        (None, _) => "stdin.yaml".into(),
    }
}
