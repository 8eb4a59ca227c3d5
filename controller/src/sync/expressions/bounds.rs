//! What an expression may cost. CEL has no endless loops, but loops in loops over what is long, lists of lists of all that
//! there is, what is long compared and matched in each round, and depth: the last has a stack of its own, all else is counted
//! before anything is evaluated. Pure.

use std::{collections::HashMap, sync::Arc, thread};

use cel::{
    Context, DeclarationError, ExecutionError,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators},
    extractors::This,
};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Longest expression.
const LENGTH: usize = 2048;
/// Most bytes that one looks at.
const BYTES: usize = 256 * 1024;
/// Rounds of all loops together; each takes some microseconds.
const ROUNDS: usize = 50_000;
/// Loops in loops.
const DEPTH: usize = 3;
/// Sums in one expression: each may copy what it adds to.
const SUMS: usize = 16;
/// As many bytes take as long as a round, where they are compared, searched or copied.
const COMPARED: usize = 1024;
/// The same where a pattern is looked for.
const MATCHED: usize = 4;
/// Patterns in one expression: each is compiled once for an evaluation.
const PATTERNS: usize = 8;
/// Most bytes of a pattern when it is compiled: that bounds how long that takes, and what each letter costs.
const PATTERN: usize = 128 * 1024;
/// For the deepest expression of that length, and as much again.
const STACK: usize = 16 * 1024 * 1024;

const MATCHES: &str = "matches";

/// The functions of CEL, but for those of times.
const FUNCTIONS: [&str; 20] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "hasValue",
    "int",
    MATCHES,
    "none",
    "of",
    "ofNonZeroValue",
    "optional.none",
    "optional.of",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "value",
];

/// Runs it on a stack of its own; `None` if it panicked. The libraries are others'.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).ok()?.join().ok())
}

/// Whether a text is short enough to be read.
pub fn length(text: &str) -> Result<(), String> {
    let is_short = text.len() <= LENGTH;
    is_short.then_some(()).ok_or_else(|| format!("longer than {LENGTH} bytes"))
}

/// The loops of an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loops {
    /// How many there are, by how many others they stand in.
    count: [usize; DEPTH],
    sums: usize,
    /// The longest list that stands in the expression itself.
    longest: usize,
    /// What looks at all of its operands, by how many loops it stands in.
    calls: Vec<(usize, Call)>,
    patterns: Vec<String>,
}

/// What takes the longer the longer its operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Compares(Reach),
    Matches(Reach),
}

/// How much of what there is an operand may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// It stands in the expression.
    Constant,
    /// An entry of a list, or the name of one in a map.
    Entry,
    All,
}

/// How large what an expression looks at is.
#[derive(Default)]
struct Size {
    /// The longest list or map, by its entries.
    longest: usize,
    bytes: usize,
    /// The largest entry of a list, or name of one in a map, in bytes.
    entry: usize,
    text: usize,
}

/// The patterns of an expression, for one evaluation.
pub struct Patterns(HashMap<String, Regex>);

impl Patterns {
    /// Makes `matches` known.
    pub fn bind(self, context: &mut Context) -> Result<(), DeclarationError> {
        let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| match self.0.get(&*pattern) {
            Some(pattern) => Ok(pattern.is_match(&text)),
            None => Err(ExecutionError::function_error("matches", "the pattern is no constant")),
        };
        context.add_function(MATCHES, matches)
    }
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let told = |error: regex::Error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("the pattern {pattern} is too large; use fewer repetitions, or [a-z] and the like in place of \\w")
        }
        other => format!("{pattern} is no pattern: {}", other.to_string().lines().last().unwrap_or_default()),
    };
    RegexBuilder::new(pattern).size_limit(PATTERN).dfa_size_limit(4 * PATTERN).build().map_err(told)
}

impl Loops {
    /// Looks at an expression, and refuses what could make much of little.
    pub fn of(expression: &IdedExpr) -> Result<Self, String> {
        let mut loops = Self::default();
        loops.look(expression, &mut Vec::new())?;
        if loops.sums > SUMS {
            return Err(format!("more than {SUMS} sums"));
        }
        if loops.patterns.len() > PATTERNS {
            return Err(format!("more than {PATTERNS} patterns"));
        }
        loops.patterns()?;
        Ok(loops)
    }

    /// Compiles the patterns. They are not kept: there may be very many expressions.
    pub fn patterns(&self) -> Result<Patterns, String> {
        let all = self.patterns.iter().map(|pattern| Ok((pattern.clone(), compiled(pattern)?)));
        Ok(Patterns(all.collect::<Result<_, String>>()?))
    }

    /// Whether they come to an end in time over these values.
    pub fn bear<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Result<(), String> {
        let mut size = Size { longest: self.longest, ..Size::default() };
        values.for_each(|value| size.measure(value));
        if size.bytes > BYTES {
            return Err(format!("the object is larger than the {} kB that an expression looks at", BYTES / 1024));
        }
        let length = size.longest.saturating_mul(self.sums + 1);
        let (mut rounds, mut each) = (0_usize, 1_usize);
        for (depth, count) in self.count.into_iter().chain([0]).enumerate() {
            let called = self.calls.iter().filter(|(within, _)| *within == depth);
            let called = called.map(|(_, call)| size.cost(*call).saturating_mul(self.sums + 1));
            let called = called.fold(0, usize::saturating_add);
            rounds = rounds.saturating_add(called.saturating_mul(each));
            each = each.saturating_mul(length);
            rounds = rounds.saturating_add(count.saturating_mul(each));
        }
        let is_bearable = rounds <= ROUNDS;
        is_bearable.then_some(()).ok_or_else(|| {
            format!("up to {rounds} rounds over lists of up to {length}, with what each compares and matches, are more than the {ROUNDS} that are allowed")
        })
    }

    /// `variables` are those of the loops around it.
    fn look<'a>(&mut self, expression: &'a IdedExpr, variables: &mut Vec<&'a str>) -> Result<(), String> {
        match &expression.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
            Expr::Select(select) => self.look(&select.operand, variables),
            Expr::Call(call @ CallExpr { func_name, args, .. }) => {
                if !func_name.starts_with(['_', '-', '!', '@']) && !FUNCTIONS.contains(&func_name.as_str()) {
                    return Err(format!("there is no function {func_name}"));
                }
                self.sums += usize::from(func_name == operators::ADD);
                if func_name == MATCHES {
                    let pattern = args.last().and_then(constant).ok_or("matches takes a pattern in quotes")?;
                    if !self.patterns.iter().any(|known| known == pattern) {
                        self.patterns.push(pattern.to_owned());
                    }
                }
                self.calls.extend(dear(call, variables).map(|call| (variables.len(), call)));
                operands(call).try_for_each(|it| self.look(it, variables))
            }
            Expr::List(list) => self.constants(list.elements.iter()),
            Expr::Map(map) => {
                let parts = map.entries.iter().filter_map(|it| match &it.expr {
                    EntryExpr::MapEntry(entry) => Some([&entry.key, &entry.value]),
                    EntryExpr::StructField(_) => None,
                });
                self.constants(parts.flatten())
            }
            Expr::Struct(_) => Err("there are no types to make values of".to_owned()),
            Expr::Comprehension(comprehension) => self.look_into(comprehension, variables),
        }
    }

    /// A list of all that there is, made again in each round of a loop, is what would be too much.
    fn constants<'a>(&mut self, parts: impl Iterator<Item = &'a IdedExpr>) -> Result<(), String> {
        let mut count = 0;
        for part in parts {
            count += 1;
            match &part.expr {
                Expr::Literal(_) => {}
                Expr::Call(call) if call.func_name == operators::NEGATE => self.constants(call.args.iter())?,
                Expr::List(list) => self.constants(list.elements.iter())?,
                _ => return Err("a list or map in it may hold constants only".to_owned()),
            }
        }
        self.longest = self.longest.max(count);
        Ok(())
    }

    fn look_into<'a>(
        &mut self,
        comprehension: &'a ComprehensionExpr,
        variables: &mut Vec<&'a str>,
    ) -> Result<(), String> {
        let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } = comprehension;
        self.look(iter_range, variables)?;
        let depth = variables.len();
        *self.count.get_mut(depth).ok_or_else(|| format!("more than {DEPTH} loops in each other"))? += 1;
        variables.push(&comprehension.iter_var);
        if !matches!(accu_init.expr, Expr::List(_)) {
            let parts = [accu_init, loop_cond, loop_step, result];
            parts.into_iter().try_for_each(|it| self.look(it, variables))?;
            variables.pop();
            return Ok(());
        }
        // map and filter: what they gather is a part of what they go through, and no larger than that.
        let (condition, added) = gathered(loop_step).ok_or("a loop that is neither map nor filter gathers nothing")?;
        if !is_part(added, &comprehension.iter_var) {
            return Err(format!("map may gather only {0} and fields of it", comprehension.iter_var));
        }
        condition.map_or(Ok(()), |condition| self.look(condition, variables))?;
        variables.pop();
        Ok(())
    }
}

fn operands(call: &CallExpr) -> impl Iterator<Item = &IdedExpr> {
    call.target.iter().map(AsRef::as_ref).chain(&call.args)
}

fn constant(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// Whether a call looks at all of its operands, and how much that is.
fn dear(call: &CallExpr, variables: &[&str]) -> Option<Call> {
    let reaches = operands(call).map(|operand| reach(operand, variables));
    match call.func_name.as_str() {
        operators::CONDITIONAL
        | operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::NOT_STRICTLY_FALSE
        | operators::INDEX => None,
        MATCHES => reaches.max().map(Call::Matches),
        // It ends where the shorter one does.
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS => reaches.min().map(Call::Compares),
        _ => reaches.max().map(Call::Compares),
    }
}

fn reach(expression: &IdedExpr, variables: &[&str]) -> Reach {
    match &expression.expr {
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => Reach::Constant,
        // What a loop has come to so far is a number or a truth.
        Expr::Ident(name) if name.starts_with('@') => Reach::Constant,
        _ if variables.iter().any(|variable| is_part(expression, variable)) => Reach::Entry,
        Expr::Call(call) => operands(call).map(|operand| reach(operand, variables)).max().unwrap_or(Reach::Constant),
        _ => Reach::All,
    }
}

impl Size {
    /// How many rounds take as long as this call.
    fn cost(&self, call: Call) -> usize {
        match call {
            Call::Compares(reach) => self.of(reach) / COMPARED,
            Call::Matches(reach) => self.of(reach).min(self.text) / MATCHED,
        }
    }

    fn of(&self, reach: Reach) -> usize {
        match reach {
            Reach::Constant => 0,
            Reach::Entry => self.entry,
            Reach::All => self.bytes,
        }
    }

    fn measure(&mut self, value: &Value) {
        self.bytes += 8;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => self.read(text),
            Value::Array(all) => {
                self.longest = self.longest.max(all.len());
                for it in all {
                    let before = self.bytes;
                    self.measure(it);
                    self.entry = self.entry.max(self.bytes - before);
                }
            }
            Value::Object(all) => {
                self.longest = self.longest.max(all.len());
                for (name, it) in all {
                    self.read(name);
                    self.entry = self.entry.max(name.len());
                    self.measure(it);
                }
            }
        }
    }

    fn read(&mut self, text: &str) {
        self.bytes += text.len();
        self.text = self.text.max(text.len());
    }
}

/// What map or filter adds in a round, and when.
fn gathered(step: &IdedExpr) -> Option<(Option<&IdedExpr>, &IdedExpr)> {
    let Expr::Call(CallExpr { func_name, args, .. }) = &step.expr else { return None };
    match (func_name.as_str(), args.as_slice()) {
        (operators::ADD, [_, IdedExpr { expr: Expr::List(list), .. }]) => match list.elements.as_slice() {
            [added] => Some((None, added)),
            _ => None,
        },
        (operators::CONDITIONAL, [condition, step, _]) => Some((Some(condition), gathered(step)?.1)),
        _ => None,
    }
}

fn is_part(expression: &IdedExpr, of: &str) -> bool {
    match &expression.expr {
        Expr::Ident(name) => name == of,
        Expr::Select(select) => is_part(&select.operand, of),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use cel::Env;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Loops, String> {
        length(text)?;
        let read = || Env::stdlib().compile(text).map_err(|errors| errors.to_string());
        let program = apart(read).unwrap()?;
        Loops::of(program.expression())
    }

    #[test]
    fn common_expressions_are_read_and_what_makes_much_of_little_is_not() {
        for text in [
            "status.conditions.filter(e, e.type == 'Ready').all(e, e.status == 'True')",
            "has(status.phase) && status.phase in ['Up', 'Ready'] && status.n == -1",
            "spec.containers.all(c, status.all.exists(s, s.name == c.name && s.ready))",
            "spec.containers.map(c, c.name).size() == 2 && size({'a': [1, -2]}) == 1",
            "spec.containers.map(c, c.ready, c.name).exists_one(n, n.startsWith('a'))",
            "status.?phase.orValue('') + 'x' == 'x'",
            r"status.name.matches('^\\w+$') && matches(status.ip, '^(\\d{1,3}\\.){3}\\d{1,3}$')",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text));
        }
        for (text, why) in [
            ("a.map(b, a).size() > 0", "map may gather only b"),
            ("a.all(b, a.map(c, b).size() > 0)", "map may gather only c"),
            ("[a, a, a].size() > 0", "constants only"),
            ("a.all(b, [b].size() > 0)", "constants only"),
            ("{'a': a}.size() > 0", "constants only"),
            ("a.all(b, b.all(c, c.all(d, d.all(e, true))))", "more than 3 loops"),
            ("foo(a)", "no function foo"),
            ("data.all(k, k.matches('(\\\\w{50}){4}') || true)", "is too large"),
            ("data.all(k, k.matches(data[k]))", "a pattern in quotes"),
            ("matches(a, 'b' + c)", "a pattern in quotes"),
            ("a.matches('(b')", "(b is no pattern: error: unclosed group"),
            ("Widget{size: 3} == a", "no types"),
        ] {
            assert!(read(text).is_err_and(|said| said.contains(why)), "{text}: {:?}", read(text));
        }
        let patterns: Vec<_> = (0..9).map(|number| format!("a.matches('{number}')")).collect();
        assert!(read(&patterns[1..].join(" || ")).is_ok());
        assert!(read(&patterns.join(" || ")).is_err_and(|said| said.contains("8 patterns")));
        assert!(read(&format!("a{} == ''", " + a".repeat(17))).is_err_and(|said| said.contains("16 sums")));
        assert!(read(&format!("{}true", " ".repeat(2048))).is_err_and(|said| said.contains("2048 bytes")));
    }

    #[test]
    fn depth_does_no_harm() {
        for text in [
            format!("a{}", ".b".repeat(1000)),
            format!("{}a", "!".repeat(2000)),
            vec!["a"; 500].join(" || "),
            "(".repeat(2000),
        ] {
            let _read: Result<Loops, String> = read(&text);
        }
        assert_eq!(apart(|| 1), Some(1));
    }

    #[test]
    fn rounds_and_bytes_are_counted() {
        let list = |count: usize| json!({"items": vec![1; count]});
        let bears = |text: &str, value: &Value| read(text).unwrap().bear([value].into_iter());
        assert!(bears("a.items.all(b, true)", &list(10_000)).is_ok());
        assert!(bears("a.items.all(b, a.items.all(c, true))", &list(200)).is_ok());
        let long = bears("a.items.all(b, a.items.all(c, true))", &list(10_000)).unwrap_err();
        assert!(long.contains("more than the 50000"), "{long}");
        assert!(bears("(a.items + a.items).all(b, true)", &list(30_000)).is_err());
        assert!(bears("a.items.size() == 0", &json!({"items": "x".repeat(300_000)})).is_err());
    }

    /// What is long, compared or matched in each round, counts beside the rounds themselves.
    #[test]
    fn what_each_round_looks_at_is_counted() {
        let bears = |text: &str, value: &Value| read(text).unwrap().bear([value].into_iter());
        let named = |count: usize| vec![json!({"name": "app", "ready": true}); count];
        let common = "a.spec.all(c, a.status.exists(s, s.name == c.name && s.ready))";
        assert!(bears(common, &json!({"spec": named(150), "status": named(150)})).is_ok());
        let keys = |count: usize| (0..count).map(|key| (format!("key-{key:05}"), json!("x"))).collect::<Value>();
        assert!(bears("a.all(k, k.matches('^key-[0-9]+$'))", &keys(5000)).is_ok());
        assert!(
            bears("a.all(k, k.matches('^key-[0-9]+$') || k.matches('x') || k.matches('y'))", &keys(10_000)).is_err()
        );

        let long = json!({"items": vec!["x"; 5000], "text": "x".repeat(100_000)});
        for text in [
            "a.items.all(i, i != 'y')",
            "a.items.all(i, i in ['x', 'y'])",
            "a.text.matches('^x+$') && a.text == a.text",
            "a.items.all(i, i.matches('^x$'))",
        ] {
            assert!(bears(text, &long).is_ok(), "{text}: {:?}", bears(text, &long));
        }
        for text in [
            "a.items.all(i, a.text.matches('x'))",
            "a.items.all(i, a.text.contains('y'))",
            "a.items.all(i, a == a)",
            "a.items.all(i, i in a.items)",
            "a.items.all(i, size(a.text) > 0)",
            "a.items.exists(i, a.text + i == a.text)",
        ] {
            assert!(bears(text, &long).is_err_and(|said| said.contains("compares and matches")), "{text}");
        }
    }
}
