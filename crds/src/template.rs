//! Renders `spec.template.data`: Go's `text/template` with sprig's functions, as far as it makes sense in a SealedSecret.
//!
//! The evaluator is our own. The best crate (gotmpl) renders most templates alike, but a template here is written by
//! whoever may write a SealedSecret and runs beside everybody's secrets, and it can neither count steps (forty templates
//! that call one another twice never end), nor wipe values, nor keep them out of errors, nor change a dict (`set`).
//!
//! - `lexer`, `parser`, `literal`: from text to a tree that is bounded in size and depth.
//! - `value`: what a template computes with, and the run that pays for it; `format`: Go's `fmt`.
//! - `eval`: from a tree to text; `functions`: what a template may call.
//!
//! What holds for every template:
//! - **Bounds.** Steps, bytes made and costly functions draw on one budget for all templates of a SealedSecret, paid
//!   before the work is done: rendering is deterministic, and needs no clock to end. Nesting and calls are counted.
//! - **No leak.** What goes wrong while rendering is told in words that are fixed in this source, with the key of the
//!   template, the line and the function: no type that carries an error could hold a value. A template that *decides* to
//!   fail depending on a value still tells that it did: whoever may write a SealedSecret and read its status can learn
//!   about its values, so both belong to those who may read the Secret.
//! - **Wiping.** Every text that a template touches is wiped when it is dropped. Not wiped are: numbers, what JSON and
//!   regular expressions keep while they run, and the buffers of libraries that hash and encrypt.
//! - **No surroundings.** No environment, no files, no network; time and randomness are arguments.
//!
//! Of sprig's functions, `env`, `expandenv` and `getHostByName` are missing as they are upstream. `genPrivateKey`, `genCA`,
//! `genSelfSignedCert`, `genSignedCert`, their `…WithKey` forms and `buildCustomCert` are refused by name: finding a key's
//! primes has no bound, and a Secret that is made anew would hold another key than the one in use.
//!
//! Where upstream's own failure would end up in the Secret (`b64dec` and `b32dec` of what is neither, `htpasswd` with an
//! impossible name or password, an unknown `derivePassword` kind), rendering fails here instead. Maps give their keys in
//! order where upstream leaves it to chance.

mod eval;
mod format;
mod functions;
mod lexer;
mod literal;
mod parser;
mod strconv;
mod value;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use rand::CryptoRng;

use self::{
    eval::Fault,
    value::{Run, Text, Value},
};
use crate::Plaintext;

/// The surroundings of a rendering: all that it has of the world.
pub struct Environment<'a> {
    /// For random texts, salts and UUIDs.
    pub rng: &'a mut dyn CryptoRng,
    /// For `now` and what counts from it.
    pub now: Timestamp,
}

/// What becomes of a template that names a key which is not there. Go's `missingkey`, of which upstream has the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingKey {
    /// It renders `<no value>`.
    #[default]
    NoValue,
    /// It cannot be rendered.
    Error,
}

/// On a SealedSecret: [`MissingKey::Error`].
pub const FAIL_ON_MISSING_KEY: &str = "sealedsecrets.bitnami.com/fail-on-missing-key";

impl MissingKey {
    /// What a SealedSecret chooses.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Self {
        let fails = annotations.get(FAIL_ON_MISSING_KEY).is_some_and(|value| value == "true");
        if fails { Self::Error } else { Self::NoValue }
    }
}

/// Templates that cannot be rendered. Never holds a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", shown(.0))]
pub struct TemplateError(pub Vec<TemplateFault>);

/// What is wrong with one template.
#[derive(Debug, PartialEq, Eq)]
pub struct TemplateFault {
    /// The key under `spec.template.data`.
    pub key: String,
    /// The line within the template, from 1.
    pub line: usize,
    /// What failed there.
    pub what: String,
}

/// So many faults are shown: a status is no place for hundreds.
const SHOWN: usize = 5;

fn shown(faults: &[TemplateFault]) -> String {
    let more = faults.len().checked_sub(SHOWN).filter(|more| *more > 0).map(|more| format!("and {more} more"));
    let first = faults.iter().take(SHOWN).map(ToString::to_string);
    first.chain(more).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for TemplateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template.data.{} line {}: {}", self.key, self.line, self.what)
    }
}

impl TemplateFault {
    fn new(key: &str, fault: Fault) -> Self {
        let Fault { line, function, what, said } = fault;
        let function = function.map(|function| format!("{function}: ")).unwrap_or_default();
        let said = said.map(|said| format!(": {said}")).unwrap_or_default();
        Self { key: key.to_owned(), line, what: format!("{function}{what}{said}") }
    }
}

/// Renders the templates. Each sees every value and, under their own names, the other templates as they are written; a
/// value wins over a template of its name, and that template's text is dropped. `None` renders nothing.
pub fn render(
    templates: &BTreeMap<String, Option<String>>,
    values: &BTreeMap<String, Plaintext>,
    missing: MissingKey,
    environment: Environment<'_>,
) -> Result<BTreeMap<String, Plaintext>, TemplateError> {
    let Environment { rng, now } = environment;
    let run = Run::new(rng, now);
    let written = templates.iter().filter_map(|(key, template)| Some((key, template.as_ref()?)));
    let names = written.clone().filter(|(key, _)| !values.contains_key(*key));
    let known = names.map(|(key, template)| (key, template.as_bytes()));
    let known = known.chain(values.iter().map(|(key, value)| (key, value.expose())));
    let texts = known.map(|(key, text)| (Text::new(key.clone().into()), Text::new(text.to_vec())));
    let dot = eval::root(&run, texts);
    let mut rendered = BTreeMap::new();
    let mut faults = Vec::new();
    for (key, template) in written {
        let outcome = dot.clone().map_err(|what| Fault { line: 1, function: None, what, said: None });
        match outcome.and_then(|dot| one(&run, missing, key, template, &dot)) {
            Ok(text) if !values.contains_key(key) => drop(rendered.insert(key.clone(), Plaintext::new(text))),
            Ok(text) => drop(Plaintext::new(text)),
            Err(fault) => faults.push(TemplateFault::new(key, fault)),
        }
    }
    if faults.is_empty() { Ok(rendered) } else { Err(TemplateError(faults)) }
}

/// What is wrong with templates as they are written, whatever the values will be. Nothing is rendered.
pub fn check(templates: &BTreeMap<String, Option<String>>) -> Vec<TemplateFault> {
    let written = templates.iter().filter_map(|(key, template)| Some((key, template.as_ref()?)));
    let faults = written.filter_map(|(key, template)| Some((key, parser::parse(key, template).err()?)));
    faults.map(|(key, malformed)| TemplateFault::new(key, malformed.into())).collect()
}

fn one(run: &Run, missing: MissingKey, key: &str, template: &str, dot: &Value) -> Result<Vec<u8>, Fault> {
    let templates = parser::parse(key, template)?;
    eval::render(run, missing, &templates, key, dot)
}
