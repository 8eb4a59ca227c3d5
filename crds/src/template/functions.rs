//! The functions that a template may call: those of `text/template` and sprig v3's `GenericFuncMap`, each with the
//! parameters that Go checks for it. Adding one is a line in the table of its file.

pub(super) mod basics;
pub(super) mod cryptography;
pub(super) mod dates;
pub(super) mod dictionaries;
pub(super) mod encodings;
mod layout;
pub(super) mod lists;
pub(super) mod numbers;
pub(super) mod paths;
mod pattern;
pub(super) mod regexes;
pub(super) mod strings;
pub(super) mod versions;
pub(super) mod words;

use std::{collections::HashMap, sync::LazyLock};

use super::value::{List, Map, Outcome, Run, Value, Why};

/// A type that Go checks an argument against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Param {
    /// `interface{}`.
    Any,
    /// `reflect.Value`: even what is missing.
    Reflected,
    Text,
    Int,
    /// `uint32`.
    Counter,
    Float,
    Bool,
    /// `map[string]interface{}`.
    Map,
    Time,
}

impl Param {
    pub(super) fn expected(self) -> Why {
        match self {
            Self::Any | Self::Reflected => "a value is expected",
            Self::Text => "wrong type of an argument: a string is expected",
            Self::Int => "wrong type of an argument: an int is expected",
            Self::Counter => "wrong type of an argument: a literal number is expected",
            Self::Float => "wrong type of an argument: a float is expected",
            Self::Bool => "wrong type of an argument: a bool is expected",
            Self::Map => "wrong type of an argument: a dict is expected",
            Self::Time => "wrong type of an argument: a time is expected",
        }
    }
}

type Call = fn(&Run, &Arguments) -> Outcome;

/// One function.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) fixed: &'static [Param],
    /// What may follow any number of times.
    pub(super) rest: Option<Param>,
    pub(super) call: Call,
}

const fn function(name: &'static str, fixed: &'static [Param], call: Call) -> Function {
    Function { name, fixed, rest: None, call }
}

const fn variadic(name: &'static str, fixed: &'static [Param], rest: Param, call: Call) -> Function {
    Function { name, fixed, rest: Some(rest), call }
}

impl Function {
    pub(super) fn parameter(&self, at: usize) -> Param {
        self.fixed.get(at).copied().or(self.rest).unwrap_or(Param::Any)
    }
}

/// Checked arguments: each has the type of its parameter, so nothing here can fail.
pub(super) struct Arguments(pub(super) Vec<Value>);

impl Arguments {
    fn value(&self, at: usize) -> &Value {
        self.0.get(at).unwrap_or(&Value::Nil)
    }

    fn rest(&self, from: usize) -> &[Value] {
        self.0.get(from..).unwrap_or_default()
    }

    fn text(&self, at: usize) -> &[u8] {
        if let Value::Text(text) = self.value(at) { text } else { b"" }
    }

    fn int(&self, at: usize) -> i64 {
        if let Value::Int(_, int) = self.value(at) { *int } else { 0 }
    }

    /// A count: what is negative is none.
    fn count(&self, at: usize) -> usize {
        usize::try_from(self.int(at)).unwrap_or_default()
    }

    fn bool(&self, at: usize) -> bool {
        matches!(self.value(at), Value::Bool(true))
    }

    fn map(&self, at: usize) -> Option<&Map> {
        if let Value::Map(map) = self.value(at) { Some(map) } else { None }
    }

    /// Any list, whatever it holds.
    fn list(&self, at: usize) -> Outcome<&List> {
        if let Value::List(list) = self.value(at) { Ok(list) } else { Err("a list is expected") }
    }
}

static FUNCTIONS: LazyLock<HashMap<&'static str, &'static Function>> = LazyLock::new(|| {
    let tables = [
        basics::FUNCTIONS,
        cryptography::FUNCTIONS,
        dates::FUNCTIONS,
        dictionaries::FUNCTIONS,
        encodings::FUNCTIONS,
        lists::FUNCTIONS,
        numbers::FUNCTIONS,
        paths::FUNCTIONS,
        regexes::FUNCTIONS,
        strings::FUNCTIONS,
        versions::FUNCTIONS,
        words::FUNCTIONS,
    ];
    tables.into_iter().flatten().map(|function| (function.name, function)).collect()
});

/// Makes a new key pair, or checks one.
const NO_KEYS: &str = "makes or checks keys and certificates, which a template here does not: the cost of a key has no bound, and \
                       each rendering would make another; seal the key and the certificate instead";
/// Reaches out of the template.
const NO_WORLD: &str = "is not available in SealedSecrets: it would tell of the controller's surroundings";

/// Functions of sprig that there are not, each with the reason.
const REFUSED: [(&str, &str); 11] = [
    ("buildCustomCert", NO_KEYS),
    ("genCA", NO_KEYS),
    ("genCAWithKey", NO_KEYS),
    ("genPrivateKey", NO_KEYS),
    ("genSelfSignedCert", NO_KEYS),
    ("genSelfSignedCertWithKey", NO_KEYS),
    ("genSignedCert", NO_KEYS),
    ("genSignedCertWithKey", NO_KEYS),
    ("env", NO_WORLD),
    ("expandenv", NO_WORLD),
    ("getHostByName", NO_WORLD),
];

/// The function of that name, or why there is none.
pub(super) fn find(name: &str) -> Result<&'static Function, String> {
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("the function {name} {why}"));
    }
    FUNCTIONS.get(name).copied().ok_or_else(|| format!("function {name:?} not defined"))
}

/// Every function, for the test that feeds each of them a secret.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.values().copied()
}
