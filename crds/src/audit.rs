//! The audit record: what was done to which object, as lines of the controller's log in a chain in which a gap shows. Each
//! entry has a number, and a hash over all that it says and the hash of the one before; a controller that starts begins a
//! chain. What no chain can show is that its end is missing, or that all of it was written anew: a copy elsewhere can. Pure.

use std::{collections::BTreeMap, fmt};

use data_encoding::HEXLOWER;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What a line of the log says that is an entry.
pub const MESSAGE: &str = "audit";

/// What was done to one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Act {
    /// When it was written down, RFC 3339.
    pub at: String,
    /// Namespace of what asked for it: a GitSync, a SealedSecret, or the keys.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What of Git it was done for; empty where Git has no say.
    pub revision: String,
    /// Who wrote that, as the commit says.
    pub author: String,
    /// Whose rights were used.
    pub identity: String,
    /// What had it done.
    pub trigger: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
}

/// An act in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The chain.
    pub chain: String,
    /// Its place in it, from 1 on.
    pub sequence: u64,
    /// The hash of the one before; empty for the first.
    pub previous: String,
    /// What was done.
    pub act: Act,
}

impl Entry {
    /// SHA-256 over every field with its length, so that nothing can pass from one into the next.
    pub fn hash(&self) -> String {
        let Self { chain, sequence, previous, act } = self;
        let Act { at, namespace, name, revision, author, identity, trigger, action, object } = act;
        let mut digest = Sha256::new().chain_update(sequence.to_be_bytes());
        for text in [chain, previous, at, namespace, name, revision, author, identity, trigger, action, object] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        HEXLOWER.encode(&digest.finalize())
    }

    /// From the fields of a line, which are taken out.
    fn read(fields: &mut Fields) -> Result<Self, Fault> {
        let mut text = |name| fields.take(name);
        let act = Act {
            at: text("at")?,
            namespace: text("namespace")?,
            name: text("name")?,
            revision: text("revision")?,
            author: text("author")?,
            identity: text("identity")?,
            trigger: text("trigger")?,
            action: text("action")?,
            object: text("object")?,
        };
        let sequence =
            text("sequence")?.parse().ok().filter(|sequence| *sequence > 0).ok_or(Fault::Broken("sequence"))?;
        Ok(Self { chain: text("chain")?, sequence, previous: text("previous")?, act })
    }
}

/// A chain that grows.
#[derive(Debug)]
pub struct Chain {
    id: String,
    sequence: u64,
    last: String,
}

impl Chain {
    /// `id` must be random: it tells this chain from others.
    pub fn new(id: u64) -> Self {
        Self { id: format!("{id:016x}"), sequence: 0, last: String::new() }
    }

    /// The next entry, and its hash.
    pub fn next(&mut self, act: Act) -> (Entry, String) {
        self.sequence += 1;
        let previous = std::mem::take(&mut self.last);
        let entry = Entry { chain: self.id.clone(), sequence: self.sequence, previous, act };
        self.last = entry.hash();
        (entry, self.last.clone())
    }
}

/// Why a line is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be checked.
    #[error("this entry is not whole: it has no {0} that can be read")]
    Broken(&'static str),
    /// It was edited.
    #[error("this entry was changed: its hash is not that of what it says")]
    Changed,
    /// No hash is over what was added.
    #[error("this entry was changed: {0:?} was added to it")]
    Added(String),
    /// Others should stand before it.
    #[error("{} missing here", missing(*.0, *.1))]
    Gap(u64, u64),
    /// It was copied or moved.
    #[error("entry {0} stands here again, or out of its order")]
    Again(u64),
    /// Hash and all: it, or what stood before it.
    #[error("this entry does not go on from entry {0}: one of the two was replaced")]
    Replaced(u64),
}

fn missing(from: u64, to: u64) -> String {
    if from == to { format!("entry {from} is") } else { format!("entries {from} to {to} are") }
}

/// What was seen of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its first entry that is there.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// How many there are.
    pub entries: u64,
    /// When the last was written.
    pub at: String,
    /// The hash of the last: what a copy elsewhere has too.
    pub hash: String,
}

/// Reads logs, line by line, as text and as JSON. Chains may be mixed, as those of replicas are.
#[derive(Debug, Default)]
pub struct Reader {
    /// By their names.
    pub chains: BTreeMap<String, Seen>,
}

impl Reader {
    /// Looks at one line; what is no entry is passed over.
    pub fn line(&mut self, text: &str) -> Result<(), Fault> {
        let Some(mut fields) = fields(text) else { return Ok(()) };
        let entry = Entry::read(&mut fields)?;
        let hash = fields.take("hash")?;
        fields.end()?;
        let genuine = entry.hash() == hash;
        let Entry { chain, sequence, previous, act } = entry;
        let known = self.chains.get(&chain);
        let before = known.cloned().unwrap_or_default();
        // Of what was changed the number is no better than the rest.
        if !genuine && sequence != before.last + 1 {
            return Err(Fault::Changed);
        }
        if sequence <= before.last {
            return Err(Fault::Again(sequence));
        }
        let first = if known.is_some() { before.first } else { sequence };
        let seen = Seen { first, last: sequence, entries: before.entries + 1, at: act.at, hash: hash.clone() };
        self.chains.insert(chain, seen);
        match () {
            () if !genuine => Err(Fault::Changed),
            () if sequence > before.last + 1 => Err(Fault::Gap(before.last + 1, sequence - 1)),
            () if previous != before.hash => Err(Fault::Replaced(before.last)),
            () => Ok(()),
        }
    }
}

/// The fields of a line as they stand there: a map would keep one of two of the same name.
#[derive(Default)]
struct Fields {
    all: Vec<(String, String)>,
    /// Whether others may stand beside them: who collects JSON adds some.
    open: bool,
}

impl Fields {
    fn take(&mut self, name: &'static str) -> Result<String, Fault> {
        let at = self.all.iter().position(|(key, _)| key == name).ok_or(Fault::Broken(name))?;
        let (key, value) = self.all.swap_remove(at);
        if self.all.iter().any(|(key, _)| key == name) { Err(Fault::Added(key)) } else { Ok(value) }
    }

    /// Nothing more may be taken.
    fn end(self) -> Result<(), Fault> {
        let left = self.all.into_iter().next().filter(|_| !self.open);
        left.map_or(Ok(()), |(key, _)| Err(Fault::Added(key)))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields { open: true, ..Fields::default() };
                while let Some((key, value)) = map.next_entry()? {
                    let value = match value {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    fields.all.push((key, value));
                }
                Ok(fields)
            }
        }
        from.deserialize_map(Object)
    }
}

/// What an entry says, if the line is one; whatever was put before it by who collected it.
fn fields(line: &str) -> Option<Fields> {
    if let Some(fields) = line.find('{').and_then(|at| json(line.get(at..)?)) {
        return Some(fields);
    }
    let (before, rest) = line.split_once(" INFO audit ")?;
    // A time stands there, and not somebody's words.
    before.trim_end().ends_with('Z').then(|| pairs(rest))
}

fn json(text: &str) -> Option<Fields> {
    let fields: Fields = serde_json::from_str(text).ok()?;
    fields.all.iter().any(|(key, value)| key == "message" && value == MESSAGE).then_some(fields)
}

/// `a="b" c=1`, with the escapes of Rust's strings. What is not of this form stands for itself.
fn pairs(mut text: &str) -> Fields {
    let mut fields = Fields::default();
    while let Some((key, rest)) = text.trim_start().split_once('=') {
        let value = match rest.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => Some(rest.split_once(' ').map_or((rest.to_owned(), ""), |(value, rest)| (value.to_owned(), rest))),
        };
        let Some((value, rest)) = value else { break };
        fields.all.push((key.to_owned(), value));
        text = rest;
    }
    let left = text.trim();
    if !left.is_empty() {
        fields.all.push((left.to_owned(), String::new()));
    }
    fields
}

/// Up to the closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.chars());
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    chars = rest.chars();
                    char::from_u32(u32::from_str_radix(code, 16).ok()?)?
                }
                itself => itself,
            }),
            plain => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: [&str; 9] =
        ["at", "namespace", "name", "revision", "author", "identity", "trigger", "action", "object"];

    fn act(object: &str) -> Act {
        let text = str::to_owned;
        let (at, author) =
            (text("2026-01-01T00:00:00Z"), text("Zoë \"Z\" O'Neil\\\n\u{1b}[1m\u{200b} <z@example.com>"));
        Act { at, author, action: text("changed"), object: text(object), ..Act::default() }
    }

    /// As the log has it, with what is said there besides.
    fn line((Entry { chain, sequence, previous, act }, hash): (Entry, String)) -> Value {
        let Act { at, namespace, name, revision, author, identity, trigger, action, object } = act;
        json!({
            "timestamp": at, "level": "INFO", "message": MESSAGE, "chain": chain, "sequence": sequence,
            "previous": previous, "hash": hash, "at": at, "namespace": namespace, "name": name, "revision": revision,
            "author": author, "identity": identity, "trigger": trigger, "action": action, "object": object,
        })
    }

    /// The same as text.
    fn plain(line: &Value) -> String {
        let fields = ["chain", "previous", "hash"].iter().chain(&FIELDS);
        let fields: Vec<_> = fields.map(|key| format!("{key}={:?}", line[key].as_str().unwrap())).collect();
        format!("2026-01-01T00:00:00.1Z  INFO audit sequence={} {}", line["sequence"], fields.join(" "))
    }

    fn record(id: u64, count: usize) -> Vec<Value> {
        let mut chain = Chain::new(id);
        (0..count).map(|number| line(chain.next(act(&format!("ConfigMap {number}"))))).collect()
    }

    /// The faults and where they are, which are the same in both forms.
    fn faults(lines: &[Value]) -> Vec<(usize, Fault)> {
        let found = |texts: Vec<String>| {
            let mut reader = Reader::default();
            let all = texts.iter().map(|line| reader.line(line)).enumerate();
            all.filter_map(|(at, fault)| Some((at, fault.err()?))).collect::<Vec<_>>()
        };
        let json = found(lines.iter().map(Value::to_string).collect());
        assert_eq!(json, found(lines.iter().map(plain).collect()));
        json
    }

    #[test]
    fn what_is_whole_is_found_whole() {
        let (a, b) = (record(1, 3), record(2, 2));
        let mut mixed = [&a[..1], &b[..1], &a[1..], &b[1..]].concat();
        assert_eq!(faults(&mixed), []);
        mixed.insert(1, json!({"message": "synced"}));
        let mut reader = Reader::default();
        for other in ["no JSON at all", "{", "2026Z  INFO audited x=1", "an INFO audit of somebody's", ""] {
            assert_eq!(reader.line(other), Ok(()), "{other}");
        }
        // Who collects lines may put a word before each.
        mixed.iter().for_each(|line| reader.line(&format!("[pod/a] {line}")).unwrap());
        let seen: Vec<_> = reader.chains.values().map(|seen| (seen.first, seen.last, seen.entries)).collect();
        assert_eq!(seen, [(1, 3, 3), (1, 2, 2)]);
        let mut reader = Reader::default();
        a.iter().for_each(|line| reader.line(&format!("[pod/a] {}", plain(line))).unwrap());
        assert_eq!(reader.chains.values().next().unwrap().hash, a[2]["hash"]);
    }

    #[test]
    fn what_is_missing_doubled_or_moved_shows() {
        let all = record(1, 6);
        assert_eq!(faults(&[&all[..1], &all[2..]].concat()), [(1, Fault::Gap(2, 2))]);
        assert_eq!(faults(&all[3..]), [(0, Fault::Gap(1, 3))]);
        assert_eq!(faults(&[&all[..2], &all[1..]].concat()), [(2, Fault::Again(2))]);
        let moved = [&all[..1], &all[2..3], &all[1..2], &all[3..]].concat();
        assert_eq!(faults(&moved), [(1, Fault::Gap(2, 2)), (2, Fault::Again(2))]);
        assert_eq!(Fault::Gap(2, 2).to_string(), "entry 2 is missing here");
        assert_eq!(Fault::Gap(1, 3).to_string(), "entries 1 to 3 are missing here");
        // Its end is nobody's to know.
        assert_eq!(faults(&all[..3]), []);
    }

    #[test]
    fn what_was_changed_shows() {
        for field in FIELDS.iter().chain(&["previous"]) {
            let mut all = record(1, 3);
            all[1][field] = json!("other");
            assert_eq!(faults(&all), [(1, Fault::Changed)], "{field}");
        }
        // Passed from one field to the next.
        let mut all = record(1, 3);
        (all[1]["action"], all[1]["object"]) = (json!("changedConfigMap"), json!(" 1"));
        assert_eq!(faults(&all), [(1, Fault::Changed)]);
        let mut all = record(1, 3);
        all[1]["sequence"] = json!(1000);
        assert_eq!(faults(&all), [(1, Fault::Changed), (2, Fault::Gap(2, 2))]);
        for (field, value) in
            [("author", None), ("hash", None), ("sequence", Some(json!(0))), ("sequence", Some(json!("x")))]
        {
            let mut all = record(1, 3);
            all[1].as_object_mut().unwrap().remove(field);
            if let Some(value) = value {
                all[1][field] = value;
            }
            let lines: Vec<_> = all.iter().map(Value::to_string).collect();
            let mut reader = Reader::default();
            let found: Vec<_> = lines.iter().map(|line| reader.line(line)).collect();
            assert_eq!(found, [Ok(()), Err(Fault::Broken(field)), Err(Fault::Gap(2, 2))]);
        }
    }

    /// Else the last of two would be read, and people read the first.
    #[test]
    fn what_was_added_shows() {
        let read = |text: &str| Reader::default().line(text);
        let added = |name: &str| Err(Fault::Added(name.to_owned()));
        let line = &record(1, 1)[0];
        let (json, text) = (line.to_string(), plain(line));
        for field in FIELDS.iter().chain(&["chain", "previous", "hash", "sequence"]) {
            let twice = json.replacen('{', &format!("{{\"{field}\":\"other\","), 1);
            assert_eq!(read(&twice), added(field));
            let twice = text.replacen(" audit ", &format!(" audit {field}=\"other\" "), 1);
            assert_eq!(read(&twice), added(field));
        }
        assert_eq!(read(&format!("{text} approved=\"yes\"")), added("approved"));
        assert_eq!(read(&format!("{text} and approved")), added("and approved"));
        assert_eq!(read(&format!("{text}\r")), Ok(()));
        assert_eq!(read(&json.replacen('{', "{\"pod\":\"a\",", 1)), Ok(()), "by who collects them");
    }

    #[test]
    fn what_was_replaced_shows() {
        let mut all = record(1, 3);
        let mut forged = Chain::new(1);
        forged.next(act("else"));
        all[1] = line(forged.next(act("forged")));
        assert_eq!(faults(&all), [(1, Fault::Replaced(1)), (2, Fault::Replaced(2))]);
    }
}
