//! What an expression may cost. CEL has no endless loops, but loops in loops over what is long, lists of lists of all that
//! there is, and depth: the first two are counted before anything is evaluated, the last has a stack of its own. Pure.

use std::thread;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, operators};
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
/// For the deepest expression of that length, and as much again.
const STACK: usize = 16 * 1024 * 1024;

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
    "matches",
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
}

impl Loops {
    /// Looks at an expression, and refuses what could make much of little.
    pub fn of(expression: &IdedExpr) -> Result<Self, String> {
        let mut loops = Self::default();
        loops.look(expression, 0)?;
        if loops.sums > SUMS {
            return Err(format!("more than {SUMS} sums"));
        }
        Ok(loops)
    }

    /// Whether they come to an end in time over these values.
    pub fn bear<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Result<(), String> {
        let (mut longest, mut bytes) = (self.longest, 0);
        values.for_each(|value| measure(value, &mut longest, &mut bytes));
        if bytes > BYTES {
            return Err(format!("the object is larger than the {} kB that an expression looks at", BYTES / 1024));
        }
        let length = longest.saturating_mul(self.sums + 1);
        let (mut rounds, mut each) = (0_usize, 1_usize);
        for count in self.count {
            each = each.saturating_mul(length);
            rounds = rounds.saturating_add(count.saturating_mul(each));
        }
        let is_bearable = rounds <= ROUNDS;
        is_bearable.then_some(()).ok_or_else(|| {
            format!("up to {rounds} rounds over lists of up to {length} are more than the {ROUNDS} that are allowed")
        })
    }

    fn look(&mut self, expression: &IdedExpr, depth: usize) -> Result<(), String> {
        match &expression.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
            Expr::Select(select) => self.look(&select.operand, depth),
            Expr::Call(CallExpr { func_name, target, args }) => {
                if !func_name.starts_with(['_', '-', '!', '@']) && !FUNCTIONS.contains(&func_name.as_str()) {
                    return Err(format!("there is no function {func_name}"));
                }
                self.sums += usize::from(func_name == operators::ADD);
                target.iter().map(AsRef::as_ref).chain(args).try_for_each(|it| self.look(it, depth))
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
            Expr::Comprehension(comprehension) => self.look_into(comprehension, depth),
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

    fn look_into(&mut self, comprehension: &ComprehensionExpr, depth: usize) -> Result<(), String> {
        let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } = comprehension;
        self.look(iter_range, depth)?;
        *self.count.get_mut(depth).ok_or_else(|| format!("more than {DEPTH} loops in each other"))? += 1;
        if !matches!(accu_init.expr, Expr::List(_)) {
            return [accu_init, loop_cond, loop_step, result].into_iter().try_for_each(|it| self.look(it, depth + 1));
        }
        // map and filter: what they gather is a part of what they go through, and no larger than that.
        let (condition, added) = gathered(loop_step).ok_or("a loop that is neither map nor filter gathers nothing")?;
        if !is_part(added, &comprehension.iter_var) {
            return Err(format!("map may gather only {0} and fields of it", comprehension.iter_var));
        }
        condition.map_or(Ok(()), |condition| self.look(condition, depth + 1))
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

/// The length of the longest list or map in a value, and how large it is in all.
fn measure(value: &Value, longest: &mut usize, bytes: &mut usize) {
    *bytes += 8;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => *bytes += text.len(),
        Value::Array(all) => {
            *longest = (*longest).max(all.len());
            all.iter().for_each(|it| measure(it, longest, bytes));
        }
        Value::Object(all) => {
            *longest = (*longest).max(all.len());
            all.iter().for_each(|(name, it)| {
                *bytes += name.len();
                measure(it, longest, bytes);
            });
        }
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
            ("Widget{size: 3} == a", "no types"),
        ] {
            assert!(read(text).is_err_and(|said| said.contains(why)), "{text}: {:?}", read(text));
        }
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
}
