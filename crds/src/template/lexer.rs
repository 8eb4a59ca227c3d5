//! Template text to tokens, by the rules of Go's `text/template/parse`. A lexer is a position: whoever wants to look
//! ahead copies it. Errors quote the template alone, which is no secret.

/// What stands in the template, and on which line.
#[derive(Clone, Copy)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    pub(super) line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    LeftDelimiter,
    RightDelimiter,
    LeftParenthesis,
    RightParenthesis,
    Space,
    Pipe,
    Comma,
    Other,
    Declare,
    Assign,
    Field,
    Variable,
    Identifier,
    Keyword,
    Dot,
    Nil,
    Bool,
    Number,
    Rune,
    Quoted,
    Raw,
    End,
}

/// A template that cannot be read.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) what: String,
}

#[derive(Clone, Copy)]
pub(super) struct Lexer<'t> {
    rest: &'t str,
    line: usize,
    inside: bool,
    parentheses: usize,
}

const KEYWORDS: [&str; 10] = ["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\r' | '\n')
}

fn is_word(char: char) -> bool {
    char == '_' || char.is_alphabetic() || char.is_numeric()
}

/// The text behind a closing delimiter, and whether it trims.
fn closing(text: &str) -> Option<(&str, bool)> {
    let trimmed = text.strip_prefix(is_space).and_then(|rest| rest.strip_prefix("-}}"));
    trimmed.map(|rest| (rest, true)).or_else(|| text.strip_prefix("}}").map(|rest| (rest, false)))
}

impl<'t> Lexer<'t> {
    pub(super) fn new(template: &'t str) -> Self {
        Self { rest: template, line: 1, inside: false, parentheses: 0 }
    }

    pub(super) fn malformed<T>(&self, what: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed { line: self.line, what: what.into() })
    }

    pub(super) fn next(&mut self) -> Result<Token<'t>, Malformed> {
        if self.inside { self.in_action() } else { self.in_text() }
    }

    fn take(&mut self, kind: Kind, bytes: usize) -> Token<'t> {
        let (text, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        let token = Token { kind, text, line: self.line };
        self.skip_to(rest);
        token
    }

    fn skip_to(&mut self, rest: &'t str) {
        let skipped = &self.rest.as_bytes()[..self.rest.len() - rest.len()];
        self.line += memchr::memchr_iter(b'\n', skipped).count();
        self.rest = rest;
    }

    fn in_text(&mut self) -> Result<Token<'t>, Malformed> {
        loop {
            let Some(at) = self.rest.find("{{") else {
                let kind = if self.rest.is_empty() { Kind::End } else { Kind::Text };
                return Ok(self.take(kind, self.rest.len()));
            };
            let (text, action) = self.rest.split_at(at);
            let opened = &action[2..];
            let trims = opened.strip_prefix('-').filter(|rest| rest.starts_with(is_space));
            let kept = if trims.is_some() { text.trim_end_matches(is_space) } else { text };
            if !kept.is_empty() {
                let token = self.take(Kind::Text, kept.len());
                self.skip_to(action);
                return Ok(token);
            }
            self.skip_to(action);
            let inner = trims.map_or(opened, |rest| &rest[1..]);
            let Some(comment) = inner.strip_prefix("/*") else {
                let token = self.take(Kind::LeftDelimiter, 2);
                self.skip_to(inner);
                self.inside = true;
                self.parentheses = 0;
                return Ok(token);
            };
            let Some((_, behind)) = comment.split_once("*/") else {
                return self.malformed("unclosed comment");
            };
            let Some((behind, trims)) = closing(behind) else {
                return self.malformed("comment ends before closing delimiter");
            };
            self.skip_to(if trims { behind.trim_start_matches(is_space) } else { behind });
        }
    }

    fn in_action(&mut self) -> Result<Token<'t>, Malformed> {
        if let Some((behind, trims)) = closing(self.rest) {
            if self.parentheses > 0 {
                return self.malformed("unclosed left paren");
            }
            let token = self.take(Kind::RightDelimiter, self.rest.len() - behind.len());
            if trims {
                self.skip_to(behind.trim_start_matches(is_space));
            }
            self.inside = false;
            return Ok(token);
        }
        let Some(first) = self.rest.chars().next() else {
            return self.malformed("unclosed action");
        };
        let second = self.rest[first.len_utf8()..].chars().next();
        match first {
            _ if is_space(first) => {
                let spaces = self.rest.len() - self.rest.trim_start_matches(is_space).len();
                // The last space may belong to a trimming delimiter.
                let trims = closing(&self.rest[spaces - 1..]).is_some_and(|(_, trims)| trims);
                Ok(self.take(Kind::Space, if trims { spaces - 1 } else { spaces }))
            }
            '=' => Ok(self.take(Kind::Assign, 1)),
            ':' if second == Some('=') => Ok(self.take(Kind::Declare, 2)),
            ':' => self.malformed("expected :="),
            '|' => Ok(self.take(Kind::Pipe, 1)),
            ',' => Ok(self.take(Kind::Comma, 1)),
            '"' => self.quoted('"', Kind::Quoted, "unterminated quoted string"),
            '\'' => self.quoted('\'', Kind::Rune, "unterminated character constant"),
            '`' => match self.rest[1..].find('`') {
                Some(end) => Ok(self.take(Kind::Raw, end + 2)),
                None => self.malformed("unterminated raw quoted string"),
            },
            '$' => self.word(Kind::Variable, 1),
            '.' if !second.is_some_and(|char| char.is_ascii_digit()) => self.word(Kind::Field, 1),
            '.' | '+' | '-' | '0'..='9' => self.number(),
            _ if is_word(first) => self.word(Kind::Identifier, 0),
            '(' => {
                self.parentheses += 1;
                Ok(self.take(Kind::LeftParenthesis, 1))
            }
            ')' => {
                let Some(left) = self.parentheses.checked_sub(1) else {
                    return self.malformed("unexpected right paren");
                };
                self.parentheses = left;
                Ok(self.take(Kind::RightParenthesis, 1))
            }
            ' '..='~' => Ok(self.take(Kind::Other, 1)),
            _ => self.malformed("unrecognized character in action"),
        }
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Result<Token<'t>, Malformed> {
        let mut escaped = false;
        for (at, char) in self.rest.char_indices().skip(1) {
            match char {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if char == quote => return Ok(self.take(kind, at + 1)),
                _ => {}
            }
        }
        self.malformed(unterminated)
    }

    /// A word, behind `prefix` bytes of `.` or `$`, which must end where words end.
    fn word(&mut self, kind: Kind, prefix: usize) -> Result<Token<'t>, Malformed> {
        let rest = self.rest[prefix..].trim_start_matches(is_word);
        let ends = rest.is_empty() || rest.starts_with(|char| is_space(char) || ".,|:)(".contains(char));
        if !ends && !rest.starts_with("}}") {
            return self.malformed("bad character behind a name");
        }
        let word = &self.rest[..self.rest.len() - rest.len()];
        let kind = match word {
            "." => Kind::Dot,
            "nil" => Kind::Nil,
            "true" | "false" => Kind::Bool,
            _ if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => kind,
        };
        Ok(self.take(kind, word.len()))
    }

    fn number(&mut self) -> Result<Token<'t>, Malformed> {
        let mut rest = self.rest.strip_prefix(['+', '-']).unwrap_or(self.rest);
        let mut digits: fn(char) -> bool = |char| char.is_ascii_digit() || char == '_';
        let mut exponent = ['e', 'E'];
        if let Some(based) = rest.strip_prefix('0') {
            if let Some(hexadecimal) = based.strip_prefix(['x', 'X']) {
                (rest, digits, exponent) =
                    (hexadecimal, |char: char| char.is_ascii_hexdigit() || char == '_', ['p', 'P']);
            } else if let Some(octal) = based.strip_prefix(['o', 'O', 'b', 'B']) {
                rest = octal;
            }
        }
        rest = rest.trim_start_matches(digits);
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = fraction.trim_start_matches(digits);
        }
        if let Some(power) = rest.strip_prefix(exponent) {
            let power = power.strip_prefix(['+', '-']).unwrap_or(power);
            rest = power.trim_start_matches(|char: char| char.is_ascii_digit() || char == '_');
        }
        if rest.starts_with(|char| is_word(char) || char == '+' || char == '-') {
            return self.malformed("bad number syntax");
        }
        Ok(self.take(Kind::Number, self.rest.len() - rest.len()))
    }
}
