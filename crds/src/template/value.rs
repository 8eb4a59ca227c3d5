//! What a template computes with: Go's kinds, as far as decrypted strings and sprig's functions can make them, and the
//! [`Run`] that pays for every one of them. Text is bytes, as in Go, and wiped when it is dropped. Nothing here prints.
//!
//! Only a map can change once it is made, so only a map can come to hold itself. A run therefore keeps every map that
//! it made and empties them all when it ends: nothing leaks, and nothing deep is dropped recursively.

use std::{
    borrow::Borrow,
    cell::{Cell, RefCell},
    cmp::Ordering,
    collections::BTreeMap,
    ops::Deref,
    rc::Rc,
};

use jiff::{Timestamp, Zoned};
use rand::{CryptoRng, Rng as _, SeedableRng as _, rngs::StdRng};
use zeroize::Zeroizing;

use super::functions::versions::Version;

/// Why something cannot be computed: our own words only, since a value could be a secret. The type sees to it.
pub(super) type Why = &'static str;
pub(super) type Outcome<T = Value> = Result<T, Why>;

pub(super) const TOO_MUCH_WORK: Why = "the templates of this SealedSecret are more work than is allowed";
pub(super) const TOO_MUCH_OUTPUT: Why = "the templates of this SealedSecret render more than a Secret can hold (1 MiB)";
pub(super) const TOO_DEEP: Why = "the value is nested too deeply";

/// Work allowed for all templates of one SealedSecret, in bytes made; a step counts [`STEP`] of them. This is also
/// what bounds memory. A mebibyte can be rendered and pass through a dozen functions; a bomb ends within a second.
const WORK: usize = 16 << 20;
/// What one step of evaluation costs.
pub(super) const STEP: usize = 16;
/// Comparing so many bytes costs what one byte made does.
pub(super) const COMPARED: usize = 16;
/// A Secret holds no more than this (`MaxSecretSize` of Kubernetes), so more need not be rendered.
const OUTPUT: usize = 1 << 20;
/// Nesting of lists, and how deep into a value anything looks.
pub(super) const DEPTH: usize = 64;

const TEXT_COST: usize = 64;
const ITEM_COST: usize = 32;
const ENTRY_COST: usize = 128;
const MAP_COST: usize = 512;

/// One value.
#[derive(Clone)]
pub(super) enum Value {
    /// What a missing key yields: `<no value>`.
    Absent,
    /// Go's nil, as an element or an argument.
    Nil,
    Bool(bool),
    Int(Width, i64),
    Float(f64),
    Text(Text),
    List(List),
    Map(Map),
    Time(Rc<Zoned>),
    Version(Rc<Version>),
}

/// Go's integer types that matter: an `int64` is not accepted where an `int` is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Int,
    Int64,
    Byte,
    Unsigned,
}

/// What a list or a map holds, since functions ask for one or the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Any,
    Text,
    Int,
    List,
}

/// Bytes, shared and wiped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Text(Rc<Zeroizing<Vec<u8>>>);

impl Text {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Rc::new(Zeroizing::new(bytes)))
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.deref().cmp(other)
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// A list that never changes.
#[derive(Clone)]
pub(super) struct List(Rc<Items>);

struct Items {
    element: Element,
    nil: bool,
    depth: usize,
    values: Vec<Value>,
}

impl List {
    pub(super) fn element(&self) -> Element {
        self.0.element
    }

    /// Go tells a slice that was never made from an empty one, and JSON shows it.
    pub(super) fn is_nil(&self) -> bool {
        self.0.nil
    }
}

impl Deref for List {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.0.values
    }
}

/// A map, shared by everyone who holds it, like Go's.
#[derive(Clone)]
pub(super) struct Map(Rc<Entries>);

struct Entries {
    element: Element,
    entries: RefCell<BTreeMap<Text, Value>>,
}

impl Map {
    pub(super) fn element(&self) -> Element {
        self.0.element
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Value> {
        self.0.entries.borrow().get(key).cloned()
    }

    pub(super) fn set(&self, run: &Run, key: Text, value: Value) -> Outcome<()> {
        run.charge(ENTRY_COST)?;
        let before = self.0.entries.borrow_mut().insert(key, value);
        drop(before);
        Ok(())
    }

    pub(super) fn remove(&self, key: &[u8]) {
        let before = self.0.entries.borrow_mut().remove(key);
        drop(before);
    }

    pub(super) fn len(&self) -> usize {
        self.0.entries.borrow().len()
    }

    /// All entries by key, as they are now: whoever walks them may change the map meanwhile.
    pub(super) fn entries(&self, run: &Run) -> Outcome<Vec<(Text, Value)>> {
        run.charge(ITEM_COST * self.len())?;
        Ok(self.0.entries.borrow().iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// What all templates of one SealedSecret share while they run: the budget, the maps, randomness and the time.
pub(super) struct Run {
    work: Cell<usize>,
    output: Cell<usize>,
    maps: RefCell<Vec<Map>>,
    rng: RefCell<StdRng>,
    pub(super) now: Timestamp,
}

impl Run {
    pub(super) fn new(rng: &mut dyn CryptoRng, now: Timestamp) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self {
            work: Cell::new(WORK),
            output: Cell::new(OUTPUT),
            maps: RefCell::default(),
            rng: RefCell::new(StdRng::from_seed(*seed)),
            now,
        }
    }

    /// Pays for work before it is done.
    pub(super) fn charge(&self, work: usize) -> Outcome<()> {
        let left = self.work.get().checked_sub(work).ok_or(TOO_MUCH_WORK);
        self.work.set(*left.as_ref().unwrap_or(&0));
        left.map(drop)
    }

    /// Pays for rendered bytes.
    pub(super) fn output(&self, bytes: usize) -> Outcome<()> {
        let left = self.output.get().checked_sub(bytes).ok_or(TOO_MUCH_OUTPUT);
        self.output.set(*left.as_ref().unwrap_or(&0));
        left.map(drop)
    }

    pub(super) fn fill(&self, bytes: &mut [u8]) {
        self.rng.borrow_mut().fill_bytes(bytes);
    }

    /// Evenly from `0..bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        let fair = u64::MAX - u64::MAX % bound.max(1);
        loop {
            let drawn = self.rng.borrow_mut().next_u64();
            if drawn < fair {
                return drawn % bound.max(1);
            }
        }
    }

    pub(super) fn text(&self, bytes: impl Into<Vec<u8>>) -> Outcome {
        let text = Text::new(bytes.into());
        self.charge(TEXT_COST + text.len())?;
        Ok(Value::Text(text))
    }

    pub(super) fn list(&self, element: Element, items: Vec<Value>) -> Outcome {
        self.charge(TEXT_COST + ITEM_COST * items.len())?;
        let nested = |item: &Value| if let Value::List(list) = item { list.0.depth } else { 0 };
        let depth = 1 + items.iter().map(nested).max().unwrap_or_default();
        if depth > DEPTH {
            return Err(TOO_DEEP);
        }
        Ok(Value::List(List(Rc::new(Items { element, nil: false, depth, values: items }))))
    }

    pub(super) fn nil_list(element: Element) -> Value {
        Value::List(List(Rc::new(Items { element, nil: true, depth: 1, values: Vec::new() })))
    }

    pub(super) fn texts<T: Into<Vec<u8>>>(&self, texts: impl IntoIterator<Item = T>) -> Outcome {
        let items = texts.into_iter().map(|text| self.text(text)).collect::<Outcome<_>>()?;
        self.list(Element::Text, items)
    }

    pub(super) fn map(&self, element: Element) -> Outcome<Map> {
        self.charge(MAP_COST)?;
        let map = Map(Rc::new(Entries { element, entries: RefCell::default() }));
        self.maps.borrow_mut().push(map.clone());
        Ok(map)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for map in self.maps.borrow().iter() {
            let entries = std::mem::take(&mut *map.0.entries.borrow_mut());
            drop(entries);
        }
    }
}

/// Text in the making: paid for byte by byte, wiped when it grows or goes.
pub(super) struct Buffer<'r> {
    run: &'r Run,
    bytes: Zeroizing<Vec<u8>>,
}

impl<'r> Buffer<'r> {
    pub(super) fn new(run: &'r Run) -> Self {
        Self { run, bytes: Zeroizing::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.run.charge(bytes.len())?;
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let mut grown = Zeroizing::new(Vec::with_capacity(needed.max(2 * self.bytes.capacity()).max(64)));
            grown.extend_from_slice(&self.bytes);
            self.bytes = grown;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn push_char(&mut self, char: char) -> Outcome<()> {
        self.push(char.encode_utf8(&mut [0; 4]).as_bytes())
    }

    /// `count` times the same, paid for before any of it is made.
    pub(super) fn repeat(&mut self, bytes: &[u8], count: usize) -> Outcome<()> {
        let total = bytes.len().checked_mul(count).ok_or(TOO_MUCH_WORK)?;
        if total > self.run.work.get() {
            return self.run.charge(total);
        }
        (0..if bytes.is_empty() { 0 } else { count }).try_for_each(|_| self.push(bytes))
    }

    pub(super) fn run(&self) -> &'r Run {
        self.run
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn text(self) -> Outcome {
        self.run.charge(TEXT_COST)?;
        Ok(Value::Text(Text::new(self.into_bytes())))
    }
}

impl Value {
    pub(super) fn int(value: i64) -> Self {
        Self::Int(Width::Int, value)
    }

    /// Go's template truth: not the zero of its kind.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Absent | Self::Nil => false,
            Self::Bool(bool) => *bool,
            Self::Int(_, int) => *int != 0,
            Self::Float(float) => *float != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => map.len() > 0,
            Self::Time(_) | Self::Version(_) => true,
        }
    }

    pub(super) fn is_nil(&self) -> bool {
        matches!(self, Self::Absent | Self::Nil)
    }

    /// Go's name of the type, as `%T` prints it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Absent | Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(Width::Int, _) => "int",
            Self::Int(Width::Int64, _) => "int64",
            Self::Int(Width::Byte, _) => "uint8",
            Self::Int(Width::Unsigned, _) => "uint64",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(list) => match list.element() {
                Element::Any => "[]interface {}",
                Element::Text => "[]string",
                Element::Int => "[]int",
                Element::List => "[][]interface {}",
            },
            Self::Map(map) if map.element() == Element::Text => "map[string]string",
            Self::Map(_) => "map[string]interface {}",
            Self::Time(_) => "time.Time",
            Self::Version(_) => "*semver.Version",
        }
    }

    /// Go's name of the kind.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Absent | Self::Nil => "invalid",
            Self::List(_) => "slice",
            Self::Map(_) => "map",
            Self::Time(_) => "struct",
            Self::Version(_) => "ptr",
            other => other.type_name(),
        }
    }

    /// `reflect.DeepEqual`.
    pub(super) fn equal(&self, other: &Self, run: &Run, depth: usize) -> Outcome<bool> {
        run.charge(STEP)?;
        let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
        Ok(match (self, other) {
            (Self::Absent | Self::Nil, Self::Absent | Self::Nil) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(kind, a), Self::Int(other, b)) => kind == other && a == b,
            #[allow(clippy::float_cmp, reason = "exactly Go's comparison")]
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => same(run, a, b)?,
            (Self::List(a), Self::List(b)) => {
                if (a.element(), a.is_nil(), a.len()) != (b.element(), b.is_nil(), b.len()) {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equal(b, run, depth)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(a), Self::Map(b)) => {
                if (a.element(), a.len()) != (b.element(), b.len()) {
                    return Ok(false);
                }
                if a.is(b) {
                    return Ok(true);
                }
                for ((key, a), (other, b)) in a.entries(run)?.iter().zip(b.entries(run)?) {
                    if !same(run, key, &other)? || !a.equal(&b, run, depth)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Version(a), Self::Version(b)) => a == b,
            _ => false,
        })
    }
}

/// Texts of different lengths are not read.
fn same(run: &Run, a: &Text, b: &Text) -> Outcome<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    run.charge(a.len() / COMPARED)?;
    Ok(a == b)
}

/// The next rune as Go reads it: a byte that is no UTF-8 is U+FFFD, one byte wide.
pub(super) fn rune(bytes: &[u8]) -> Option<(char, usize)> {
    let width = match bytes.first()? {
        0..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let decoded = bytes.get(..width).and_then(|bytes| str::from_utf8(bytes).ok()).and_then(|text| text.chars().next());
    Some(decoded.map_or((char::REPLACEMENT_CHARACTER, 1), |char| (char, width)))
}

/// All runes of a text.
pub(super) fn runes(bytes: &[u8]) -> impl Iterator<Item = char> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (char, width) = rune(rest)?;
        rest = rest.get(width..).unwrap_or_default();
        Some(char)
    })
}
