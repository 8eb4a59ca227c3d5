//! A SealedSecret as somebody edits it, and what came of it. Pure. A value that cannot be seen stands there as
//! [`SEALED`]; whatever still says that, or says what it said before, is not touched.

use std::collections::BTreeMap;

use crds::{Plaintext, SealedSecret, base64};
use serde_json::{Map, Value};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    manifest::{self, Fault},
    spelling,
};

/// In the place of a value that stays as it is.
pub const SEALED: &str = "<sealed>";

/// The present items: their values where they can be seen.
pub type Items = BTreeMap<String, Option<Plaintext>>;

/// What somebody wants.
#[derive(Debug)]
pub struct Wanted {
    /// What becomes of every item that is to be there.
    pub items: BTreeMap<String, Becomes>,
    pub template: Option<Value>,
}

/// What becomes of an item.
#[derive(Debug, PartialEq, Eq)]
pub enum Becomes {
    /// What it is.
    Same,
    Value(Plaintext),
}

/// Why a text is no view. Names fields, never what stands there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    #[error("{0}")]
    Syntax(#[from] crds::yaml::SyntaxError),
    #[error("expected one document with the fields data, stringData and template")]
    Shape,
    #[error("{0} is no field here: use data, stringData and template")]
    Unknown(String),
    #[error("{0} must be a mapping")]
    Mapping(&'static str),
    #[error("{0} must be a string: put it in quotes")]
    Text(String),
    #[error("data.{0} must be base64; what is not encoded belongs under stringData")]
    Base64(String),
    #[error("{0} stands under data and under stringData")]
    Twice(String),
    #[error("{0} has no value yet that could stay {SEALED}")]
    NotThere(String),
    #[error(transparent)]
    Template(#[from] Fault),
    #[error("a Secret takes letters, digits, '-', '_' and '.' for a key, but not {0:?}")]
    Key(String),
}

/// The text to edit.
pub fn write(sealed: &SealedSecret, items: &Items, head: &str) -> Result<Zeroizing<String>, String> {
    let (mut text, mut binary) = (Map::new(), Map::new());
    for (item, value) in items {
        match value.as_ref().map(|value| std::str::from_utf8(value.expose())) {
            None => drop(text.insert(item.clone(), SEALED.into())),
            Some(Ok(value)) => drop(text.insert(item.clone(), value.into())),
            Some(Err(_)) => {
                let bytes = value.as_ref().map(Plaintext::expose).unwrap_or_default();
                binary.insert(item.clone(), base64::encode(bytes).into());
            }
        }
    }
    let mut view = Map::from_iter([("stringData".to_owned(), Value::Object(text))]);
    if !binary.is_empty() {
        view.insert("data".to_owned(), Value::Object(binary));
    }
    if let Some(template) = &sealed.spec.template {
        view.insert("template".to_owned(), serde_json::to_value(template).map_err(|error| error.to_string())?);
    }
    let mut view = Value::Object(view);
    let body = crds::yaml::to_string(&view).map(Zeroizing::new).map_err(|error| error.to_string());
    wipe(&mut view);
    let comment: String = head.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect();
    Ok(Zeroizing::new(comment + &body?))
}

/// What an edited text says.
pub fn read(text: &str, items: &Items) -> Result<Wanted, ViewError> {
    let mut documents = crds::yaml::documents(text);
    let (Some(document), true) = (documents.pop(), documents.is_empty()) else { return Err(ViewError::Shape) };
    let mut value = document.value?;
    spelling::keep(&mut value, text.get(document.range).unwrap_or_default(), &[], &[&["stringData"]]);
    let Value::Object(mut fields) = value else { return Err(ViewError::Shape) };
    let template = fields.remove("template").filter(|template| !template.is_null());
    if let Some(template) = &template {
        manifest::check_template(&manifest::template(template.clone())?)?;
    }
    let (data, text) = (mapping(&mut fields, "data")?, mapping(&mut fields, "stringData")?);
    if let Some(field) = fields.keys().next() {
        return Err(ViewError::Unknown(field.clone()));
    }
    let mut wanted = Wanted { items: BTreeMap::new(), template };
    for (encoded, (item, value)) in data.into_iter().map(|it| (true, it)).chain(text.into_iter().map(|it| (false, it)))
    {
        let path = || format!("{}.{item}", if encoded { "data" } else { "stringData" });
        if !crate::lint::is_item(&item) {
            return Err(ViewError::Key(item));
        }
        let text = match value {
            Value::String(text) => Zeroizing::new(text),
            Value::Null => Zeroizing::default(),
            _ => return Err(ViewError::Text(path())),
        };
        let before = items.get(&item);
        let becomes = if *text == SEALED && before.is_some_and(Option::is_none) {
            Becomes::Same
        } else if *text == SEALED && before.is_none() {
            return Err(ViewError::NotThere(item));
        } else {
            let bytes = if encoded {
                base64::decode(&text).ok_or_else(|| ViewError::Base64(item.clone()))?
            } else {
                text.as_bytes().to_vec()
            };
            let value = Plaintext::new(bytes);
            if before.and_then(Option::as_ref) == Some(&value) { Becomes::Same } else { Becomes::Value(value) }
        };
        if wanted.items.insert(item.clone(), becomes).is_some() {
            return Err(ViewError::Twice(item));
        }
    }
    Ok(wanted)
}

fn mapping(fields: &mut Map<String, Value>, field: &'static str) -> Result<Map<String, Value>, ViewError> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(fields),
        Some(_) => Err(ViewError::Mapping(field)),
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
