//! How a value is written so that it looks like its neighbours. Falls back to double quotes, which hold everything.

use granit_parser::ScalarStyle;
use serde_json::Value;

/// What surrounds the value.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// How it would like to be written.
    pub style: ScalarStyle,
    /// Within `{}` or `[]`.
    pub flow: bool,
    /// Before each line of a block scalar.
    pub indent: &'a str,
    pub line_break: &'a str,
    /// A line break follows, which a block scalar needs to end with one.
    pub closed: bool,
    /// What follows the indicator of a block scalar: a comment.
    pub remark: &'a str,
}

/// A scalar, or an empty collection, as text.
pub fn write(value: &Value, look: &Look<'_>) -> String {
    match value {
        Value::String(text) => string(text, look),
        other => other.to_string(),
    }
}

fn string(text: &str, look: &Look<'_>) -> String {
    let Look { style, flow, indent, line_break, closed, remark } = *look;
    let block = |text: &str| !flow && block(text) && (closed || !text.ends_with('\n'));
    match style {
        ScalarStyle::Plain if plain(text, flow) => text.to_owned(),
        ScalarStyle::SingleQuoted if text.chars().all(|c| printable(c) && c != '\n' && c != '\t') => {
            format!("'{}'", text.replace('\'', "''"))
        }
        ScalarStyle::Folded if block(text) && !text.contains('\n') => {
            format!(">-{remark}{line_break}{indent}{text}")
        }
        ScalarStyle::Literal | ScalarStyle::Folded if block(text) => {
            let (body, chomp) = text.strip_suffix('\n').map_or((text, "-"), |body| (body, ""));
            let lines = body.split('\n').map(|line| match line {
                "" => line_break.to_owned(),
                line => format!("{line_break}{indent}{line}"),
            });
            format!("|{chomp}{remark}{}", lines.collect::<String>())
        }
        _ => quoted(text),
    }
}

/// Whether bare words are read back as the same text, by tools of YAML 1.1 and of 1.2.
fn plain(text: &str, flow: bool) -> bool {
    let bare = crds::yaml::to_string(&text).is_ok_and(|written| written.trim_end_matches('\n') == text);
    bare && text.chars().all(|c| printable(c) && !(c == '\n' || flow && ",[]{}".contains(c)))
}

/// Whether a block scalar holds it without an indicator of indentation and with at most one line break at its end.
fn block(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(char::is_whitespace)
        && !text.ends_with("\n\n")
        && text.chars().all(printable)
        && text.split('\n').all(|line| line.is_empty() || !line.trim().is_empty())
}

fn printable(c: char) -> bool {
    c == '\n' || c == '\t' || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
}

/// As JSON writes it; what YAML does not print is escaped as well.
fn quoted(text: &str) -> String {
    let escape = |c: char| if printable(c) { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    Value::from(text).to_string().chars().map(escape).collect()
}
